"""What a row of training data says, whichever format it came in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Message = Mapping[str, Any]
"""As `text.chat.render` takes it: `role`, `content`, `tool_calls`; `train` and `weight` say what a turn counts."""
Turns: TypeAlias = str | tuple[Message, ...]
"""A text as it is, or turns that go through the model's chat template."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    weight: float = 1.0
    """What the whole row counts; it multiplies the weights of its turns."""
    place: str = ""
    """Where it was read, such as `chats.jsonl:17`."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """The row's other columns, for rewards and reports."""


@dataclass(frozen=True, kw_only=True)
class Text(_Row):
    """A document: every token is learned."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Dialogue(_Row):
    """Turns of which the assistant's are learned."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Prompt(_Row):
    """What a model is to answer: for generation and rewards."""

    prompt: Turns
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Completion(_Row):
    """A prompt, and the completion that is learned; both are texts or both are turns."""

    prompt: Turns
    completion: Turns
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pair(_Row):
    """Two completions of one prompt, the first of them preferred, by `margin` where it is stated."""

    prompt: Turns
    chosen: Turns
    rejected: Turns
    margin: float | None = None
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def completions(self) -> tuple[Completion, Completion]:
        """The chosen and the rejected one with the prompt."""
        return self._with(self.chosen), self._with(self.rejected)

    def _with(self, completion: Turns) -> Completion:
        return Completion(
            prompt=self.prompt,
            completion=completion,
            tools=self.tools,
            weight=self.weight,
            place=self.place,
            extra=self.extra,
        )


@dataclass(frozen=True, kw_only=True)
class Rated(Completion):
    """A completion that was found good (`label` True) or bad (KTO)."""

    label: bool


@dataclass(frozen=True, kw_only=True)
class Stepwise(_Row):
    """A completion in steps, each found right or wrong (process supervision)."""

    prompt: Turns
    steps: tuple[str, ...]
    labels: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class Tokens(_Row):
    """A document that is tokenised already, and what each token counts as one to be predicted."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


Sample: TypeAlias = Text | Dialogue | Prompt | Completion | Pair | Rated | Stepwise | Tokens


def texts_of(sample: Sample) -> Iterator[str]:
    """What a sample says, without who says it; what is tokenised already says nothing."""
    parts: tuple[Turns, ...] = ()
    match sample:
        case Text():
            parts = (sample.text,)
        case Dialogue():
            parts = (sample.messages,)
        case Prompt():
            parts = (sample.prompt,)
        case Completion():
            parts = (sample.prompt, sample.completion)
        case Pair():
            parts = (sample.prompt, sample.chosen, sample.rejected)
        case Stepwise():
            parts = (sample.prompt, *sample.steps)
    for part in parts:
        if isinstance(part, str):
            yield part
        else:
            yield from (message["content"] for message in part if isinstance(message.get("content"), str))
