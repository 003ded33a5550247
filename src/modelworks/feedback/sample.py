"""Comparisons made: prompts that models answer twice, and pairs that others have published."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Final

from modelworks.core.errors import ConfigError, ContextLengthError
from modelworks.core.log import Advance
from modelworks.data.sample import Completion, Dialogue, Pair, Prompt, Sample, Stepwise, Turns
from modelworks.engine.engine import Engine
from modelworks.engine.handle import Handle, join
from modelworks.engine.row import Piece
from modelworks.engine.sample import Sampling
from modelworks.feedback.store import Answer, Comparison, Judgement, Store

_IN_FLIGHT: Final = 32  # prompts, each with two answers


@dataclass(frozen=True, slots=True)
class Answerer:
    """A model that answers, under the reference by which the store remembers it."""

    model: str
    engine: Engine


@dataclass(kw_only=True)
class Sampled:
    """What became of the prompts."""

    prompts: int = 0
    added: int = 0
    known: int = 0
    """Answered by the same models in the same way before, or with the same two answers."""
    identical: int = 0
    """Whose two answers were the same at every try."""
    empty: int = 0
    """Of which one answer said nothing at every try."""
    too_long: int = 0
    """That do not fit a model's context together with an answer."""
    without_prompt: int = 0
    """Samples that are no question to anybody: plain texts and tokens."""
    retried: int = 0
    """Further tries, of two answers each."""

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(kw_only=True)
class Imported:
    """What became of the pairs."""

    pairs: int = 0
    added: int = 0
    known: int = 0
    """In the store already, from these files or before, and preferred alike."""
    contradictory: int = 0
    """In the store already, the other answer being preferred."""
    identical: int = 0
    """Whose chosen and rejected answers are the same."""
    no_pair: int = 0
    """Samples of other kinds."""

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def prompt_of(sample: Sample) -> Turns | None:
    """What a sample asks: of a dialogue, all before the last turn of the assistant. None for one that asks nothing."""
    match sample:
        case Dialogue():
            turns = sample.messages
            last = max((at for at, turn in enumerate(turns) if turn["role"] == "assistant"), default=len(turns))
            return turns[:last] or None
        case Prompt() | Completion() | Pair() | Stepwise():
            return sample.prompt or None
    return None


@dataclass(slots=True)
class _Asked:
    """A prompt on its way to two answers; one that cannot be used is asked for again."""

    prompt: Turns
    source: str
    tries: int = 0
    answers: tuple[Answer, Answer] | None = None


def sample_comparisons(
    store: Store,
    samples: Iterable[Sample],
    answerers: tuple[Answerer, Answerer],
    sampling: Sampling,
    *,
    count: int | None = None,
    wanted: int = 1,
    retries: int = 3,
    seed: int = 0,
    advance: Advance | None = None,
) -> Sampled:
    """Have the prompts of samples answered twice and add what differs to the store, each as soon as it is there.

    `count` prompts are taken. Answers that are identical or empty are asked for again, up to `retries` times, with
    other seeds. Every answer has a seed of its own, made of `seed`, the prompt and the try, so that a run that was
    interrupted goes on where it was: what is in the store is not asked for again.

    Raises ConfigError where one model would say the same twice, temperature 0, and what `Engine.submit` raises.
    """
    if answerers[0] == answerers[1] and sampling.greedy:
        raise ConfigError("temperature is 0, at which one model gives the same answer twice; raise it, or name two")
    report = Sampled()
    known = {_recipe(each.prompt, each.first, each.second) for each in store.comparisons()}

    def fresh() -> Iterator[_Asked]:
        for sample in samples:
            prompt = prompt_of(sample)
            if prompt is None:
                report.without_prompt += 1
                continue
            if report.prompts == count:
                return
            report.prompts += 1
            asked = _Asked(prompt, sample.place)
            if any(recipe in known for recipe in recipes(prompt)):
                report.known += 1
            else:
                yield asked

    def recipes(prompt: Turns) -> Iterator[bytes]:
        for tries in range(retries + 1):
            seeded = (_seeded(sampling, seed, _Asked(prompt, "", tries), side) for side in (0, 1))
            yield _recipe(prompt, *map(_blank, answerers, seeded))

    todo: Iterable[_Asked] = fresh()
    for attempt in range(retries + 1):
        again: list[_Asked] = []
        for asked in _answered(todo, answerers, sampling, seed):
            if advance is not None and not attempt:
                advance(1)
            if asked.answers is None:
                report.too_long += 1
                continue
            first, second = asked.answers
            if _says_nothing(first) or _says_nothing(second) or first.turns == second.turns:
                again.append(asked)
                continue
            (index,) = store.add(
                [Comparison(prompt=asked.prompt, first=first, second=second, source=asked.source, wanted=wanted)]
            )
            report.added += index > 0
            report.known += index == 0
        if attempt < retries:
            report.retried += len(again)
        todo = again
    for asked in todo:
        assert asked.answers is not None
        if any(map(_says_nothing, asked.answers)):
            report.empty += 1
        else:
            report.identical += 1
    return report


def _answered(
    todo: Iterable[_Asked], answerers: tuple[Answerer, Answerer], sampling: Sampling, seed: int
) -> Iterator[_Asked]:
    """Each with its next answers, in order, while others are on their way. Not `answer_all`: that one ends at a prompt
    that is too long."""
    flying: deque[tuple[_Asked, list[tuple[Sampling, Handle]] | None]] = deque()
    todo = iter(todo)
    while True:
        for asked in islice(todo, _IN_FLIGHT - len(flying)):
            seeded = [_seeded(sampling, seed, asked, side) for side in (0, 1)]
            flying.append((asked, _submitted(asked.prompt, answerers, seeded)))
        if not flying:
            return
        asked, handles = flying.popleft()
        if handles is not None:
            first, second = (
                _said(asked.prompt, answerer, chosen, join(list(handle)))
                for answerer, (chosen, handle) in zip(answerers, handles, strict=True)
            )
            asked.answers = first, second
            asked.tries += 1
        yield asked


def _submitted(
    prompt: Turns, answerers: tuple[Answerer, Answerer], samplings: list[Sampling]
) -> list[tuple[Sampling, Handle]] | None:
    try:
        return [
            (sampling, answerer.engine.submit(prompt, sampling))
            for answerer, sampling in zip(answerers, samplings, strict=True)
        ]
    except ContextLengthError:
        return None


def _seeded(sampling: Sampling, seed: int, asked: _Asked, side: int) -> Sampling:
    text = json.dumps([seed, asked.prompt, side, asked.tries], sort_keys=True)
    return replace(sampling, seed=int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1)


def _said(prompt: Turns, answerer: Answerer, sampling: Sampling, piece: Piece) -> Answer:
    turns: Turns = piece.text if isinstance(prompt, str) else ({"role": "assistant", "content": piece.text},)
    return replace(_blank(answerer, sampling), turns=turns, finish_reason=piece.finish_reason or "")


def _blank(answerer: Answerer, sampling: Sampling) -> Answer:
    default = asdict(Sampling())
    stated = {name: value for name, value in asdict(sampling).items() if value != default[name]}
    return Answer(turns="", model=answerer.model, sampling=_plain(stated))


def _plain(sampling: dict[str, Any]) -> dict[str, Any]:
    """As JSON holds it, so that what is read back is equal."""
    plain: dict[str, Any] = json.loads(json.dumps(sampling))
    return plain


def _recipe(prompt: Turns, *answers: Answer) -> bytes:
    """By whom and how a prompt is answered."""
    how = [[answer.model, answer.sampling] for answer in answers]
    return hashlib.sha256(json.dumps([prompt, how], sort_keys=True).encode()).digest()


def _says_nothing(answer: Answer) -> bool:
    text = answer.turns if isinstance(answer.turns, str) else answer.turns[-1]["content"]
    return not text.strip()


def import_pairs(store: Store, samples: Iterable[Sample], *, wanted: int = 1, judged_by: str | None = None) -> Imported:
    """Add pairs of chosen and rejected answers to the store as comparisons, to be judged anew; all of them or none.

    With `judged_by`, what the data says is kept as a judgement of an annotator of that name, with which people's can be
    compared; it does not count as one that is wanted. Raises ConfigError for a name that is none.
    """
    report = Imported()
    with store.together():
        for sample in samples:
            _import(store, sample, wanted, judged_by, report)
    return report


def _import(store: Store, sample: Sample, wanted: int, judged_by: str | None, report: Imported) -> None:
    if not isinstance(sample, Pair):
        report.no_pair += 1
        return
    report.pairs += 1
    if sample.chosen == sample.rejected:
        report.identical += 1
        return
    made = Comparison(
        prompt=sample.prompt,
        first=Answer(turns=sample.chosen),
        second=Answer(turns=sample.rejected),
        source=sample.place,
        wanted=wanted + (judged_by is not None),
    )
    (index,) = store.add([made])
    if not index:
        before = store.find(made)
        assert before is not None
        if before.first.turns == sample.chosen:
            report.known += 1
        else:
            report.contradictory += 1
        return
    report.added += 1
    if judged_by is not None:
        store.judge(Judgement(comparison=index, annotator=judged_by, choice="first"))
