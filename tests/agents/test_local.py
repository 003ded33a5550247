"""The local model against models that say what the test wants, and against random ones that a grammar has to hold."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from modelworks.agents.halt import Halt
from modelworks.agents.local import LocalModel
from modelworks.agents.model import Halted
from modelworks.agents.tool import Tool, tool
from modelworks.core.errors import ConfigError
from modelworks.engine.engine import Engine
from modelworks.models.base import LanguageModel
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.text.bytelevel import BYTE_TO_CHAR
from modelworks.text.tokenizer import Tokenizer
from modelworks.text.tool_calls import ToolCall

END = 256
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SIZES = {
    "model_type": "llama",
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "eos_token_id": END,
    "initializer_range": 0.4,
}


@tool(effects=["reads"])
def weather(city: Literal["Paris", "Rome"], metric: bool) -> str:
    """The weather in a city."""
    return ""


@tool(effects=[])
def clock() -> str:
    """The time."""
    return ""


def byte_tokenizer(template: str = CHATML) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE({char: byte for byte, char in BYTE_TO_CHAR.items()}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_end|>", "<|im_start|>"])
    return Tokenizer(backend, eos_id=END, chat_template=template)


class Saying(LanguageModel):
    """Says a text, byte for byte, whatever it is asked; `pause` is what a step takes."""

    def __init__(self, says: str, pause: float = 0.0) -> None:
        super().__init__()
        self.config = LlamaConfig.from_hf(SIZES)
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.tokenizer = byte_tokenizer()
        self.says, self.pause = says.encode(), pause

    @property
    def context_length(self) -> int:
        return 4096

    def forward(self, ids_BT: torch.Tensor, *, cache: Any = None, last_only: bool = False, **_: Any) -> torch.Tensor:
        time.sleep(self.pause)
        T = 1 if last_only else ids_BT.shape[1]
        held = cache.update(0, *(ids_BT[:, None, :, None].float(),) * 2)[0]
        logits_BTV = torch.zeros(len(held), T, 258)
        for b, ids in enumerate(held[:, 0, :, 0].long().tolist()):
            for t in range(T):
                logits_BTV[b, t, self._next(ids[: len(ids) - T + t + 1])] = 9.0
        return logits_BTV

    def _next(self, ids: list[int]) -> int:
        text = "".join({END: "<E>", END + 1: "<S>"}.get(index, chr(index)) for index in ids)
        said = text.rpartition("<S>assistant\n")[2]
        return self.says[len(said)] if len(said) < len(self.says) else END


@pytest.fixture
def local() -> Iterator[Callable[..., LocalModel]]:
    opened: list[LocalModel] = []

    def make(model: LanguageModel, **settings: Any) -> LocalModel:
        opened.append(LocalModel(model, **settings))
        return opened[-1]

    yield make
    for model in opened:
        model.close()


@pytest.fixture(scope="module")
def random_model() -> Llama:
    torch.manual_seed(0)
    model = Llama(LlamaConfig.from_hf(SIZES)).eval()
    model.tokenizer = byte_tokenizer()
    return model


ASKED = [{"role": "user", "content": "Weather?"}]
PARIS = '{"city":"Paris","metric":true}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'


def test_text_and_calls_are_told_apart(local: Callable[..., LocalModel]) -> None:
    reply = local(Saying(f"I look it up.\n{CALL}\n{NOW}")).reply(ASKED, [weather, clock])
    assert reply.text == "I look it up."
    assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [
        ("weather", json.loads(PARIS)),
        ("clock", {}),
    ]
    assert not reply.cut


def test_no_tool_is_possible_and_none_is_called_where_none_may(local: Callable[..., LocalModel]) -> None:
    reply = local(Saying("No tool does that.")).reply(ASKED, [weather])
    assert (reply.text, reply.calls) == ("No tool does that.", ())
    reply = local(Saying(CALL)).reply(ASKED, [weather], choice="none")
    assert (reply.text, reply.calls) == (CALL, ())


def test_a_call_satisfies_its_schema_whatever_the_model(local: Callable[..., LocalModel], random_model: Llama) -> None:
    model = local(random_model, parallel=False)
    reply = model.reply(ASKED, [weather, clock], choice="required", max_tokens=200)
    (call,) = reply.calls
    assert call.name in ("weather", "clock")
    if call.name == "weather":
        assert set(json.loads(call.arguments)) == {"city", "metric"}
    wrong = CALL.replace("Paris", "Oslo")
    assert local(Saying(wrong), constrained=False).reply(ASKED, [weather]).calls == (
        ToolCall("weather", '{"city": "Oslo", "metric": true}'),
    )
    assert "Oslo" not in str(local(Saying(wrong)).reply(ASKED, [weather], max_tokens=90).calls)


def test_counts_are_exact(local: Callable[..., LocalModel], random_model: Llama) -> None:
    model = local(random_model)
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
    ]
    for tools in ([], [weather, clock]):
        reply = model.reply(messages, tools, max_tokens=3)
        assert reply.prompt_tokens == model.count(messages, tools)
        assert reply.completion_tokens == 3
        assert reply.cut


def test_a_halt_cancels_within_a_second(local: Callable[..., LocalModel]) -> None:
    model = local(Saying("x" * 3000, pause=0.02))
    halt = Halt()
    threading.Timer(0.3, halt.set).start()
    began = time.monotonic()
    with pytest.raises(Halted):
        model.reply(ASKED, max_tokens=3000, halt=halt)
    assert time.monotonic() - began < 1.3
    with pytest.raises(Halted):
        model.reply(ASKED, halt=halt)
    assert model.engine.stats().running == 0


def test_a_schema_that_no_grammar_holds_is_named_with_its_tool(local: Callable[..., LocalModel]) -> None:
    odd = Tool("odd", "", {"type": "object", "properties": {"x": {"$ref": "http://x/y"}}}, print, frozenset())
    empty = Tool("empty", "", {"type": "object", "properties": {}}, print, frozenset())
    model = local(Saying(NOW))
    with pytest.raises(ConfigError, match=r"tool odd: .*\$ref"):
        model.reply(ASKED, [clock, odd])
    assert [call.name for call in model.reply(ASKED, [clock, empty]).calls] == ["clock"]


def test_an_engine_that_was_given_stays_open(random_model: Llama) -> None:
    with Engine(random_model) as engine:
        with LocalModel(engine) as model:
            model.reply(ASKED, max_tokens=2)
        engine.submit("still here").cancel()
    bare = Llama(LlamaConfig.from_hf(SIZES))
    with pytest.raises(ConfigError, match="no tokenizer"):
        LocalModel(bare)
