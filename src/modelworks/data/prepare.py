"""From files to a corpus: `prepare` reads, cleans, filters, decontaminates, de-duplicates, mixes, writes and reports.

What is done to each text alone is done in parts (`parts`), by as many workers as there are; what concerns all texts
follows in one pass over their sketches (`assemble`). The corpus depends on the input and the recipe alone, neither on
the number of workers nor on interruptions.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from modelworks.core.errors import ConfigError, ModelworksError
from modelworks.core.lineage import installed_versions
from modelworks.core.log import progress
from modelworks.core.paths import atomic_folder
from modelworks.data.assemble import Assembly
from modelworks.data.clean import clean
from modelworks.data.decontaminate import SIZE
from modelworks.data.dedup import MinHash
from modelworks.data.files import REPORT
from modelworks.data.filters import check_languages, judge
from modelworks.data.mix import MOST_EPOCHS
from modelworks.data.parts import Done, Worker, split
from modelworks.data.runners import RUNNERS, Runner
from modelworks.data.sources import find_files
from modelworks.data.tally import page
from modelworks.data.write import FORMATS, Format

_KIND = "modelworks corpus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """The recipe of a corpus. Raises ConfigError where a value is out of its range, or names what there is not."""

    text_key: str = "text"
    """The field of JSONL rows, and column of Parquet files, that holds the text."""
    cleaners: tuple[str, ...] = ("encoding", "controls", "nfc", "ligatures", "space")
    """Names of `clean.CLEANERS`, in order."""
    filters: tuple[str, ...] = ("gopher", "gopher-repetition")
    """Names of `filters.FILTERS`; code is not filtered."""
    languages: tuple[str, ...] = ()
    """ISO 639 codes of the languages to keep; all, where there is none."""
    min_language_probability: float = 0.5
    near_duplicates: float | None = 0.8
    """The Jaccard similarity from which two texts are one; None keeps near duplicates."""
    shingle: int = 5
    num_hashes: int = 128
    evaluations: tuple[str, ...] = ()
    """Files of evaluation sets, whose texts must not be in the corpus."""
    evaluation_ngram: int = SIZE
    weights: Mapping[str, float] = field(default_factory=dict)
    """A weight for each path that was given; with none, all texts are kept, in the order of the input."""
    characters: int | None = None
    """The size of a mixture by weights; None makes the largest that repeats nothing."""
    most_epochs: float = MOST_EPOCHS
    format: Format = "jsonl.zst"
    file_bytes: int = 256 << 20
    """Bytes of rows, before compression, from which the next file is begun."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.near_duplicates is not None and not 0 < self.near_duplicates <= 1:
            raise ConfigError(f"near_duplicates is a similarity above 0, up to 1; got {self.near_duplicates}")
        for name in ("shingle", "num_hashes", "evaluation_ngram", "file_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1; got {getattr(self, name)}")
        if self.characters is not None and not self.weights:
            raise ConfigError("characters is the size of a mixture, and there are no weights")
        if self.format not in FORMATS:
            raise ConfigError(f"there is no format {self.format!r}; there are: {', '.join(FORMATS)}")
        clean("", self.cleaners)
        judge("", self.filters)
        check_languages(self.languages)

    @property
    def minhash(self) -> MinHash:
        """What makes the sketches."""
        return MinHash(self.near_duplicates or 1.0, self.shingle, self.num_hashes, self.seed)

    def of_parts(self) -> dict[str, Any]:
        """The fields that decide what becomes of a text on its own."""
        later = ("evaluations", "weights", "characters", "most_epochs", "format", "file_bytes")
        return {name: value for name, value in asdict(self).items() if name not in later}


def prepare(
    paths: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    recipe: Preparation | None = None,
    *,
    workers: int = 1,
    runner: Runner = "local",
    quiet: bool = False,
) -> dict[str, Any]:
    """Prepare a corpus from `paths` in the folder `out`; the report, which is there as `report.json`, too.

    `out` appears whole, or not at all. A run that was stopped goes on where it was: what becomes of the input is kept,
    part by part, in a hidden folder beside `out` until the corpus is written. A run over unchanged input, with the
    same recipe, gives the report of the run before.

    Args:
        paths: files and folders, as `sources.find_files` and `sources.read_texts` take them.
        workers: processes, or the most actors of Ray; on a cluster, all machines must see `paths` and `out`.
        quiet: no progress bar.

    Raises:
        ConfigError: recipe, paths and evaluation sets do not fit together, `out` holds something else, or another run
            is preparing it.
        ModelworksError: no text is left, or the disk is full.
    """
    recipe = recipe or Preparation()
    out = Path(out).absolute()
    _check_folder(out)
    files, unread = find_files(paths, skip=out)
    given = {Path(path).as_posix() for path in paths}
    if recipe.weights and set(recipe.weights) != given:
        odd = sorted(given ^ set(recipe.weights))[0]
        raise ConfigError(f"paths and weights do not match at {odd!r}: with weights, each path has one")
    parts = list(split(files))
    work = out.parent / f".{out.name}.parts"
    try:
        with _alone(work):
            worker = Worker(recipe, work)
            keys = [worker.key(part) for part in parts]
            asked = [keys, [part.root for part in parts], asdict(recipe)]
            key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
            report = _finished(out, key)
            if report is None:
                with progress("preparing", len(files), quiet=quiet) as advance:
                    RUNNERS[runner](worker, parts, workers, advance)
                done = [(part.root, Done(work / name)) for part, name in zip(parts, keys)]
                about = {
                    "kind": _KIND,
                    "key": key,
                    "modelworks": installed_versions()["modelworks"],
                    "recipe": asdict(recipe),
                }
                read = {"inputs": len(files), "evaluation_rows": len(worker.contamination.names)}
                with atomic_folder(out) as scratch:
                    made = about | read | Assembly(recipe, done, unread).write(scratch)
                    written = json.dumps(made, indent=1, ensure_ascii=False)
                    report = json.loads(written)  # as a later run will read it
                    (scratch / REPORT).write_text(written + "\n", "utf-8")
                    (scratch / "report.html").write_text(page(report), "utf-8")
        shutil.rmtree(work)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ModelworksError(
            f"{where}{error.strerror or error}; what is done so far is kept, and the same command goes on from there"
        ) from error
    return report


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and _report(out) is None:
        raise ConfigError(f"{out}: holds something else than a corpus; name another folder")


def _report(out: Path) -> dict[str, Any] | None:
    try:
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and report.get("kind") == _KIND else None


def _finished(out: Path, key: str) -> dict[str, Any] | None:
    """The report of a corpus that is all that is asked for, its files as long as they were."""
    report = _report(out)
    if report is None or report["key"] != key:
        return None
    sizes = {out / file["name"]: file["bytes"] for file in report["files"]}
    return report if all(path.is_file() and path.stat().st_size == size for path, size in sizes.items()) else None


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / "lock", blocking=False):
            yield
    except Timeout:
        raise ConfigError(f"{work}: another run is preparing this corpus; wait for it, or end it") from None
