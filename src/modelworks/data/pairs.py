"""Preference data to branched rows: two completions of one prompt, or one that is good or bad.

What cannot teach anything is left out and counted by its reason, or is an error by choice: both completions the same,
an empty one, one that is longer than allowed (never cut: a loss that compares wholes would compare fragments), a prompt
without any token, and pairs that the data also has the other way around.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import DataError
from modelworks.data.batch import Batch
from modelworks.data.branches import Branch, Branches, branch_batch
from modelworks.data.collate import Encoded, pad_id_of
from modelworks.data.encode import encode_sample
from modelworks.data.rows import Plan, bucketed, check_sizes
from modelworks.data.sample import Completion, Pair, Rated, Sample, Turns
from modelworks.data.tokenize import Options, Report, find_files, read_samples
from modelworks.text.tokenizer import Tokenizer

SAME: Final = "both completions are the same"
EMPTY: Final = "an empty completion"
TOO_LONG: Final = "longer than max_length"
NO_PROMPT: Final = "a prompt without tokens"
BOTH_WAYS: Final = "the data has it the other way around, too"
OTHER_PROMPT: Final = "no completion of another prompt fits"


class Comparisons:
    """Branched rows by number, held in memory: what `ComparisonRows` orders and `data.stream` batches."""

    def __init__(self, rows: Sequence[Branches], *, pad_id: int, digest: str | None = None) -> None:
        self._rows = list(rows)
        self.pad_id = pad_id
        self._places = np.array([row.places() for row in self._rows], np.int64)
        self.digest = digest or _digest(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Branches:
        return self._rows[index]

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many tokens each of some rows takes."""
        return self._places[indices]

    def with_column(self, name: str, values: NDArray[Any]) -> Comparisons:
        """The same rows, of which each has one more column: its entry of `values`. They are still the same data."""
        pairs = zip(self._rows, values, strict=True)
        rows = [replace(row, columns={**row.columns, name: value}) for row, value in pairs]
        return Comparisons(rows, pad_id=self.pad_id, digest=self.digest)


def _digest(rows: Sequence[Branches]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        parts = [row.prompt, *(part for each in row.completions for part in (each.ids, each.weights))]
        for part in (*parts, *(row.columns[name] for name in sorted(row.columns))):
            digest.update(f"{len(part)} ".encode() + np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class ComparisonRows:
    """`Rows` of comparisons in random order, or in their own where `seed` is None.

    With `bucket` above 0, groups of so many of like length come together, which saves padding.
    """

    comparisons: Comparisons
    seed: int | None = 0
    bucket: int = 0
    window: int = 1024
    masked: bool = True

    def __post_init__(self) -> None:
        check_sizes(window=self.window, bucket=self.bucket + 1)

    @property
    def pad_id(self) -> int:
        return self.comparisons.pad_id

    def identity(self) -> dict[str, Any]:
        sizes = {"seed": self.seed, "bucket": self.bucket, "window": self.window}
        return {"rows": "comparisons", "data": self.comparisons.digest, **sizes}

    def windows(self) -> int:
        return -(-len(self.comparisons) // self.window)

    def plan(self, epoch: int, window: int) -> list[Plan]:
        chosen = bucketed(self.comparisons, self.seed, epoch, window, self.window, self.bucket)
        return [partial(self.comparisons.__getitem__, int(index)) for index in chosen]


def comparison_batch(
    rows: Sequence[Any],
    *,
    pad_id: int,
    length: int | None = None,
    masked: bool = True,
    packed: bool = True,
    whole: bool = False,
) -> Batch:
    """What a stream of `ComparisonRows` collates by; see `branch_batch`.

    Blank rows, which fill a last batch, are left out; columns that a loss expects are there even where no row is.
    """
    if length is not None or not masked:
        raise ValueError("comparisons have a mask, and rows as long as they are")
    found = [row for row in rows if isinstance(row, Branches)]
    batch = branch_batch(found, pad_id=pad_id, packed=packed, whole=whole)
    empty = branch_batch([], pad_id=pad_id)["weights"].flatten()[:0]
    for name in ("pair_weights", "margins", "labels", "reference"):
        batch.setdefault(name, empty)
    return batch


# --- reading ----------------------------------------------------------------------------------------------------------


def read_pairs(
    paths: str | Path | Iterable[str | Path], tokenizer: Tokenizer, options: Options, *, strict: bool = False
) -> tuple[Comparisons, Report]:
    """Pairs of files, each with its weight (`pair_weights`) and margin (`margins`, 0 where none is stated).

    `options.max_length` is for each prompt with one completion. Raises DataError for damaged files, rows that are
    broken or are no pairs (unless `options.skip_broken`), where nothing is left, and with `strict` for the first pair
    that would be left out.
    """
    report = _Reading(paths, options, strict)
    rows: list[Branches] = []
    seen: dict[bytes, list[int]] = {}
    for sample in report.samples(Pair):
        assert isinstance(sample, Pair)
        chosen, rejected = (replace(each, weight=1.0) for each in sample.completions)
        row = _branched(tokenizer, chosen, rejected, options.max_length)
        if isinstance(row, str):
            report.drop(sample, row)
            continue
        columns = {
            "pair_weights": np.array([sample.weight], np.float32),
            "margins": np.array([sample.margin or 0.0], np.float32),
        }
        seen.setdefault(_key(row), []).append(len(rows))
        rows.append(replace(row, columns=columns))
        report.places.append(sample.place)
    for row in rows:
        if (there := seen.get(_key(row))) and (back := seen.get(_key(_turned(row)))):
            for at in (*there, *back):
                report.both_ways(at)
    return report.finish(rows, pad_id_of(tokenizer))


def read_rated(
    paths: str | Path | Iterable[str | Path], tokenizer: Tokenizer, options: Options, *, strict: bool = False
) -> tuple[Comparisons, Report]:
    """Completions that are good or bad (`labels`), each beside that of the next other prompt; a pair gives one of each.

    Arguments and errors are those of `read_pairs`.
    """
    report = _Reading(paths, options, strict)
    found: list[tuple[Encoded, int, Rated]] = []
    for sample in report.samples(Rated, Pair):
        for rated in _rated(sample):
            encoded = _learned(tokenizer, replace(rated, weight=1.0))
            if isinstance(encoded, str):
                report.drop(sample, encoded)
            elif options.max_length is not None and len(encoded.ids) > options.max_length:
                report.drop(sample, TOO_LONG)
            else:
                found.append((encoded, _begins(encoded), rated))
    prompts = [encoded.ids[:begins].tobytes() for encoded, begins, _ in found]
    rows: list[Branches] = []
    for at, (encoded, begins, rated) in enumerate(found):
        other = _other_prompt(at, found, prompts, options.max_length)
        if other is None:
            report.drop(rated, OTHER_PROMPT)
            continue
        theirs, theirs_begins, _ = found[other]
        rows.append(
            Branches(
                prompt=encoded.ids[:begins],
                completions=(_branch(encoded, begins), _branch(theirs, theirs_begins)),
                columns={
                    "pair_weights": np.array([rated.weight], np.float32),
                    "labels": np.array([rated.label], np.float32),
                },
            )
        )
        report.places.append(rated.place)
    return report.finish(rows, pad_id_of(tokenizer))


class _Reading:
    """The samples of files, and what is left out of them."""

    def __init__(self, paths: Any, options: Options, strict: bool) -> None:
        self.files, self._options, self._strict = find_files(paths), options, strict
        self.report = Report()
        self.places: list[str] = []
        self._left_out: set[int] = set()

    def samples(self, *kinds: type) -> Iterator[Sample]:
        for sample in read_samples(self.files, self._options, self.report.broken):
            if not isinstance(sample, kinds):
                wanted = " or ".join(kind.__name__.lower() for kind in kinds)
                raise DataError(f"{sample.place}: a {type(sample).__name__.lower()}, expected a {wanted}")
            self.report.rows += 1
            yield sample

    def drop(self, sample: Sample, reason: str) -> None:
        if self._strict:
            raise DataError(f"{sample.place}: {reason}")
        self.report.dropped[reason] += 1

    def both_ways(self, at: int) -> None:
        if self._strict:
            raise DataError(f"{self.places[at]}: {BOTH_WAYS}")
        self._left_out.add(at)

    def finish(self, rows: list[Branches], pad_id: int) -> tuple[Comparisons, Report]:
        kept = [row for at, row in enumerate(rows) if at not in self._left_out]
        report = self.report
        report.dropped += Counter({BOTH_WAYS: len(self._left_out)} if self._left_out else {})
        report.documents = len(kept)
        report.tokens = sum(row.places() for row in kept)
        report.learned = sum(int(np.count_nonzero(each.weights)) for row in kept for each in row.completions)
        if not kept:
            why = "; ".join(f"{count}: {reason}" for reason, count in report.dropped.items()) or "it holds no rows"
            raise DataError(f"{self.files[0]}: nothing to learn preferences from ({why})")
        return Comparisons(kept, pad_id=pad_id), report


def _branched(tokenizer: Tokenizer, chosen: Completion, rejected: Completion, max_length: int | None) -> Branches | str:
    """Both completions behind the tokens that they have in common before anything is learned."""
    sides: list[Encoded] = []
    for completion in (chosen, rejected):
        encoded = _learned(tokenizer, completion)
        if isinstance(encoded, str):
            return encoded
        sides.append(encoded)
    first, second = sides
    if np.array_equal(first.ids, second.ids):
        return SAME
    if max_length is not None and max(len(first.ids), len(second.ids)) > max_length:
        return TOO_LONG
    most = min(_begins(first), _begins(second))
    differ = np.flatnonzero(first.ids[:most] != second.ids[:most])
    shared = int(differ[0]) if len(differ) else most
    if not shared:
        return NO_PROMPT
    return Branches(first.ids[:shared], tuple(_branch(side, shared) for side in sides))


def _learned(tokenizer: Tokenizer, completion: Completion) -> Encoded | str:
    """The completion with its prompt; or why there is nothing to learn."""
    if _is_empty(completion.completion):
        return EMPTY
    encoded = encode_sample(tokenizer, completion)
    if not encoded.weights[1:].any():
        return EMPTY
    return encoded if _begins(encoded) else NO_PROMPT


def _is_empty(turns: Turns) -> bool:
    if isinstance(turns, str):
        return not turns.strip()
    said = [turn for turn in turns if turn.get("role") == "assistant"]
    return not any(str(turn.get("content") or "").strip() or turn.get("tool_calls") for turn in said)


def _begins(encoded: Encoded) -> int:
    """Where the first token is that is learned."""
    return int(np.flatnonzero(encoded.weights)[0])


def _branch(encoded: Encoded, begins: int) -> Branch:
    return Branch(encoded.ids[begins:], encoded.weights[begins:])


def _rated(sample: Sample) -> Iterator[Rated]:
    if isinstance(sample, Rated):
        yield sample
    else:
        assert isinstance(sample, Pair)
        for completion, label in zip(sample.completions, (True, False)):
            yield Rated(**vars(completion), label=label)


def _other_prompt(
    at: int, found: Sequence[tuple[Encoded, int, Rated]], prompts: Sequence[bytes], max_length: int | None
) -> int | None:
    """The next row of another prompt whose completion fits behind this one's."""
    _, begins, _ = found[at]
    for step in range(1, len(found)):
        other = (at + step) % len(found)
        encoded, theirs_begin, _ = found[other]
        length = begins + len(encoded.ids) - theirs_begin
        if prompts[other] != prompts[at] and (max_length is None or length <= max_length):
            return other
    return None


def _key(row: Branches) -> bytes:
    first, second = row.completions
    return hashlib.sha256(b"|".join(part.tobytes() for part in (row.prompt, first.ids, second.ids))).digest()


def _turned(row: Branches) -> Branches:
    return replace(row, completions=tuple(reversed(row.completions)))
