"""Training a tokenizer: byte-level BPE (Sennrich et al. 2016; over bytes, Radford et al. 2019, section 2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from modelworks.core.errors import ConfigError, DataError
from modelworks.text.tokenizer import Tokenizer

END_OF_TEXT: Final = "<|endoftext|>"
PAD: Final = "<|pad|>"
CHAT_TOKENS: Final = ("<|im_start|>", "<|im_end|>")

# Every role is written alike; tools and calls are written in the notation that `text.tool_calls` reads as "hermes".
CHATML: Final = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
    {{- 'Functions that can be called, each as a JSON schema:\\n' }}
    {%- for tool in tools %}{{- tool | tojson + '\\n' }}{% endfor %}
    {{- 'A call is <tool_call>{"name": ..., "arguments": {...}}</tool_call>.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (tools and loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n' if message.content or not loop.first }}
            {{- '<tool_call>\\n{"name": ' + call.function.name | tojson + ', "arguments": ' }}
            {{- call.function.arguments | tojson + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] = (),
    chat_template: str | None = CHATML,
    quiet: bool = True,
) -> Tokenizer:
    """A byte-level BPE tokenizer of exactly `vocab_size` tokens, the same for the same texts.

    Any text can be encoded, and decodes to itself. Each digit is a token, which helps small models to calculate. The
    first ids are `<|endoftext|>`, which ends a document, `<|pad|>`, those of ChatML where there is a chat template, and
    `special_tokens`. `Tokenizer.save` writes it as transformers reads it.
    Raises ConfigError for a vocabulary smaller than its bytes and special tokens, DataError for texts too few for it.
    """
    special = list(
        dict.fromkeys([END_OF_TEXT, PAD, *(CHAT_TOKENS if chat_template is not None else ()), *special_tokens])
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(alphabet) + len(special):
        raise ConfigError(
            f"a vocabulary of {vocab_size} is too small: bytes and special tokens take {len(alphabet) + len(special)}"
        )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=not quiet,
    )
    backend.train_from_iterator(texts, trainer)
    if (found := backend.get_vocab_size()) < vocab_size:
        raise DataError(
            f"these texts make a vocabulary of at most {found}, not {vocab_size}: take more text, or a smaller one"
        )
    end, pad = backend.token_to_id(END_OF_TEXT), backend.token_to_id(PAD)
    return Tokenizer(backend, eos_id=end, pad_id=pad, chat_template=chat_template)
