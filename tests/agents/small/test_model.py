"""Small-model mode as a chat model: it calls, answers, asks, goes on after observations, and hands over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from modelworks.agents.local import LocalModel
from modelworks.agents.model import Reply
from modelworks.agents.small.model import Settings, SmallModel
from modelworks.agents.small.score import Opinion
from modelworks.agents.talk import ASK_USER
from modelworks.agents.tool import Tool
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.retrieval.evidence import Reading
from modelworks.text.bytelevel import BYTE_TO_CHAR
from modelworks.text.tokenizer import Tokenizer

SIZES = {
    "model_type": "llama",
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "eos_token_id": 256,
    "initializer_range": 0.4,
}
TEMPLATE = "{% for m in messages %}{{ m.role + ':' + m.content + '\\n' }}{% endfor %}"


def make(name: str, description: str, required: list[str], **properties: Any) -> Tool:
    schema = {"type": "object", "properties": properties, "required": required}
    return Tool(name, description, schema, print, frozenset())


WEATHER = make(
    "get_weather",
    "Get the weather of a city.",
    ["city"],
    city={"type": "string", "description": "The city"},
    days={"type": "integer"},
)
MAIL = make("send_mail", "Send a mail to a user.", ["user_id"], user_id={"type": "integer"})
TOOLS = [WEATHER, MAIL]


@pytest.fixture(scope="module")
def local() -> Iterator[LocalModel]:
    backend = tokenizers.Tokenizer(models.BPE({char: byte for byte, char in BYTE_TO_CHAR.items()}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_end|>"])
    torch.manual_seed(0)
    model = Llama(LlamaConfig.from_hf(SIZES)).eval()
    model.tokenizer = Tokenizer(backend, eos_id=256, chat_template=TEMPLATE)
    with LocalModel(model, name="tiny") as made:
        yield made


@pytest.fixture(params=[True, False], ids=["scored", "code"])
def small(local: LocalModel, request: pytest.FixtureRequest) -> SmallModel:
    return SmallModel(local, settings=Settings(scored=request.param))


def said(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text} for text in texts]


def calls(reply: Reply) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in reply.calls]


def test_a_call_and_several(small: SmallModel) -> None:
    reply = small.reply(said("Get the weather of the city Rome for 3 days"), TOOLS)
    assert calls(reply) == [("get_weather", {"city": "Rome", "days": 3})]
    assert reply.margin is not None
    assert reply.margin > 0
    reply = small.reply(said("Get the weather of the cities Rome and Oslo"), TOOLS)
    assert calls(reply) == [("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Oslo"})]


def test_no_tool_is_text_and_a_missing_value_is_asked_for(small: SmallModel) -> None:
    reply = small.reply(said("Who wrote the novel?"), TOOLS, max_tokens=4)
    assert reply.calls == ()
    assert reply.completion_tokens > 0
    reply = small.reply(said("Send a mail to the user, please"), [*TOOLS, ASK_USER], choice="required")
    ((name, arguments),) = calls(reply)
    assert name == "ask_user"
    assert "user_id" in arguments["question"]
    alone = small.reply(said("Send a mail to the user, please"), TOOLS, choice="required")
    assert (alone.calls, alone.text) == ((), arguments["question"])  # nobody is there to ask


def test_what_was_called_is_not_called_again_and_observations_bring_values(small: SmallModel) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        *said("Get the weather of the city Rome"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]
    assert small.reply(messages, TOOLS, max_tokens=4).calls == ()
    messages[2]["content"] = "user_id 4711"
    messages[0]["content"] = "Send a mail to the user"
    assert calls(small.reply(messages, [MAIL])) == [("send_mail", {"user_id": 4711})]


def test_a_close_choice_goes_to_the_larger_model(local: LocalModel) -> None:
    class Larger:
        name, context_length = "large", 10

        def count(self, *_: Any) -> int:
            return 0

        def reply(self, *_: Any, **__: Any) -> Reply:
            return Reply("mine")

    make: Callable[[float], SmallModel] = lambda below: SmallModel(  # noqa: E731
        local, larger=Larger(), settings=Settings(escalate_below=below, scored=False)
    )
    asked = said("Get the weather of the city Rome")
    assert make(100.0).reply(asked, TOOLS).text == "mine"
    assert make(0.0).reply(asked, TOOLS).calls


def test_the_margin_and_the_choice_hear_the_model(local: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = said("Get the weather of the city Rome")
    by_code = SmallModel(local, settings=Settings(scored=False)).reply(asked, TOOLS)
    says = {"get_weather": 0.0, "send_mail": 0.0, "no_tool": 1.0, "ask_user": 0.0}
    told: list[list[str]] = []

    def names(self: Opinion, names: list[str]) -> dict[str, float]:
        told.append(names)
        return {name: says[name] for name in names}

    monkeypatch.setattr(Opinion, "names", names)
    small = SmallModel(local, settings=Settings(opinion=0.5))
    reply = small.reply(asked, TOOLS)
    assert reply.calls == by_code.calls
    assert by_code.margin is not None
    assert reply.margin == pytest.approx(by_code.margin - 0.5)
    assert told[0][-2:] == ["no_tool", "ask_user"]
    says["no_tool"] = 1000.0
    assert small.reply(asked, TOOLS, max_tokens=2).calls == ()
    assert small.reply(asked, TOOLS, choice="required").calls == by_code.calls


def test_a_tool_that_code_had_not_planned_can_be_the_model_s_choice(
    local: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    climate = make("get_climate", "Get the climate of a city.", ["city"], city={"type": "string"})
    monkeypatch.setattr(Opinion, "names", lambda _, names: {name: 1000.0 * (name == "get_climate") for name in names})
    small = SmallModel(local, settings=Settings(kept=0.1))
    reply = small.reply(said("Get the weather of the city Rome"), [WEATHER, climate])
    assert calls(reply) == [("get_climate", {"city": "Rome"})]


def test_asking_the_user_is_no_tool_among_others(small: SmallModel) -> None:
    """An agent that may ask lists `ask_user` with its tools; its words are not matched with the request's."""
    reply = small.reply(said("Ask the user for something that is missing"), [*TOOLS, ASK_USER], max_tokens=4)
    assert reply.calls == ()


def test_examples_are_shown_the_most_like_ones(local: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    prompt_ids = local.prompt_ids
    monkeypatch.setattr(
        local, "prompt_ids", lambda messages, tools: shown.append(messages) or prompt_ids(messages, tools)
    )
    examples = [
        [*said(text), {"role": "assistant", "content": "", "tool_calls": []}]
        for text in ("Play a song", "The weather of the city Oslo", "Weather in Turin", "Add two numbers")
    ]
    model = SmallModel(local, examples=examples, settings=Settings(shots=1))
    model.reply(said("Get the weather of the city Rome"), TOOLS)
    assert [message["content"] for message in shown[0]] == [
        "The weather of the city Oslo",
        "",
        "Get the weather of the city Rome",
    ]


def test_tools_that_a_request_may_be_about(local: LocalModel) -> None:
    small = SmallModel(local)
    assert [tool.name for tool in small.offered(said("Get the weather of the city Rome"), TOOLS)] == ["get_weather"]
    assert small.offered(said("Who wrote the novel?"), TOOLS) == []
    assert small.count(said("hello"), TOOLS) == local.count(said("hello"), TOOLS)
    assert (small.name, small.context_length) == ("tiny", 4096)


def test_a_fallback_takes_the_request_as_it_is_where_no_tool_is_meant_and_once(local: LocalModel) -> None:
    search = make("search_documents", "Search the documents.", ["query"], query={"type": "string"})
    model = SmallModel(local, fallback="search_documents", settings=Settings(needed=100.0))
    asked = [{"role": "user", "content": "Who signed the lease?"}]
    (call,) = model.reply(asked, [*TOOLS, search], max_tokens=4).calls
    assert (call.name, json.loads(call.arguments)) == ("search_documents", {"query": "Who signed the lease?"})
    spent = model.reply(asked, [*TOOLS, search], max_tokens=4)
    assert spent.prompt_tokens > 0  # of the opinion that no tool is meant
    assert spent.completion_tokens > 0
    made = {"id": "1", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    told = [
        *asked,
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "1", "content": "Ann did."},
    ]
    assert model.reply(told, [*TOOLS, search], max_tokens=4).calls == ()
    assert model.reply(asked, TOOLS, max_tokens=4).calls == ()


def test_a_fallback_that_is_meant_takes_the_request_where_nothing_in_it_is_its_value(local: LocalModel) -> None:
    """ "Search the documents for how many desks there are" got a question back: what to look for."""
    search = make("search_documents", "Search the documents.", ["query"], query={"type": "string"})
    nothing = lambda _, passages, spans: [[Reading(a, b, -20.0) for a, b in spans[0]]]  # noqa: E731
    said = "Search the documents for how many desks the office has"
    settings = Settings(needed=-100.0, scored=False)
    model = SmallModel(local, read=nothing, fallback="search_documents", settings=settings)
    (call,) = model.reply([{"role": "user", "content": said}], [search, ASK_USER], max_tokens=4).calls
    assert (call.name, json.loads(call.arguments)) == ("search_documents", {"query": said})
    model = SmallModel(local, read=nothing, settings=settings)
    (call,) = model.reply([{"role": "user", "content": said}], [search, ASK_USER], max_tokens=4).calls
    assert call.name == ASK_USER.name


def test_an_answer_quotes_what_was_observed(local: LocalModel) -> None:
    """A model of 135 million weights, told 209, answers 31."""

    def told(content: str) -> str:
        made = {"id": "1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
        messages = [
            {"role": "user", "content": "Who signed the lease?"},
            {"role": "assistant", "content": "", "tool_calls": [made]},
            {"role": "tool", "tool_call_id": "1", "content": content},
        ]
        return SmallModel(local, settings=Settings(needed=100.0, quotes=1)).reply(messages, TOOLS, max_tokens=4).text

    assert told(" 209 ") == "209"
    passages = (
        "[1] rent.md, page 2, characters 10-300\n"
        "The rent is due on the first day of each month. It is paid to the bank.\n- late rent costs ten more\n\n"
        "[2] lease.md, page 1, characters 0-90\n## Signatures\n"
        "The lease was signed\nby Ann Lee on Monday. It ends in a year, unless both parties agree to prolong it before."
    )
    assert told(passages) == "The lease was signed by Ann Lee on Monday. [2]"


def test_with_no_quotes_the_model_words_the_answer(local: LocalModel) -> None:
    messages = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"name": "s", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "Ann"},
    ]
    model = SmallModel(local, settings=Settings(needed=100.0, quotes=0))
    assert model.reply(messages, TOOLS, max_tokens=3).completion_tokens > 0
