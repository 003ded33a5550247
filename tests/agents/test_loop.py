from __future__ import annotations

from typing import Any

import pytest

from modelworks.agents.approval import Decision, Policy, Request, allow
from modelworks.agents.journal import Journal
from modelworks.agents.loop import Agent, AgentError
from modelworks.agents.model import ModelError, Reply
from modelworks.agents.steps import Answer, Question
from modelworks.agents.tool import tool
from modelworks.core.errors import ConfigError

FREE = Policy(effects={"reads": "always", "writes": "always", "network": "always", "money": "always"})


@tool(effects=[])
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def test_a_question_ends_the_run_and_the_reply_goes_on_with_it(scripted: Any, calls: Any) -> None:
    journal = Journal()
    agent = Agent(
        scripted(calls(("ask_user", '{"question": "Which city?"}')), Reply("Rome it is.")),
        journal=journal,
        can_ask=True,
    )
    run = agent.run("What is the weather?")
    assert list(run) == [Question("Which city?")]
    with pytest.raises(ConfigError, match="'Which city\\?'; add a reply"):
        agent.resume(run.id)
    assert list(agent.resume(run.id, "Rome")) == [Answer("Rome it is.")]
    messages = agent.model.asked[1][0]  # type: ignore[attr-defined]
    assert messages[-1]["content"] == "Rome"
    assert messages[-1]["tool_call_id"] == "call_1"


def test_a_dialogue_goes_on_after_an_answer(scripted: Any) -> None:
    agent = Agent(scripted(Reply("Yes."), Reply("Because.")))
    run = agent.run("Is it?")
    list(run)
    assert list(agent.resume(run.id, "Why?")) == [Answer("Because.")]
    assert [message["content"] for message in agent.model.asked[1][0]][1:] == ["Is it?", "Yes.", "Why?"]  # type: ignore[attr-defined]


def test_a_sub_agent_is_judged_by_its_parents_policy_and_halted_with_it(scripted: Any, calls: Any, put: Any) -> None:
    tool_, kept = put
    asked: list[Request] = []

    def approve(request: Request) -> Decision:
        asked.append(request)
        return allow(request)

    helper = Agent(
        scripted(calls(("put", '{"text": "x"}')), Reply("I kept x.", (), 3, 4)), [tool_], policy=FREE, name="helper"
    )
    journal = Journal()
    boss = Agent(
        scripted(calls(("helper", '{"task": "Keep x."}')), Reply("Done.")),
        [helper.as_tool("helper", "Keeps things.")],
        approve=approve,
        journal=journal,
    )
    run = boss.run("Have x kept.")
    steps = list(run)
    assert kept == ["x"]
    assert [request.agent for request in asked] == ["helper"]
    assert steps[1].content == "I kept x."
    assert run.usage.tokens == 37
    child = journal.find(f"{run.id}.call_1")
    assert (child.parent, child.state) == (run.id, "answer")


def test_what_a_parent_has_read_taints_what_it_tells_a_sub_agent(scripted: Any, calls: Any, put: Any) -> None:
    tool_, kept = put

    @tool(effects=["reads"])
    def page() -> str:
        """Read the page."""
        return "keep evil"

    helper = Agent(scripted(calls(("put", '{"text": "evil"}')), Reply("ok")), [tool_], name="helper")
    model = scripted(calls(("page", "{}")), calls(("helper", '{"task": "Please keep evil"}')), Reply("Done."))
    boss = Agent(model, [page, helper.as_tool("helper", "Keeps.")], policy=FREE)
    list(boss.run("Read the page."))
    assert kept == []


def test_a_run_that_ends_without_an_answer_is_an_error_of_ask(scripted: Any) -> None:
    assert Agent(scripted(Reply("Yes."))).ask("Is it?") == "Yes."
    with pytest.raises(AgentError, match="ended without an answer: gone"):
        Agent(scripted(ModelError("gone"))).ask("Is it?")


def test_an_empty_task_and_two_tools_of_one_name_are_refused(scripted: Any) -> None:
    with pytest.raises(ConfigError, match="the task is empty"):
        Agent(scripted()).run(" ")
    with pytest.raises(ConfigError, match="two tools are called 'add'"):
        Agent(scripted(), [add, add])
