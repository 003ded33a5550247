"""From files of training data to shards, and what was dropped on the way and why."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from modelworks.core.errors import DataError
from modelworks.core.lineage import sha256
from modelworks.core.log import Advance, warn_once
from modelworks.core.paths import cache_dir
from modelworks.data.collate import Encoded
from modelworks.data.encode import encode_sample, encode_texts, fit
from modelworks.data.files import DROPS, REPORT, SUFFIXES, Broken, read_rows
from modelworks.data.formats import to_sample
from modelworks.data.sample import Sample, Text
from modelworks.data.shards import Shards, template_digest, tokenizer_digest, write_shards
from modelworks.text.tokenizer import Tokenizer

_VERSION: Final = 1  # of what this module makes of the same input; part of the key of what is cached
_BATCH_CHARACTERS: Final = 1 << 22
_SHOWN_BROKEN: Final = 100


@dataclass(frozen=True, kw_only=True)
class Options:
    """How rows become documents; see `to_sample` and `fit`."""

    max_length: int | None = None
    """The most ids of a document; a longer one is cut, or dropped where nothing to learn would be left."""
    columns: Mapping[str, str] = field(default_factory=dict)
    as_chat: bool = False
    skip_broken: bool = False
    """Pass over rows that are broken or of no known format, and report them; otherwise the first is an error."""


@dataclass(kw_only=True)
class Report:
    """What became of the rows."""

    rows: int = 0
    """Those that are whole and of a known format."""
    documents: int = 0
    tokens: int = 0
    learned: int = 0
    """Tokens that count in the loss."""
    truncated: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """How many samples were left out, by reason."""
    broken: list[Broken] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For the manifest: all counts, and the first of the broken rows."""
        return asdict(self) | {
            "dropped": dict(self.dropped),
            "broken": len(self.broken),
            "first_broken": [asdict(each) for each in self.broken[:_SHOWN_BROKEN]],
        }


def find_files(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The files of training data that a path or several name; of a folder those in it and below, by name.

    What a prepared corpus says of itself is none of them, where its folder is named.

    Raises DataError for a path that does not exist and for a folder without such files.
    """
    found: list[Path] = []
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if path.is_dir():
            names = sorted(inner for inner in path.rglob("*") if inner.is_file())
            inside = [inner for inner in names if _is_data(inner) and not _is_about_a_corpus(inner)]
            if not inside:
                raise DataError(f"{path}: no training data in it ({', '.join(SUFFIXES)}, also .gz and .zst)")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    return found


def _is_data(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _is_about_a_corpus(path: Path) -> bool:
    return path.name in (DROPS, REPORT) and all((path.parent / name).exists() for name in (DROPS, REPORT))


def read_samples(files: Sequence[Path], options: Options, broken: list[Broken]) -> Iterator[Sample]:
    """The samples of files; what is passed over goes into `broken`."""
    for file in files:
        for row in read_rows(file, broken if options.skip_broken else None):
            try:
                yield to_sample(row, columns=options.columns, as_chat=options.as_chat)
            except DataError as error:
                _pass_over(error, options, broken)


def _pass_over(error: DataError, options: Options, broken: list[Broken]) -> None:
    if not options.skip_broken:
        raise error
    place, _, reason = str(error).partition(": ")
    broken.append(Broken(place, reason))


def encode_files(
    files: Sequence[Path], tokenizer: Tokenizer, options: Options, report: Report, advance: Advance | None = None
) -> Iterator[Encoded]:
    """The documents of files in their order; `report` is filled while they come."""
    for encoded in _encoded(read_samples(files, options, report.broken), tokenizer, options, report):
        report.rows += 1
        if advance is not None:
            advance(1)
        fitted = fit(encoded, options.max_length)
        if isinstance(fitted, str):
            report.dropped[fitted] += 1
            continue
        report.truncated += len(fitted.ids) < len(encoded.ids)
        report.documents += 1
        report.tokens += len(fitted.ids)
        report.learned += int(np.count_nonzero(fitted.weights[1:]))
        yield fitted


def _encoded(samples: Iterable[Sample], tokenizer: Tokenizer, options: Options, report: Report) -> Iterator[Encoded]:
    held: list[Text] = []  # texts wait for each other, to be encoded on all cores
    size = 0
    for sample in samples:
        if isinstance(sample, Text):
            held.append(sample)
            size += len(sample.text)
            if size < _BATCH_CHARACTERS:
                continue
        yield from _encoded_texts(tokenizer, held)
        held, size = [], 0
        if not isinstance(sample, Text):
            try:
                encoded = encode_sample(tokenizer, sample)
            except DataError as error:
                _pass_over(error, options, report.broken)
            else:
                yield encoded
    yield from _encoded_texts(tokenizer, held)


def _encoded_texts(tokenizer: Tokenizer, samples: list[Text]) -> Iterator[Encoded]:
    for sample, (ids, weights) in zip(samples, encode_texts(tokenizer, [sample.text for sample in samples])):
        yield Encoded(ids, weights * np.float32(sample.weight))


def tokenize(
    paths: str | Path | Iterable[str | Path],
    tokenizer: Tokenizer,
    out: str | Path,
    options: Options = Options(),
    *,
    advance: Advance | None = None,
) -> Report:
    """Write the documents of files into the folder `out`, which appears whole or not at all (`Shards` opens it).

    Raises DataError for files that are damaged, rows that are broken or of no known format (unless they are passed
    over), and where nothing is left to learn from; ConfigError where `out` holds something else.
    """
    files = find_files(paths)
    report = Report()
    with write_shards(out, tokenizer) as writer:
        for encoded in encode_files(files, tokenizer, options, report, advance):
            writer.add(*encoded)
        if not report.documents:
            reasons = [f"{count} rows: {reason}" for reason, count in report.dropped.items()]
            if report.broken:
                reasons.append(f"{len(report.broken)} rows are broken, the first: {report.broken[0].reason}")
            raise DataError(f"{files[0]}: nothing to train on ({'; '.join(reasons) or 'it holds no rows'})")
        writer.note = {
            "data": {str(file): sha256(file) for file in files},
            "options": asdict(options),
            "report": report.to_json(),
        }
    return report


def cached(
    paths: str | Path | Iterable[str | Path],
    tokenizer: Tokenizer,
    options: Options = Options(),
    *,
    folder: str | Path | None = None,
    advance: Advance | None = None,
) -> Shards:
    """The documents of files as shards, made once for the same data, tokenizer, chat template and options.

    They are kept in `folder`, or in the cache. Of several processes one makes them and the others wait. Raises what
    `tokenize` does.
    """
    from filelock import FileLock

    files = find_files(paths)
    home = Path(folder) if folder is not None else cache_dir() / "tokens"
    target = home / cache_key(files, tokenizer, options)
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f".{target.name}.lock"):
        if target.exists():
            try:
                return Shards(target)
            except DataError as error:
                warn_once(f"{error}; it is made again")
        tokenize(files, tokenizer, target, options, advance=advance)
    return Shards(target)


def cache_key(files: Sequence[Path], tokenizer: Tokenizer, options: Options) -> str:
    """What decides the documents: the files' contents, the tokenizer, its chat template and the options."""
    decides = {
        "version": _VERSION,
        "data": [sha256(file) for file in files],
        "kinds": ["".join(file.suffixes[-2:]).lower() for file in files],
        "tokenizer": tokenizer_digest(tokenizer),
        "template": template_digest(tokenizer),
        "options": asdict(options),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
