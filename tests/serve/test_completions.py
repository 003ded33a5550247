"""Texts and ids, continued."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from modelworks.engine.sample import Sampling

URL = "/v1/completions"


def complete(served, prompt: Any, **more: Any) -> Any:
    return served.openai.completions.create(model="echo", prompt=prompt, **{"temperature": 0} | more)


def test_a_text_and_its_ids_are_continued_alike(served) -> None:
    for prompt in ("again|", list(b"again|"), ["again|"], [list(b"again|")]):
        answer = complete(served, prompt)
        assert [(choice.text, choice.finish_reason) for choice in answer.choices] == [("again", "stop")]
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 6)


def test_several_prompts_with_several_answers_each(served) -> None:
    answer = complete(served, ["one|", "three|"], n=2)
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "one"),
        (1, "one"),
        (2, "three"),
        (3, "three"),
    ]
    assert answer.usage.prompt_tokens == len("one|three|")  # a prompt is read once, however many answer it
    chunks = list(complete(served, ["one|", "three|"], n=2, stream=True, stream_options={"include_usage": True}))
    texts = ["", "", "", ""]
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["one", "one", "three", "three"]
    assert chunks[-1].usage.total_tokens == answer.usage.total_tokens


def test_sixteen_tokens_where_nothing_is_said(served) -> None:
    choice = complete(served, "x" * 40).choices[0]
    assert (len(choice.text), choice.finish_reason) == (16, "length")


def test_echo(served) -> None:
    assert complete(served, "so|", echo=True).choices[0].text == "so|so"
    assert complete(served, list(b"so|"), echo=True).choices[0].text == "so|so"
    chunks = complete(served, "so|", echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "so|so"


def test_logprobs_stand_beside_the_text(served) -> None:
    logprobs = complete(served, "abc|", logprobs=2).choices[0].logprobs
    assert logprobs.tokens == ["a", "b", "c"]
    assert logprobs.text_offset == [0, 1, 2]
    assert all(-0.2 < value < 0 for value in logprobs.token_logprobs)
    assert all(len(top) == 2 and max(top, key=top.get) == token for top, token in zip(logprobs.top_logprobs, "abc"))
    told = [chunk.choices[0].logprobs for chunk in complete(served, "abc|", logprobs=2, stream=True)]
    assert [token for each in told if each for token in each.tokens] == ["a", "b", "c"]
    assert [offset for each in told if each for offset in each.text_offset] == [0, 1, 2]
    assert complete(served, "abc|").choices[0].logprobs is None


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [""] * 3000}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": []}, "messages"),
        ({"prompt": ["a"] * 10, "n": 10}, "n"),
    ],
)
def test_a_wrong_field_is_named(served, more: dict[str, Any], param: str) -> None:
    assert served.refused(URL, {"model": "echo", "prompt": "x"} | more)["param"] == param


@pytest.mark.parametrize("prompt", [[999], [-1], [2**40], "", [0] * 5000, "x" * 5000])
def test_a_prompt_that_cannot_be_continued(served, prompt: Any) -> None:
    error = served.refused(URL, {"model": "echo", "prompt": prompt})
    assert error["code"] in ("invalid_value", "context_length_exceeded")
    if len(prompt) == 5000:
        assert "4096" in error["message"]
        assert "5000" in error["message"]
    assert served.stats().running == served.stats().queued == 0


def test_each_adapter_answers_otherwise(adapted) -> None:
    """Whole and as a stream, at once: what the engine gives each alone."""
    expected = {
        name: "".join(
            piece.text for piece in adapted.service.engine.submit("so", Sampling(max_tokens=12), adapter=name)
        )
        for name in ("pirate", "poet", None)
    }
    assert len(set(expected.values())) == 3

    def asked(name: str | None, stream: bool) -> tuple[set[str], str]:
        more = {"model": name or "tiny", "prompt": "so", "max_tokens": 12, "temperature": 0}
        if not stream:
            answer = adapted.openai.completions.create(**more)
            return {answer.model}, answer.choices[0].text
        chunks = list(adapted.openai.completions.create(**more, stream=True))
        return {chunk.model for chunk in chunks}, "".join(chunk.choices[0].text for chunk in chunks)

    calls = [(name, stream) for name in (*expected, *expected) for stream in (False, True)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda call: asked(*call), calls))
    assert found == [({name or "tiny"}, expected[name]) for name, _ in calls]


def test_no_such_adapter(adapted) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'bard' for this here; it is 'tiny' or 'pirate'") as raised:
        adapted.openai.completions.create(model="bard", prompt="so")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
