from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.agents.memory.working import WorkingMemory, extract, fit, shortened, split, summary_by
from modelworks.agents.model import Message, Reply
from modelworks.core.errors import ContextLengthError

SYSTEM: Message = {"role": "system", "content": "You are careful."}
TASK: Message = {"role": "user", "content": "What does the lease say about dogs?"}


def count(messages: Sequence[Message]) -> int:
    """Four characters are a token, and each message has four of its own."""
    return sum(4 + (len(json.dumps(message, ensure_ascii=False)) + 3) // 4 for message in messages)


def exchange(number: int, result: str = "found", calls: int = 1) -> list[Message]:
    """An assistant's message that calls, and what came of it; ids are those that a small model repeats."""
    names = [f"call_{at}" for at in range(calls)]
    made = [
        {"id": name, "type": "function", "function": {"name": "look", "arguments": json.dumps({"page": number})}}
        for name in names
    ]
    said: Message = {"role": "assistant", "content": f"Page {number}.", "tool_calls": made}
    return [said, *({"role": "tool", "tool_call_id": name, "content": f"{result} {number}"} for name in names)]


def dialogue(exchanges: int, result: str = "found") -> list[Message]:
    return [SYSTEM, TASK, *(message for at in range(exchanges) for message in exchange(at, result))]


def test_what_fits_stays_as_it_is() -> None:
    messages = dialogue(3)
    assert fit(messages, count(messages), count) == messages


def test_the_oldest_exchanges_go_and_notes_take_their_place() -> None:
    messages = dialogue(12, "nothing here " * 6)
    found = fit(messages, 700, count)
    assert count(found) <= 700
    assert found[:2] == [SYSTEM, TASK]
    assert found[-2:] == exchange(11, "nothing here " * 6)
    notes = found[2]
    assert notes["role"] == "user"
    assert '- called look {"page": 0} -> nothing here' in notes["content"]
    assert "ask for nothing" in notes["content"]
    kept = found[3:]
    assert kept == messages[len(messages) - len(kept) :]
    assert 2 < len(kept) < 24


def test_a_large_observation_is_shortened_in_the_middle_and_pushes_nothing_out() -> None:
    huge = exchange(1, "begin " + "x" * 6_000_000 + " end")
    found = fit([SYSTEM, TASK, *exchange(0), *huge], 600, count)
    assert count(found) <= 600
    assert found[:4] == [SYSTEM, TASK, *exchange(0)]
    content = found[-1]["content"]
    assert content.startswith("begin xxx")
    assert content.endswith("x end 1")
    assert "characters left out" in content
    assert len(content) > 800  # what room there is, is used


def test_the_least_that_does_not_fit_is_told_in_numbers() -> None:
    messages = [SYSTEM, {"role": "user", "content": "word " * 500}, *exchange(0)]
    with pytest.raises(ContextLengthError, match=r"take 7\d\d tokens, and there is room for 300: shorten the task"):
        fit(messages, 300, count)
    with pytest.raises(ContextLengthError):
        fit([TASK], 0, count)


def test_arguments_of_a_call_are_never_shortened() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "write", "arguments": json.dumps({"text": "y" * 900})}}
    latest: list[Message] = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "z" * 9000},
    ]
    found = fit([TASK, *latest], 400, count)
    assert found[-2] == latest[0]
    with pytest.raises(ContextLengthError):
        fit([TASK, *latest], 200, count)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([TASK, {"role": "tool", "tool_call_id": "1", "content": "x"}], "message 1: the tool's message '1' answers no"),
        ([TASK, *exchange(0)[:1]], "message 2: the call 'call_0' before it has no answer"),
        ([TASK, *exchange(0, calls=2)[:2], TASK], "message 3: the call 'call_1' before it has no answer"),
    ],
)
def test_orphans_are_the_callers_mistake(messages: list[Message], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        split(messages)


texts = st.text(st.sampled_from('ab \n"é漢🙂'), max_size=60) | st.integers(0, 4000).map("long ".__mul__)


@st.composite
def dialogues(draw: st.DrawFn) -> list[Message]:
    messages: list[Message] = [SYSTEM] if draw(st.booleans()) else []
    messages.append({"role": "user", "content": draw(texts)})
    for _ in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(["call", "call", "text", "user"]))
        if kind != "call":
            messages.append({"role": "assistant" if kind == "text" else "user", "content": draw(texts)})
            continue
        turn = exchange(draw(st.integers(0, 99)), calls=draw(st.integers(1, 3)))
        messages += [turn[0], *({**each, "content": draw(texts)} for each in draw(st.permutations(turn[1:])))]
    return messages


def comes_from(message: Message, original: Message) -> bool:
    if message == original:
        return True
    rest = {key: value for key, value in message.items() if key != "content"}
    is_same = rest == {key: value for key, value in original.items() if key != "content"}
    return is_same and message["role"] == "tool" and "characters left out" in message["content"]


@settings(max_examples=300)
@given(messages=dialogues(), budget=st.integers(0, 1500), slack=st.sampled_from([0.0, 0.25]))
def test_at_any_budget_no_tools_message_is_an_orphan(messages: list[Message], budget: int, slack: float) -> None:
    """Fault 10 (n8n#34125): one trimmed parent, and every later request is a 400."""
    try:
        found = WorkingMemory(slack=slack).fit(messages, budget, count)
    except ContextLengthError:
        head, exchanges = split(messages)
        short = [{**each, "content": ""} if each["role"] == "tool" else each for each in (exchanges or [[]])[-1]]
        assert count([*head, *short]) + sum(40 for each in short if each["role"] == "tool") > budget
        return
    assert count(found) <= budget
    split(found)  # raises for an orphan
    head, exchanges = split(messages)
    assert found[: len(head)] == head
    rest = found[len(head) :]
    if rest and rest[0]["role"] == "user" and rest[0]["content"].startswith("[Notes on earlier messages"):
        rest = rest[1:]
    originals = messages[len(messages) - len(rest) :]
    assert len(rest) >= len((exchanges or [[]])[-1])
    assert all(comes_from(*pair) for pair in zip(rest, originals, strict=True))


def test_a_cut_stays_until_there_is_no_more_room() -> None:
    memory = WorkingMemory(slack=0.3)
    messages, starts = dialogue(0), []
    for at in range(40):
        messages += exchange(at, "nothing here " * 6)
        found = memory.fit(messages, 900, count)
        assert count(found) <= 900
        starts.append(json.dumps(found[:5]))
    changes = sum(before != after for before, after in pairwise(starts))
    assert changes < 15  # of 39: otherwise the beginning was the same, and its cache serves


def test_notes_go_on_from_notes_and_are_written_once_for_a_cut() -> None:
    asked: list[list[Message]] = []

    def summarise(messages: Sequence[Message]) -> str:
        asked.append(list(messages))
        return f"notes {len(asked)}"

    memory = WorkingMemory(summarise)
    messages = dialogue(12, "nothing here " * 6)
    first = memory.fit(messages, 700, count)
    assert memory.fit(messages, 700, count) == first
    assert len(asked) == 1
    memory.fit([*messages, *exchange(12), *exchange(13, "more " * 200)], 700, count)
    assert len(asked) == 2
    assert asked[1][0]["content"].endswith("notes 1")
    assert asked[1][1] not in asked[0]  # what the first notes tell of is not told again


def test_notes_of_extract_pass_through_it() -> None:
    notes = extract(exchange(3, "a dog is allowed"))
    assert notes.splitlines() == ["- assistant: Page 3.", '- called look {"page": 3} -> a dog is allowed 3']
    before = fit(dialogue(12, "nothing here " * 6), 700, count)[2]
    lines = before["content"].splitlines()[1:]
    assert len(lines) > 2
    assert extract([before, *exchange(3, "a dog is allowed")]).splitlines() == [*lines, *notes.splitlines()]


def test_calls_with_the_same_id_in_different_turns_keep_their_own_results() -> None:
    lines = extract([*exchange(1, "one"), *exchange(2, "two")])
    assert '{"page": 1} -> one 1' in lines
    assert '{"page": 2} -> two 2' in lines


@pytest.mark.parametrize(("length", "longest"), [(100, 100), (101, 100), (10_000, 200), (10_000, 48), (10, 0)])
def test_a_shortened_text_says_how_much_is_missing(length: int, longest: int) -> None:
    text = "".join(chr(65 + at % 26) for at in range(length))
    found = shortened(text, longest)
    if length <= longest:
        assert found == text
        return
    assert len(found) <= max(longest, 48)
    begin, rest = found.split("\n[... ")
    left, end = rest.split(" characters left out ...]\n")
    assert text.startswith(begin)
    assert text.endswith(end)
    assert len(begin) + len(end) + int(left.replace(",", "")) == length


class Model:
    """Says one thing, and fits 100 tokens."""

    name, context_length = "small", 300

    def __init__(self, says: str) -> None:
        self.says = says
        self.asked: list[Message] = []

    def count(self, messages: Sequence[Message], tools: Any = ()) -> int:
        return count(messages)

    def reply(self, messages: Sequence[Message], tools: Any = (), **_: Any) -> Reply:
        assert count(messages) <= 280
        self.asked += messages
        return Reply(self.says)


def test_a_model_writes_the_notes_within_its_context() -> None:
    model = Model(" Dogs are allowed. ")
    messages = [*exchange(0, "a" * 5000), *exchange(1, "the end")]
    assert summary_by(model, max_tokens=20)(messages) == "Dogs are allowed."
    assert "the end 1" in model.asked[0]["content"]
    assert summary_by(Model(" "), max_tokens=20)(messages) == extract(messages)
