"""The choices beside the tools."""

from __future__ import annotations

from modelworks.agents.arguments import checked
from modelworks.agents.talk import ASK_USER, NO_TOOL, question
from modelworks.agents.tool import Tool


def test_both_are_calls_without_an_effect() -> None:
    assert checked(NO_TOOL.parameters, {}) == {}
    assert checked(ASK_USER.parameters, {"question": "Which city?"}) == {"question": "Which city?"}
    assert not NO_TOOL.effects | ASK_USER.effects


def test_a_question_names_the_tool_and_what_it_lacks() -> None:
    properties = {"to": {"type": "string", "description": "Whom to write to"}, "text": {"type": "string"}}
    mail = Tool("mail", "Send a mail.", {"type": "object", "properties": properties}, print, frozenset())
    assert question(mail, ["to", "text"]) == "To use mail I need: to (Whom to write to); text"
