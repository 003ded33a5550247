from __future__ import annotations

from typing import Any

import pytest

from modelworks.agents.approval import Policy
from modelworks.agents.loop import Agent
from modelworks.agents.model import Reply
from modelworks.agents.steps import Answer, Observation
from modelworks.agents.team.handoff import relay
from modelworks.agents.tool import Tool, tool
from modelworks.core.errors import ConfigError

DESCRIPTIONS = {"billing": "Invoices.", "expert": "Machines."}


def to(calls: Any, name: str, reason: str = "yours") -> Reply:
    return calls((f"hand_to_{name}", f'{{"reason": "{reason}"}}'))


def agents(**models: Any) -> list[Agent]:
    return [Agent(model, name=name, instructions=f"You are {name}.") for name, model in models.items()]


@tool(effects=["reads"], isolated=False)
def lookup(number: int) -> str:
    """Look an invoice up."""
    return f"invoice {number} is over 90 euros"


def test_the_next_agent_reads_the_dialogue_and_its_answer_is_the_answer(scripted, calls):
    first = scripted(calls(("lookup", '{"number": 7}')), to(calls, "billing", "a wrong invoice"))
    billing = scripted(Reply("It is mended.", (), 3, 2))
    triage, other = agents(triage=first, billing=billing)
    triage.tools.append(lookup)
    run = relay([triage, other], {"billing": "Invoices."}).run("Invoice 7 is wrong.")
    steps = list(run)
    assert steps[-1] == Answer("It is mended.")
    assert len(first.asked) == 2  # not asked again after it handed on
    system, task = (message["content"] for message in billing.asked[0][0])
    assert system == "You are billing."
    for words in ("User: Invoice 7 is wrong.", "invoice 7 is over 90 euros", "Handed on to you: a wrong invoice"):
        assert words in task
    assert "You are triage." not in task
    assert run.usage.tokens == 2 * 15 + 5
    assert "hand_to_billing" in first.asked[0][1]
    assert [each.name for each in triage.tools] == ["lookup"]  # the agent that was given stays as it was


def test_it_can_be_handed_on_and_on_and_back(scripted, calls):
    models = {
        "triage": scripted(to(calls, "billing"), Reply("back at triage", (), 1, 1)),
        "billing": scripted(to(calls, "expert")),
        "expert": scripted(to(calls, "triage")),
    }
    first = relay(agents(**models), DESCRIPTIONS | {"triage": "All else."})
    assert first.ask("Help.") == "back at triage"


def test_who_is_not_named_gets_nothing(scripted, calls):
    first, billing = scripted(to(calls, "billing")), scripted(Reply("done"))
    relay(agents(triage=first, billing=billing), {"billing": "Invoices."}).ask("Help.")
    assert billing.asked[0][1] == []


def test_handing_on_ends_at_its_cap_with_whoever_has_it_then(scripted, calls):
    ping = scripted(*[to(calls, "pong", str(at)) for at in range(9)])
    pong = scripted(*[to(calls, "ping", str(at)) for at in range(2)], Reply("enough", (), 1, 1))
    first = relay(agents(ping=ping, pong=pong), {"ping": "a", "pong": "b"}, most=3)
    assert first.ask("go") == "enough"
    told = pong.asked[-1][0][-1]["content"]
    assert "handed on 3 times already" in told


def test_whoever_fails_leaves_the_dialogue_where_it_was(scripted, calls):
    first = scripted(to(calls, "billing"), Reply("I will do it myself."))
    billing = scripted(Reply(""), Reply(""), Reply(""))
    run = relay(agents(triage=first, billing=billing), {"billing": "Invoices."}).run("Help.")
    *steps, end = run
    assert end == Answer("I will do it myself.")
    (failed,) = [step for step in steps if isinstance(step, Observation)]
    assert failed.error
    assert "billing did not answer" in failed.content


def test_the_first_agents_policy_holds_for_all(scripted, calls):
    done: list[str] = []

    def pay(text: str) -> str:
        done.append(text)
        return "paid"

    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    money = Tool("pay", "Pay.", schema, pay, frozenset({"money"}), isolated=False)
    first = Agent(scripted(to(calls, "billing")), name="triage", policy=Policy(effects={"money": "never"}))
    billing = Agent(
        scripted(calls(("pay", '{"text": "all"}')), Reply("I may not.")),
        [money],
        name="billing",
        policy=Policy(effects={"money": "always"}),
    )
    assert relay([first, billing], {"billing": "Invoices."}).ask("Pay.") == "I may not."
    assert done == []


def test_agents_must_be_told_apart(scripted):
    one = agents(triage=scripted())
    with pytest.raises(ConfigError, match="at least two agents"):
        relay(one, {})
    with pytest.raises(ConfigError, match="at least two agents"):
        relay(one * 2, {})
    with pytest.raises(ConfigError, match="no agent is called 'cook'"):
        relay(agents(triage=scripted(), billing=scripted()), {"cook": ""})
