"""Samples to ids and weights: BOS once, EOS learned, only answers learned, and no answer cut away unnoticed."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelworks.core.errors import DataError
from modelworks.data.collate import Encoded
from modelworks.data.encode import ANSWER_CUT_OFF, NOTHING_TO_LEARN, encode_sample, encode_texts, fit
from modelworks.data.files import FileRow
from modelworks.data.formats import to_sample
from modelworks.data.sample import Text
from modelworks.text.tokenizer import Tokenizer

EOS = "<|endoftext|>"
TOOLS = """{%- if tools %}{{ '<|im_start|>system\\n' + tools | tojson + '<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' + m.content }}
    {%- for call in m.tool_calls or [] %}{{ '<tool_call>' + call.function | tojson + '</tool_call>' }}{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def encoded(tokenizer: Tokenizer, value: dict[str, Any]) -> Encoded:
    return encode_sample(tokenizer, to_sample(FileRow("f:1", value)))


def learned(tokenizer: Tokenizer, document: Encoded) -> list[tuple[str, float]]:
    """The stretches that count as targets, with what they count."""
    runs = groupby(zip(document.ids.tolist(), document.weights.tolist()), key=lambda pair: pair[1])
    return [(tokenizer.decode([i for i, _ in run], skip_special=False), weight) for weight, run in runs if weight]


def whole(tokenizer: Tokenizer, document: Encoded) -> str:
    return tokenizer.decode(document.ids.tolist(), skip_special=False)


TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
CASES: list[tuple[dict[str, Any], list[tuple[str, float]]]] = [
    ({"text": "ab"}, [(f"ab{EOS}", 1)]),
    ({"text": "ab", "weight": 0.5}, [(f"ab{EOS}", 0.5)]),
    ({"prompt": "ab", "completion": "cd"}, [(f"cd{EOS}", 1)]),
    ({"messages": [*TURNS, *TURNS]}, [("Ho<|im_end|>", 1), ("Ho<|im_end|>", 1)]),
    (
        {"messages": [*TURNS, TURNS[0], {**TURNS[1], "weight": 0.5}], "weight": 2},
        [("Ho<|im_end|>", 2), ("Ho<|im_end|>", 1)],
    ),
    ({"messages": [TURNS[0], {**TURNS[1], "train": False}, *TURNS]}, [("Ho<|im_end|>", 1)]),
    ({"instruction": "i", "output": "o"}, [("o<|im_end|>", 1)]),
    ({"prompt": [*TURNS, TURNS[0]], "completion": TURNS[1:]}, [("Ho<|im_end|>", 1)]),
    ({"prompt": "ab", "completion": "cd", "label": True}, [(f"cd{EOS}", 1)]),
    ({"input_ids": [70, 71, 72], "labels": [-100, 71, 72]}, [("de", 1)]),
]


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("bos", [False, True])
def test_what_is_learned_ends_on_its_stop_token(
    case: int, bos: bool, tokenizer: Tokenizer, bos_tokenizer: Tokenizer
) -> None:
    """training.md 4 and 5 (trl#1623, trl#5988): the EOS of a text and of a turn is learned, although the tokenizer
    pads with EOS, and nothing after it is.
    """
    chosen = bos_tokenizer if bos else tokenizer
    value, expected = CASES[case]
    assert learned(chosen, encoded(chosen, value)) == expected


@pytest.mark.parametrize("value", [value for value, _ in CASES if "input_ids" not in value])
def test_bos_is_there_once(value: dict[str, Any], tokenizer: Tokenizer, bos_tokenizer: Tokenizer) -> None:
    """training.md 3 (trl#1400)."""
    with_bos, without = encoded(bos_tokenizer, value), encoded(tokenizer, value)
    assert with_bos.ids.tolist() == [bos_tokenizer.bos_id, *without.ids.tolist()]
    assert with_bos.weights[0] == 0


def test_control_tokens_in_texts_stay_text(tokenizer: Tokenizer) -> None:
    for value in ({"text": EOS}, {"prompt": EOS, "completion": "a"}, {"messages": [{"role": "user", "content": EOS}]}):
        ids = encoded(tokenizer, value).ids.tolist()
        assert 0 not in ids[:-1]


def test_texts_together_are_texts_alone(tokenizer: Tokenizer, bos_tokenizer: Tokenizer) -> None:
    texts = ["a", "", "b c\n", EOS, "ü😀"]
    for chosen in (tokenizer, bos_tokenizer):
        alone = [encode_sample(chosen, Text(text=text)) for text in texts]
        for one, other in zip(encode_texts(chosen, texts), alone, strict=True):
            assert one.ids.tolist() == other.ids.tolist()
            assert one.weights.tolist() == other.weights.tolist()


def test_tools_are_told_by_the_template_or_in_text(tokenizer: Tokenizer) -> None:
    call = {"function": {"name": "f", "arguments": '{"x": 1}'}}
    value = {
        "messages": [TURNS[0], {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "1"}, TURNS[1]],
        "tools": [{"name": "f", "parameters": {}}],
    }
    plain = encoded(tokenizer, value)
    assert "You can call these functions" in whole(tokenizer, plain)
    written = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>'
    assert learned(tokenizer, plain) == [(written, 1), ("Ho<|im_end|>", 1)]
    tokenizer.chat_template = TOOLS
    native = encoded(tokenizer, value)
    assert whole(tokenizer, native).startswith('<|im_start|>system\n[{"type": "function"')
    assert learned(tokenizer, native)[0][0] == '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call><|im_end|>'


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"prompt": "p"}, "f:1: a prompt without a completion"),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "f:1: a pair is for a preference loss"),
        ({"prompt": "p", "completions": ["c"], "labels": [True]}, "f:1: steps that are judged"),
        ({"input_ids": [260]}, "f:1: 260 is no id of this tokenizer's 260"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "thinking", "content": "b"}]},
            "f:1: message 1: a thin",
        ),
    ],
)
def test_what_cannot_be_imitated_is_named(value: dict[str, Any], said: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=said):
        encoded(tokenizer, value)


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_truncation_never_leaves_an_empty_answer(tokenizer: Tokenizer) -> None:
    """training.md 6 (trl#6668, trl#6548): a prompt of 20 with at most 16 is dropped, and one of 15 keeps one token."""
    long = encoded(tokenizer, {"prompt": "p" * 20, "completion": "answer"})
    assert fit(long, 16) == ANSWER_CUT_OFF
    assert fit(long, 20) == ANSWER_CUT_OFF
    cut = fit(long, 21)
    assert isinstance(cut, Encoded)
    assert learned(tokenizer, cut) == [("a", 1)]
    assert fit(long, None) is long
    assert fit(long, len(long.ids)) is long


def test_nothing_to_learn_is_dropped(tokenizer: Tokenizer) -> None:
    for value in (
        {"text": ""},
        {"text": "a", "weight": 0},
        {"prompt": "a", "completion": ""},
        {"messages": TURNS[:1]},
        {"messages": [TURNS[0], {**TURNS[1], "train": False}]},
        {"input_ids": [5]},
        {"input_ids": [5, 6], "labels": [5, -100]},
    ):
        assert fit(encoded(tokenizer, value), None) == NOTHING_TO_LEARN


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0]), min_size=1, max_size=30), st.integers(2, 30))
def test_what_fits_is_a_beginning_with_something_to_learn(weights: list[float], max_length: int) -> None:
    document = Encoded(np.arange(len(weights)), np.array(weights, np.float32))
    fitted = fit(document, max_length)
    if isinstance(fitted, str):
        assert not any(weights[1:max_length])
        assert (fitted == NOTHING_TO_LEARN) == (not any(weights[1:]))
    else:
        assert fitted.ids.tolist() == document.ids.tolist()[:max_length]
        assert fitted.weights[1:].any()
