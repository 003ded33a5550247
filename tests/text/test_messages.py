"""What a message says beyond its text: what it counts in the loss, and roles that few templates know."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from modelworks.text.chat import ChatError, render
from modelworks.text.tokenizer import Tokenizer

CONTROL = ("<|im_start|>", "<|im_end|>")
CHATML = """{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
GENERATION = """{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}"""
IN_TWO = GENERATION.replace(
    "{{ m.content + '<|im_end|>' }}",
    "{{ m.content }}{% endgeneration %}{% generation %}{{ '<|im_end|>' }}",
)
REASONING = CHATML.replace("m.content", "('(' + m.reasoning_content + ')' if m.reasoning_content else '') + m.content")


def tokenizer_of(template: str) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate([*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in CONTROL])
    return Tokenizer(backend, eos_id=1, chat_template=template)


def weighed(template: str, messages: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """The stretches of a dialogue that count, with what they count."""
    tokenizer = tokenizer_of(template)
    rendered = render(tokenizer, messages)
    runs = groupby(zip(rendered.ids, rendered.weights), key=lambda pair: pair[1])
    return [
        (tokenizer.decode([index for index, _ in run], skip_special=False), weight) for weight, run in runs if weight
    ]


def dialogue(*answers: dict[str, Any]) -> list[dict[str, Any]]:
    question = {"role": "user", "content": "q"}
    return [message for answer in answers for message in (question, {"role": "assistant", **answer})]


@pytest.mark.parametrize("template", [CHATML, GENERATION])
def test_turns_count_what_they_say(template: str) -> None:
    """trl#5761: float weights by message."""
    messages = dialogue(
        {"content": "a"},
        {"content": "b", "weight": 0.25},
        {"content": "c", "train": False},
        {"content": "d", "weight": 3, "train": True},
        {"content": "e", "weight": 0},
        {"content": "f", "weight": None, "train": None},
    )
    found = weighed(template, messages)
    assert found == [("a<|im_end|>", 1), ("b<|im_end|>", 0.25), ("d<|im_end|>", 3), ("f<|im_end|>", 1)]
    plain = [{key: message[key] for key in ("role", "content")} for message in messages]
    tokenizer = tokenizer_of(template)
    assert render(tokenizer, messages).ids == render(tokenizer, plain).ids
    assert not any(render(tokenizer, messages, add_generation_prompt=True).weights)


def test_marked_stretches_that_are_no_turns_cannot_be_weighed_singly() -> None:
    assert weighed(IN_TWO, dialogue({"content": "a"})) == [("a<|im_end|>", 1)]
    with pytest.raises(ChatError, match="marks 2 stretches as the assistant's in 1 turns"):
        weighed(IN_TWO, dialogue({"content": "a", "weight": 0.5}))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "assistant", "content": "a", "train": "yes"}, "message 1: its train is 'yes'"),
        ({"role": "assistant", "content": "a", "weight": -0.5}, "message 1: its weight is -0.5"),
        ({"role": "assistant", "content": "a", "weight": float("nan")}, "message 1: its weight is nan"),
        ({"role": "assistant", "content": "a", "weight": 10**400}, "message 1: its weight is 1000"),
        ({"role": "assistant", "content": "a", "weight": True}, "message 1: its weight is True"),
        ({"role": "user", "content": "a", "train": True}, "message 1: train is true, but only the assistant's"),
        ({"role": "thinking", "content": "a"}, "message 1: a thinking message is the last"),
    ],
)
def test_bad_weights_are_named(message: dict[str, Any], said: str) -> None:
    with pytest.raises(ChatError, match=said):
        render(tokenizer_of(CHATML), [{"role": "user", "content": "q"}, message])


def test_a_developer_is_a_system_where_the_template_knows_none() -> None:
    messages = [{"role": "developer", "content": "d"}, {"role": "user", "content": "q"}]
    assert render(tokenizer_of(CHATML), messages).text.startswith("<|im_start|>system\nd<|im_end|>")
    knows = CHATML + "{# developer #}"
    assert render(tokenizer_of(knows), messages).text.startswith("<|im_start|>developer\nd<|im_end|>")


def test_thinking_begins_the_assistants_turn() -> None:
    user, thinking = {"role": "user", "content": "q"}, {"role": "thinking", "content": "hm"}
    answer = {"role": "assistant", "content": "a"}
    assert weighed(CHATML, [user, thinking, answer]) == [("<think>\nhm\n</think>\n\na<|im_end|>", 1)]
    assert weighed(REASONING, [user, thinking, answer]) == [("(hm)a<|im_end|>", 1)]
    both = [user, thinking | {"weight": 0.5}, answer | {"weight": 0.5}]
    assert weighed(CHATML, both) == [("<think>\nhm\n</think>\n\na<|im_end|>", 0.5)]
    with pytest.raises(ChatError, match="message 2: it counts otherwise than its thinking"):
        weighed(CHATML, [user, thinking, answer | {"train": False}])
    with pytest.raises(ChatError, match="message 1: after a thinking message comes the assistant's, not 'user'"):
        weighed(CHATML, [thinking, user])
