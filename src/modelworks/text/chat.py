"""Messages to token ids and loss weights: the one renderer of training, evaluation and serving.

The text is what the model's own Jinja template writes, in a sandbox, with the helpers that templates on the Hugging
Face hub expect. What a message says is text and stays text: the spelling of a control token inside it is rendered as
private characters, which no template looks at and which are turned back after the template's own control tokens are
known. What counts in a loss is what the model has to produce: each assistant turn's content and the token that ends it.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox

from modelworks.core.log import warn_once
from modelworks.text.messages import ChatError as ChatError
from modelworks.text.messages import Message, adapted, checked, plain, sequence_of, strings, take_weight
from modelworks.text.tokenizer import Tokenizer

Span = tuple[int, int]

_PRIVATE: Final = range(0x10FFFD, 0xF0000, -1)  # private use planes 16 and 15, from the end nobody starts at
_GENERATION_TAG: Final = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A dialogue as the model reads it; `weights[i]` is what `ids[i]` counts in a loss, 0 where it is not learned."""

    ids: list[int]
    weights: list[float]
    text: str

    @property
    def loss_mask(self) -> list[bool]:
        """Whether each token is the assistant's to produce and counts."""
        return [weight != 0 for weight in self.weights]


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
) -> Rendered:
    """Render messages with the tokenizer's chat template.

    A message has a `role` and a `content`: a string, or a list of `{"type": "text", "text": ...}`; an assistant's may
    have `tool_calls`, whose `arguments` are an object or its JSON. `tools` are JSON schemas as OpenAI's API states
    them. BOS is there once if the tokenizer adds one, whether or not the template writes it. With a generation prompt
    the dialogue is a prompt, in which nothing is the assistant's to produce any more: the weights are all 0.

    An assistant's tokens count 1, or its `weight`, or 0 with `train` False; all others 0. A `developer` is a `system`
    where the template does not know the role. A `thinking` message is the beginning of the assistant's turn after it.

    Raises `ChatError` for a tokenizer without a template (set `tokenizer.chat_template`), for a malformed message (by
    its index), and with the template's own words where it refuses a dialogue.
    """
    if tokenizer.chat_template is None:
        raise ChatError("no chat template: set tokenizer.chat_template to a Jinja template, or give the prompt as text")
    turns = [checked(index, message) for index, message in enumerate(sequence_of(messages))]
    counts = [take_weight(index, message) for index, message in enumerate(turns)]
    turns, counts = adapted(turns, counts, tokenizer.chat_template)
    private = _Private(tokenizer, turns, tools, tokenizer.chat_template)
    chat = _Chat(tokenizer, private, private.hide(turns), private.hide(plain(tools)) if tools else None)

    hidden, spans = private.unmark(chat.render(len(turns), add_generation_prompt))
    if add_generation_prompt:
        spans = []
    elif not _GENERATION_TAG.search(tokenizer.chat_template):
        spans = chat.assistant_spans(hidden)
    ids, offsets = _encode(tokenizer, private, hidden)
    weights = [0.0] * len(ids)
    for (start, end), count in zip(spans, _counts_of(spans, turns, counts)):
        covered = _tokens_in(offsets, (private.position(hidden, start), private.position(hidden, end)))
        for index in _through_stop(tokenizer, ids, covered):
            weights[index] = count
    if tokenizer.add_bos and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
        ids, weights = [tokenizer.bos_id, *ids], [0.0, *weights]
    return Rendered(ids, weights, private.reveal(hidden))


# --- control tokens in what people wrote ------------------------------------------------------------------------------


class _Private:
    """Stand-ins of one private character each: for control tokens spelled in messages, and for generation marks."""

    def __init__(self, tokenizer: Tokenizer, messages: Any, tools: Any, template: str) -> None:
        texts = [*strings(messages), *strings(tools or ()), template]
        taken = {ord(char) for text in texts if not text.isascii() for char in text if ord(char) >= _PRIVATE.stop}
        free = (chr(code) for code in _PRIVATE if code not in taken)
        self.open, self.close = next(free), next(free)
        self._control = tokenizer.control_pattern
        spelled = dict.fromkeys(found for text in texts[:-1] for found in self._control.findall(text))
        self._char = {token: next(free) for token in spelled}
        self._token = {char: token for token, char in self._char.items()}
        self._any_char = re.compile(f"[{re.escape(''.join(self._token))}]") if self._token else None

    def hide(self, value: Any) -> Any:
        if not self._char:
            return value
        if isinstance(value, str):
            return self._control.sub(lambda found: self._char[found.group()], value)
        if isinstance(value, dict):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        return [self.hide(item) for item in value] if isinstance(value, list) else value

    @property
    def hides(self) -> bool:
        return bool(self._token)

    def reveal(self, text: str) -> str:
        return self._any_char.sub(lambda found: self._token[found.group()], text) if self._any_char else text

    def position(self, hidden: str, at: int) -> int:
        """Where the character `at` of a hidden text stands once it is revealed."""
        return len(self.reveal(hidden[:at])) if self._any_char else at

    def split(self, hidden: str) -> list[str]:
        """The text between control tokens and the tokens themselves, in turns, starting with text."""
        return re.split(f"({self._control.pattern})", hidden)

    def unmark(self, marked: str) -> tuple[str, list[Span]]:
        """Take the marks of generation blocks out of a text; their spans count characters of what is left."""
        pieces, spans, length, opened = [], [], 0, 0
        for piece in re.split(f"([{self.open}{self.close}])", marked):
            if piece == self.open:
                opened = length
            elif piece == self.close:
                spans.append((opened, length))
            else:
                pieces.append(piece)
                length += len(piece)
        return "".join(pieces), spans


# --- the template -----------------------------------------------------------------------------------------------------


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}`: what the assistant produces, put between two marks."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own way to state it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks: list[jinja2.nodes.Expr] = [jinja2.nodes.ContextReference()]
        return jinja2.nodes.CallBlock(self.call_method("_marked", marks), [], [], body).set_lineno(line)

    @staticmethod
    def _marked(context: jinja2.runtime.Context, caller: jinja2.runtime.Macro) -> str:
        opening, closing = context[_MARKS]
        return f"{opening}{caller()}{closing}"


_MARKS: Final = "modelworks_generation_marks"


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As the templates' authors had it: plain JSON, where Jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=64)
def _compiled(template: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise ChatError(f"the chat template is not valid Jinja, line {error.lineno}: {error.message}") from error


class _Chat:
    """A dialogue under its template."""

    def __init__(
        self, tokenizer: Tokenizer, private: _Private, messages: list[dict[str, Any]], tools: list[Any] | None
    ) -> None:
        assert tokenizer.chat_template is not None
        self._template = _compiled(tokenizer.chat_template)
        self._private = private
        self._messages = messages
        now = datetime.datetime.now()  # one moment for all renderings of this dialogue
        self._context: dict[str, Any] = {
            "tools": tools,
            "documents": None,
            "strftime_now": lambda format: now.strftime(format),
            _MARKS: (private.open, private.close),
        }
        for name in ("bos", "eos", "pad", "unk"):
            index = getattr(tokenizer, f"{name}_id")
            if index is not None:
                self._context[f"{name}_token"] = tokenizer.backend.id_to_token(index)
        stops = filter(None, map(tokenizer.backend.id_to_token, sorted(tokenizer.stop_ids)))
        self._stops = re.compile("|".join(map(re.escape, stops)) or r"(?!)")

    def render(self, count: int, add_generation_prompt: bool) -> str:
        """The first `count` messages."""
        try:
            return self._template.render(
                **self._context, messages=self._messages[:count], add_generation_prompt=add_generation_prompt
            )
        except jinja2.TemplateError as error:  # also what a sandbox refuses, and undefined values
            raise ChatError(f"the chat template refuses these messages: {error}") from error
        except (
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            MemoryError,
        ) as error:
            raise ChatError(f"the chat template fails on these messages: {error}") from error

    def assistant_spans(self, full: str) -> list[Span]:
        """What the assistant adds in each of its turns, found by rendering the dialogue up to and through the turn.

        A turn starts where the generation prompt of the dialogue before it ends. It ends with the rendering through the
        turn; or, where a template writes a past turn otherwise than a last one (leaving its reasoning out, say), with
        the first token that ends a turn.
        """
        spans = []
        for index, message in enumerate(self._messages):
            if message["role"] != "assistant":
                continue
            before = self._before(index)
            start = _common(full, before[True])
            if start < _common(full, before[False]):
                raise ChatError(f"message {index}: the chat template writes no recognisable turn for it")
            through = self._private.unmark(self.render(index + 1, False))[0]
            if full.startswith(through):
                end = len(through)
            else:
                stop = self._stops.search(full, start)
                end = stop.end() if stop else len(full)
            if before[True] == before[False]:  # no generation prompt: where a turn has a header, that follows first
                content = full.find(message["content"], start, end)
                if content < 0:
                    content = full.find(message["content"].strip(), start, end)
                if full[start : max(start, content)].strip():
                    start = content
            spans.append((start, end))
        return spans

    def _before(self, index: int) -> dict[bool, str]:
        """The dialogue before a turn, with and without the generation prompt."""
        if index == 0:  # templates may refuse to write no messages at all
            return {True: "", False: ""}
        return {prompt: self._private.unmark(self.render(index, prompt))[0] for prompt in (True, False)}


def _common(left: str, right: str) -> int:
    """The length of the longest common prefix."""
    if left.startswith(right):
        return len(right)
    return next((at for at, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))


def _counts_of(spans: list[Span], messages: list[dict[str, Any]], counts: list[float]) -> list[float]:
    """What each of the assistant's spans counts, one span a turn."""
    of_turns = [count for message, count in zip(messages, counts) if message["role"] == "assistant"]
    if len(of_turns) == len(spans) or not spans:
        return of_turns
    if all(count == 1 for count in of_turns):
        return [1.0] * len(spans)
    raise ChatError(
        f"the chat template marks {len(spans)} stretches as the assistant's in {len(of_turns)} turns, so turns cannot "
        "have weights of their own"
    )


# --- ids and weights --------------------------------------------------------------------------------------------------


def _encode(tokenizer: Tokenizer, private: _Private, hidden: str) -> tuple[list[int], list[Span]]:
    """The ids of a rendered dialogue; offsets count characters of the revealed text."""
    if not private.hides:
        return tokenizer.encode_with_offsets(hidden, parse_special=True)
    ids: list[int] = []
    offsets: list[Span] = []
    at = 0
    for turn, piece in enumerate(private.split(hidden)):
        text = private.reveal(piece)
        if turn % 2:
            ids.append(tokenizer.control_id(piece))
            offsets.append((at, at + len(text)))
        elif text:
            more, spans = tokenizer.encode_with_offsets(text, at_start=at == 0)
            ids += more
            offsets += [(start + at, end + at) for start, end in spans]
        at += len(text)
    return ids, offsets


def _tokens_in(offsets: list[Span], span: Span) -> range:
    """The tokens that cover any character of a span; offsets are in order."""
    covered = [index for index, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    return range(covered[0], covered[-1] + 1) if covered else range(0)


def _through_stop(tokenizer: Tokenizer, ids: list[int], covered: range) -> range:
    """An assistant's tokens through the one that ends the turn, and nothing of what the template writes after it."""
    for index in reversed(covered):
        if ids[index] in tokenizer.stop_ids:
            return range(covered.start, index + 1)
    if covered and covered.stop < len(ids) and ids[covered.stop] in tokenizer.stop_ids:
        return range(covered.start, covered.stop + 1)
    if covered:
        warn_once(
            "the chat template ends no assistant turn with a stop token, so training on it does not teach to stop"
        )
    return covered
