from __future__ import annotations

import pytest

from modelworks.agents.model import ModelError, Reply
from modelworks.agents.planning.form import fill, form
from modelworks.core.errors import ConfigError
from modelworks.text.tool_calls import ToolCall

COLOUR = form(
    "colour",
    "Name a colour.",
    {"type": "object", "properties": {"name": {"enum": ["red", "blue"]}}, "required": ["name"]},
)
ASK = [{"role": "user", "content": "Which?"}]


def called(arguments: str, name: str = "colour") -> Reply:
    return Reply("", (ToolCall(name, arguments),))


def test_the_function_must_be_called_and_its_arguments_satisfy_the_schema(scripted, watched):
    model = watched(scripted(called('{"name": "blue"}')))
    assert fill(model, ASK, COLOUR, lambda found: found["name"]) == "blue"
    assert (model.tools, model.choices) == ([COLOUR], ["required"])


def test_the_model_is_told_what_is_wrong_and_tries_again(scripted):
    def not_red(found: dict[str, str]) -> str:
        if found["name"] == "red":
            raise ConfigError("red is taken")
        return found["name"]

    model = scripted(
        Reply("I like blue."),
        called('{"name": "green"}'),
        called("{half"),
        called('{"name": "red"}'),
        called('{"name": "blue"}'),
    )
    assert fill(model, ASK, COLOUR, not_red, tries=5) == "blue"
    told = [messages[-1]["content"] for messages, _ in model.asked[1:]]
    for words, message in zip(("no call of 'colour'", "'green' is not one of", "not JSON", "red is taken"), told):
        assert words in message
    assert model.asked[1][0][-2] == {"role": "assistant", "content": "I like blue."}
    # Only the last try is shown: a small model's context holds no history of failures.
    assert [len(messages) for messages, _ in model.asked] == [1, 3, 3, 3, 3]


def test_a_model_that_never_does_is_an_error_that_says_why(scripted):
    model = scripted(*[Reply("blue", cut=True)] * 2)
    with pytest.raises(ModelError, match=r"scripted did not fill in 'colour' in 2 tries: .* cut at 9 tokens"):
        fill(model, ASK, COLOUR, dict, tries=2, max_tokens=9)
