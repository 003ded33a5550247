from __future__ import annotations

from typing import Any

import pytest

from modelworks.agents.journal import Journal
from modelworks.agents.limits import Limits, Meter
from modelworks.agents.loop import Agent
from modelworks.agents.model import Reply
from modelworks.agents.state import State
from modelworks.agents.tool import Result, tool


@tool(effects=["reads"], isolated=False)
def look(place: str) -> Result:
    """Look at a place."""
    return Result(f"{place} is empty", frozenset({f"{place}.txt"}))


@pytest.fixture
def journal(scripted: Any, calls: Any) -> Journal:
    journal = Journal()
    model = scripted(
        calls(("look", '{"place": "b"}'), ("look", '{"place": "a"}'), ("nothing", "{"), text="I look."),
        Reply(" "),
        Reply("Both are empty.", (), 30, 6),
    )
    Agent(model, [look], journal=journal, instructions="Be brief.").ask("Look at a and b.")
    return journal


def _replayed(journal: Journal, most: int | None = None) -> State:
    state = State({"look": look}, Meter(Limits()))
    state.replay(list(journal.entries())[:most])
    return state


def test_a_state_of_the_entries_is_what_the_run_knew(journal: Journal) -> None:
    state = _replayed(journal)
    assert [(message["role"], message["content"]) for message in state.messages()] == [
        ("system", "Be brief."),
        ("user", "Look at a and b."),
        ("assistant", "I look."),
        ("tool", "b is empty"),
        ("tool", "a is empty"),
        ("tool", "there is no tool 'nothing'; there are: look"),
        ("assistant", ""),
        ("user", "You wrote nothing. Call a tool, or answer the task in words."),
        ("assistant", "Both are empty."),
    ]
    assert state.answered == "Both are empty."
    assert state.taint.origins == {"a.txt", "b.txt"}
    assert state.meter.usage.tool_calls == 2
    assert state.meter.usage.tokens == 15 + 36
    assert state.waiting == []


def test_what_was_malformed_is_told_as_valid_json(journal: Journal) -> None:
    calls = _replayed(journal).messages()[2]["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == ['{"place":"b"}', '{"place":"a"}', '{"unparsed":"{"}']


def test_at_every_entry_each_call_has_a_message_and_the_waiting_are_those_without_result(journal: Journal) -> None:
    for most in range(1, len(list(journal.entries())) + 1):
        state = _replayed(journal, most)
        messages = state.messages()
        called = [call["id"] for message in messages for call in message.get("tool_calls", ())]
        assert [message["tool_call_id"] for message in messages if message["role"] == "tool"] == called
        done = {entry.body["call"] for entry in list(journal.entries())[:most] if entry.kind == "result"}
        assert {call.id for call in state.waiting} == set(called) - done
