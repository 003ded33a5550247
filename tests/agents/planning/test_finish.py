from __future__ import annotations

from typing import Any

from modelworks.agents.model import Reply
from modelworks.agents.planning.finish import Finishing
from modelworks.agents.tool import Tool
from modelworks.text.tool_calls import ToolCall

SEARCH = Tool("search", "", {"type": "object"}, dict, frozenset())
ASK = [{"role": "user", "content": "2+2?"}]


def said(scripted: Any, *calls: tuple[str, str], text: str = "") -> Reply:
    reply = Reply(text, tuple(ToolCall(*call) for call in calls), 10, 5)
    return Finishing(scripted(reply)).reply(ASK, [SEARCH])


def test_it_must_call_a_tool_or_finish(scripted, watched):
    model = watched(scripted(Reply("", (ToolCall("search", "{}"),))))
    assert Finishing(model).reply(ASK, [SEARCH]).calls == (ToolCall("search", "{}"),)
    assert ([tool.name for tool in model.tools], model.choices) == (["search", "finish"], ["required"])


def test_to_finish_is_to_answer(scripted):
    assert said(scripted, ("finish", '{"answer": "It is 4."}')) == Reply("It is 4.", (), 10, 5)


def test_an_answer_beside_calls_does_not_end_it(scripted):
    found = said(scripted, ("search", "{}"), ("finish", '{"answer": "early"}'))
    assert (found.calls, found.text) == ((ToolCall("search", "{}"),), "")


def test_prose_in_place_of_a_choice_is_an_answer(scripted):
    """As from a model that no grammar holds."""
    assert said(scripted, text="It is 4.").text == "It is 4."


def test_a_finish_that_is_no_call_is_taken_as_it_stands(scripted):
    assert said(scripted, ("finish", "{half")).text == "{half"
    assert said(scripted, ("finish", '{"answer": [4]}')).text == "[4]"


def test_half_a_call_is_no_answer(scripted):
    half = Reply('<tool_call>{"name": "finish", "argu', (), 10, 5, cut=True)
    assert Finishing(scripted(half)).reply(ASK, [SEARCH]).text == ""


def test_it_cannot_finish_before_it_has_looked(scripted, watched):
    model = watched(scripted(*[Reply("", (ToolCall("search", "{}"),))] * 3))
    deciding = Finishing(model, least=1)
    earlier = [*ASK, {"role": "tool", "content": "of an earlier task", "tool_call_id": "1"}]
    for messages, finishes in ((ASK, False), ([*earlier, *ASK], False), ([*earlier, *ASK, earlier[-1]], True)):
        deciding.reply(messages, [SEARCH])
        assert ("finish" in [tool.name for tool in model.tools]) == finishes


def test_without_tools_it_is_asked_as_it_is(scripted, watched):
    model = watched(scripted(Reply("4")))
    assert Finishing(model).reply(ASK).text == "4"
    assert (model.tools, model.choices) == ([], ["auto"])
    assert Finishing(model).count(ASK) == 1
