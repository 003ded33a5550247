from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from modelworks.agents.approval import Decision, Desk, Policy, Request, allow, deny
from modelworks.agents.tool import Tool, call_digest
from modelworks.core.errors import ConfigError


def _tool(*effects: Any, name: str = "act") -> Tool:
    return Tool(name, "", {"type": "object"}, lambda: None, frozenset(effects))


@pytest.mark.parametrize(
    ("tool", "tainted", "rule"),
    [
        (_tool(), False, "always"),
        (_tool(), True, "always"),
        (_tool("reads"), True, "always"),
        (_tool("writes"), False, "ask"),
        (_tool("reads", "money"), False, "ask"),
        (_tool("writes", name="free"), False, "always"),
        (_tool("writes", name="free"), True, "ask"),
        (_tool("reads", name="shut"), False, "never"),
    ],
)
def test_a_rule_goes_by_name_then_effects_and_taint_makes_it_stricter(tool: Tool, tainted: bool, rule: str) -> None:
    assert Policy(tools={"free": "always", "shut": "never"}).rule(tool, tainted) == rule


def test_an_effect_that_is_not_named_is_asked_about() -> None:
    assert Policy(effects={"reads": "always"}).rule(_tool("money")) == "ask"
    assert Policy(effects={"writes": "never", "reads": "always"}).rule(_tool("reads", "writes")) == "never"


@pytest.mark.parametrize("fields", [{"tools": {"a": "sometimes"}}, {"effects": {"write": "ask"}}, {"tainted": "maybe"}])
def test_a_policy_of_no_known_rule_or_effect_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="policy: "):
        Policy(**fields)


def _request(call: str = "call_1") -> Request:
    tool = _tool("writes")
    return Request("run", call, "agent", tool, {"a": 1}, call_digest(tool, {"a": 1}), "it writes")


def _asked(desk: Desk, request: Request) -> tuple[threading.Thread, list[Decision]]:
    said: list[Decision] = []
    thread = threading.Thread(target=lambda: said.append(desk(request)), daemon=True)
    thread.start()
    while request not in desk.open():
        time.sleep(0.005)
    return thread, said


def test_a_desk_waits_for_a_decision_on_the_very_request() -> None:
    desk, request = Desk(), _request()
    thread, said = _asked(desk, request)
    assert desk.open("run") == [request]
    assert desk.open("other") == []
    assert not desk.decide("run", "call_1", Decision(True, "another digest"))
    assert not desk.decide("run", "call_2", allow(request))
    assert desk.decide("run", "call_1", allow(request, by="Ada"))
    thread.join(5)
    assert said == [Decision(True, request.digest, by="Ada")]
    assert not desk.decide("run", "call_1", deny(request))
    assert desk.open() == []


def test_a_halt_ends_the_wait_as_a_refusal() -> None:
    desk, request = Desk(), _request()
    thread, said = _asked(desk, request)
    request.halt.set()
    thread.join(5)
    assert [decision.allow for decision in said] == [False]
