from __future__ import annotations

import threading
from typing import Any

import pytest

from modelworks.agents.approval import Policy, allow
from modelworks.agents.journal import Journal
from modelworks.agents.limits import Limits
from modelworks.agents.loop import Agent
from modelworks.agents.model import Reply
from modelworks.agents.steps import Answer, Observation, Stop
from modelworks.agents.team.roles import CODER, WRITER, Role
from modelworks.agents.team.supervisor import supervisor
from modelworks.agents.tool import Tool, tool
from modelworks.core.errors import ConfigError


def finish(calls: Any, answer: str) -> Reply:
    return calls(("finish", f'{{"answer": "{answer}"}}'))


class Choosing:
    """A scripted model that keeps what it could choose from, and whether it had to."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.name, self.context_length, self.count = model.name, model.context_length, model.count
        self.offered: list[tuple[list[str], str]] = []

    def reply(self, messages: Any, tools: Any = (), *, choice: Any = "auto", **options: Any) -> Reply:
        self.offered.append(([each.name for each in tools], choice))
        return self._model.reply(messages, tools, choice=choice, **options)


def written(done: list[str]) -> Tool:
    @tool(name="write_note", effects=["writes"], isolated=False)
    def write_note(text: str) -> str:
        """Write."""
        done.append(text)
        return "written"

    return write_note


def test_it_must_choose_a_member_or_finish_and_members_see_their_task_alone(scripted, calls):
    boss = scripted(
        calls(("coder", '{"task": "17 * 3?"}')), calls(("writer", '{"task": "Say 51."}')), finish(calls, "51")
    )
    coder, writer = scripted(Reply("51", (), 3, 1)), scripted(Reply("It is 51.", (), 3, 1))
    watched = Choosing(boss)
    run = supervisor(watched, [CODER.agent(coder), WRITER.agent(writer)]).run("What is 17 * 3?")
    steps = list(run)
    assert steps[-1] == Answer("51")
    assert [step.content for step in steps if isinstance(step, Observation)] == ["51", "It is 51."]
    assert watched.offered == [(["coder", "writer", "finish"], "required")] * 3
    assert [message["content"] for message in writer.asked[0][0]] == [WRITER.instructions, "Say 51."]
    assert run.usage.tokens == 3 * 15 + 2 * 4  # the members' tokens are the team's


def test_members_that_do_not_wait_for_each_other_work_at_the_same_time(scripted, calls):
    together = threading.Barrier(2, timeout=10)

    class Meets(type(scripted())):
        def reply(self, *_: Any, **__: Any) -> Reply:
            together.wait()
            return Reply("here")

    members = [Agent(Meets([]), name=name) for name in ("a", "b")]
    boss = scripted(calls(("a", '{"task": "x"}'), ("b", '{"task": "y"}')), finish(calls, "both"))
    assert supervisor(boss, members, descriptions={"a": "A.", "b": "B."}).ask("go") == "both"


def test_a_members_call_is_judged_by_the_supervisors_policy_and_approver(scripted, calls, tmp_path):
    """A member's own rules, which would let it do anything, do not hold."""
    done: list[str] = []
    asked = []

    def approve(request: Any) -> Any:
        asked.append((request.agent, request.tool.name, dict(request.arguments)))
        return allow(request)

    def team(**options: Any) -> Agent:
        member = scripted(calls(("write_note", '{"text": "hello"}')), Reply("done"))
        writer = WRITER.agent(member, [written(done)], policy=Policy(effects={"writes": "always"}))
        boss = scripted(calls(("writer", '{"task": "Write hello."}')), finish(calls, "ok"))
        return supervisor(boss, [writer], **options)

    assert team(policy=Policy(effects={"writes": "never"})).ask("Write.") == "ok"
    assert team().ask("Write.") == "ok"  # nobody is there to be asked
    assert done == []
    with Journal(tmp_path / "journal.db") as journal:
        agent = team(approve=approve, journal=journal)
        run = agent.run("Write.")
        list(run)
        kinds = [entry.kind for entry in journal.entries(f"{run.id}.call_1")]
    assert (done, asked) == (["hello"], [("writer", "write_note", {"text": "hello"})])
    assert {"intent", "result", "decision"} <= set(kinds)  # in the supervisor's journal


def test_a_halt_and_caps_hold_for_members(scripted, calls):
    halting = threading.Event()

    class Waits(type(scripted())):
        def reply(self, *_: Any, halt: Any = None, **__: Any) -> Reply:
            halting.set()
            assert halt.wait(30)
            from modelworks.agents.model import Halted

            raise Halted("halted")

    boss = scripted(calls(("coder", '{"task": "x"}')))
    run = supervisor(boss, [CODER.agent(Waits([]))]).run("go")
    threading.Thread(target=lambda: halting.wait(30) and run.halt()).start()
    last = list(run)[-1]
    assert isinstance(last, Stop)
    assert last.why == "halted"

    many = scripted(*[calls(("coder", f'{{"task": "x{at}"}}')) for at in range(9)])
    run = supervisor(many, [CODER.agent(scripted(*[Reply("1")] * 9))], limits=Limits(steps=3)).run("go")
    last = list(run)[-1]
    assert isinstance(last, Stop)
    assert last.why == "steps"


def test_members_must_be_told_apart(scripted):
    model = scripted()
    with pytest.raises(ConfigError, match="at least one member"):
        supervisor(model, [])
    with pytest.raises(ConfigError, match="'cook' is in no known role"):
        supervisor(model, [Role("cook", "", "").agent(model)])
    with pytest.raises(ConfigError, match="two tools are called 'coder'"):
        supervisor(model, [CODER.agent(model), CODER.agent(model)])
