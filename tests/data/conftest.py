"""Prose that every filter keeps; a small byte-level tokenizer with a chat template; documents; tiny models."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from modelworks.data.shards import MemoryDocuments, Shards, write_shards
from modelworks.text.tokenizer import Tokenizer

WORDS = (
    "the of and to that with have be river stone winter market letter garden window morning village bridge carpenter "
    "harvest lantern kitchen mountain journey picture doctor teacher station feather blanket silver autumn orchard"
).split()
CONTROL = ("<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
CHATML = """{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def byte_tokenizer(*, bos: bool = False, chat_template: str | None = CHATML) -> Tokenizer:
    """One token a byte, after the control tokens: counts in tests are counts of characters."""
    vocabulary = {token: index for index, token in enumerate([*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in CONTROL])
    if bos:
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    return Tokenizer(backend, bos_id=0 if bos else None, eos_id=0, pad_id=0, stop_ids=[3], chat_template=chat_template)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return byte_tokenizer()


@pytest.fixture
def bos_tokenizer() -> Tokenizer:
    return byte_tokenizer(bos=True)


def numbered(lengths: Sequence[int], *, start: int = 10) -> MemoryDocuments:
    """Documents whose ids count upwards without repeating, so that each token says where it is from."""
    ends = start + np.cumsum(lengths)
    return MemoryDocuments([(np.arange(end - n, end), np.ones(n)) for n, end in zip(lengths, ends)])


@pytest.fixture
def make_documents() -> Callable[..., MemoryDocuments]:
    return numbered


@pytest.fixture
def make_shards(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Shards]:
    """Shards of documents of the given lengths; ids count upwards, modulo the vocabulary."""

    def make(lengths: Sequence[int], *, shard_tokens: int = 1 << 20, folder: Path | None = None) -> Shards:
        folder = folder or tmp_path_factory.mktemp("shards") / "made"
        with write_shards(folder, byte_tokenizer(), shard_tokens=shard_tokens) as writer:
            at = 0
            for length in lengths:
                writer.add(np.arange(at, at + length) % 260)
                at += length
        return Shards(folder)

    return make


@pytest.fixture(scope="session")
def prose() -> Callable[..., str]:
    """`prose(seed)`: sentences of ten words each, none of them twice, by a seed of their own."""

    def make(seed: int, sentences: int = 12) -> str:
        draw = random.Random(seed)
        lines = [" ".join(draw.choices(WORDS, k=10)).capitalize() + "." for _ in range(sentences)]
        return "The people of the town have to be heard.\n" + "\n".join(lines)

    return make
