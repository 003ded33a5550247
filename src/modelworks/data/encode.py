"""Samples to ids and loss weights, by the renderer that evaluation and serving use, `text.chat`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from modelworks.core.errors import DataError
from modelworks.data.collate import Encoded
from modelworks.data.sample import Completion, Dialogue, Message, Prompt, Sample, Stepwise, Text, Tokens
from modelworks.text.chat import ChatError, render
from modelworks.text.tokenizer import Tokenizer
from modelworks.text.tool_calls import native_notation, told_in_text

NOTHING_TO_LEARN: Final = "nothing to learn"
ANSWER_CUT_OFF: Final = "answer beyond max_length"


def encode_sample(tokenizer: Tokenizer, sample: Sample) -> Encoded:
    """A sample's ids, and what each counts as a token to be predicted.

    A text and a completion that is a text end with EOS, which counts; BOS is put once, where the tokenizer adds one.
    Prompt and completion are encoded apart, as the prompt is when a model answers it. Of turns the assistant's count,
    each through its stop token. Raises DataError for a sample that cannot be learned from by imitation (a bare prompt,
    a pair: take one of its `completions`), for ids beyond the vocabulary, and where the chat template refuses.
    """
    if isinstance(sample, Tokens):
        if any(index >= tokenizer.vocab_size for index in sample.ids):
            raise DataError(f"{sample.place}: {max(sample.ids)} is no id of this tokenizer's {tokenizer.vocab_size}")
        ids, weights = list(sample.ids), list(sample.weights)
    elif isinstance(sample, Text):
        (ids, weights) = _completed(tokenizer, "", sample.text)
    elif isinstance(sample, Dialogue):
        ids, weights = _rendered(tokenizer, sample.messages, sample.tools, sample.place)
    elif isinstance(sample, Stepwise):
        raise DataError(f"{sample.place}: steps that are judged are for a process reward model, not to be imitated")
    elif isinstance(sample, Prompt):
        raise DataError(f"{sample.place}: a prompt without a completion has nothing to imitate")
    elif not isinstance(sample, Completion):
        raise DataError(f"{sample.place}: a pair is for a preference loss, not to be imitated")
    elif isinstance(sample.prompt, str):
        assert isinstance(sample.completion, str)
        ids, weights = _completed(tokenizer, sample.prompt, sample.completion)
    else:
        assert not isinstance(sample.completion, str)
        prompt = [_unlearned(message) for message in sample.prompt]
        ids, weights = _rendered(tokenizer, [*prompt, *sample.completion], sample.tools, sample.place)
    return Encoded(np.array(ids, np.int64), np.array(weights, np.float32) * np.float32(sample.weight))


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Encoded]:
    """`encode_sample` for many texts at once, on all cores."""
    rows = (_ended(tokenizer, [], row) for row in tokenizer.encode_batch(texts, add_special=False))
    return [Encoded(np.array(ids, np.int64), np.array(weights, np.float32)) for ids, weights in rows]


def fit(encoded: Encoded, max_length: int | None) -> Encoded | str:
    """The document cut to `max_length` ids; or why it is dropped: a sequence with no token to learn teaches nothing,
    whether it never had one or loses the answer to the cut.
    """
    if not encoded.weights[1:].any():
        return NOTHING_TO_LEARN
    if max_length is None or len(encoded.ids) <= max_length:
        return encoded
    cut = Encoded(encoded.ids[:max_length], encoded.weights[:max_length])
    return cut if cut.weights[1:].any() else ANSWER_CUT_OFF


def _completed(tokenizer: Tokenizer, prompt: str, completion: str) -> tuple[list[int], list[float]]:
    before = tokenizer.encode_with_offsets(prompt)[0] if prompt else []
    after = tokenizer.encode_with_offsets(completion, at_start=not prompt)[0]
    return _ended(tokenizer, before, after)


def _ended(tokenizer: Tokenizer, before: list[int], after: list[int]) -> tuple[list[int], list[float]]:
    """BOS, what is read, what is learned, EOS."""
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        before = [tokenizer.bos_id, *before]
    if after and tokenizer.eos_id is not None:
        after = [*after, tokenizer.eos_id]
    return [*before, *after], [*[0.0] * len(before), *[1.0] * len(after)]


def _rendered(
    tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], place: str
) -> tuple[list[int], list[float]]:
    if native_notation(tokenizer) is None:
        messages, tools = told_in_text(messages, [tool["function"] for tool in tools]), ()
    try:
        rendered = render(tokenizer, messages, tools=tools or None)
    except ChatError as error:
        raise DataError(f"{place}: {error}") from error
    return rendered.ids, rendered.weights


def _unlearned(message: Message) -> Message:
    return {**message, "train": False}
