"""The first half of a preparation: each part of the input read, cleaned, filtered and sketched, on its own.

A part is a few small files or one large one. What becomes of it lies in a folder of its own, named by a hash of all it
depends on, so that a finished part is not done again, and so that it matters to nothing where or when it was done.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelworks.core.paths import atomic_folder, read_json
from modelworks.data.clean import CLEANERS
from modelworks.data.decontaminate import SHORTEST, Contamination, evaluation_rows
from modelworks.data.dedup import MinHash, Sketcher, StoredSketch
from modelworks.data.filters import judge, judge_language
from modelworks.data.sources import File, Text, Unread, read_texts
from modelworks.data.tally import Drop, Tally

if TYPE_CHECKING:
    from modelworks.data.prepare import Preparation

VERSION = 1
"""Goes up where the same input and recipe give another part."""
BLOCK = 1 << 15
"""Texts whose sketch is held in memory at once: 32 Ki of 700 bytes."""
_PART_BYTES = 64 << 20
_PART_FILES = 1000


@dataclass(frozen=True, slots=True)
class Part:
    """Files that are done as one."""

    files: tuple[File, ...]

    @property
    def root(self) -> str:
        """The path given that they were found under."""
        return self.files[0].root


def split(files: list[File]) -> Iterator[Part]:
    """Parts of at most 64 MiB, unless one file is larger.

    They also end at names whose hash decides so, wherever they begin: a new file changes the part that it is in, and
    not those after it.
    """
    taken: list[File] = []
    size = 0
    for file in files:
        if taken and (file.root != taken[0].root or size > _PART_BYTES or len(taken) >= _PART_FILES):
            yield Part(tuple(taken))
            taken, size = [], 0
        taken.append(file)
        size += file.path.stat().st_size if file.path.exists() else 0
        if zlib.crc32(file.name.encode()) % 256 == 0:
            yield Part(tuple(taken))
            taken, size = [], 0
    if taken:
        yield Part(tuple(taken))


class Block:
    """Up to `BLOCK` texts of a part on disk."""

    def __init__(self, stem: Path) -> None:
        self._stem = stem

    @property
    def sketch(self) -> StoredSketch:
        return StoredSketch(self._stem)

    @cached_property
    def rows_D2(self) -> NDArray[np.int64]:
        """Where each text's line begins, and how many characters the text has."""
        return np.load(self._stem.with_suffix(".rows.npy"))

    def open(self) -> IO[bytes]:
        """The lines: JSON objects with `text`, `source` and `metadata`."""
        return self._stem.with_suffix(".jsonl").open("rb")


class Done:
    """What became of a part."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def tally(self) -> Tally:
        return Tally.from_json(read_json(self._folder / "tally.json"))

    def blocks(self) -> list[Block]:
        return [Block(path.with_suffix("")) for path in sorted(self._folder.glob("*.jsonl"))]

    def drops(self) -> bytes:
        """The texts that were dropped, as lines of JSON."""
        return gzip.decompress((self._folder / "drops.gz").read_bytes())


class Worker:
    """Does parts. One is made in each process: it holds the n-grams of the evaluation sets."""

    def __init__(self, recipe: Preparation, folder: Path) -> None:
        """folder: where the parts go. Raises ConfigError where the recipe names what there is not."""
        self.recipe = recipe
        self.folder = folder
        self._minhash = recipe.minhash
        rows = (row for name in recipe.evaluations for row in evaluation_rows(Path(name)))
        size = recipe.evaluation_ngram
        self.contamination = Contamination(rows, size=size, shortest=min(SHORTEST, size))

    def __call__(self, part: Part) -> None:
        """Do a part, unless it is done."""
        target = self.folder / self.key(part)
        if target.exists():
            return
        tally = Tally()
        with atomic_folder(target) as folder, gzip.open(folder / "drops.gz", "wb") as drops:
            writer = _Writer(folder, self._minhash)
            for item in (item for file in part.files for item in read_texts(file, text_key=self.recipe.text_key)):
                if isinstance(item, Unread):
                    dropped, text = Drop(item.source, "read", item.reason.partition(":")[0], item.reason), ""
                else:
                    tally.keep("read", len(item.text))
                    text, found = self._prepare(item, tally)
                    if found is None:
                        writer.write(text, item)
                        continue
                    dropped = found
                tally.drop(dropped, len(text), text)
                drops.write(json_line(asdict(dropped)))
            writer.close()
            (folder / "tally.json").write_text(json.dumps(tally.to_json()), encoding="utf-8")

    def key(self, part: Part) -> str:
        """The name of the folder of a part: what it is made of, and how."""
        files = []
        for file in part.files:
            status = file.path.stat() if file.path.exists() else None
            files.append((file.name, status and status.st_size, status and status.st_mtime_ns))
        return hashlib.sha256(json.dumps([self._fixed, files]).encode()).hexdigest()[:32]

    @cached_property
    def _fixed(self) -> list[Any]:
        evaluations = [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in self.recipe.evaluations]
        return [VERSION, self.recipe.of_parts(), evaluations]

    def _prepare(self, item: Text, tally: Tally) -> tuple[str, Drop | None]:
        """The text as it shall be, and why it is dropped, if it is."""
        recipe, text = self.recipe, item.text
        for name in recipe.cleaners:
            cleaned = CLEANERS[name](text)
            if cleaned != text:
                tally.change("clean", name)
            text = cleaned
        if not text.strip():
            return item.text, Drop(item.source, "clean", "nothing left")
        tally.keep("clean", len(item.text), len(text))
        if not item.code:
            rejection = judge(text, recipe.filters)
            if rejection is None and recipe.languages:
                rejection = judge_language(text, recipe.languages, recipe.min_language_probability)
            if rejection is not None:
                return text, Drop(item.source, "filter", *rejection)
        tally.keep("filter", len(text))
        if hit := self.contamination.find(text):
            return text, Drop(item.source, "decontaminate", hit.row.rpartition(":")[0], f"{hit.row}: {hit.words}")
        tally.keep("decontaminate", len(text))
        return text, None


def json_line(value: Mapping[str, Any]) -> bytes:
    """A line of JSON Lines in UTF-8; what JSON has no form for, such as a date, becomes its text."""
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"


class _Writer:
    """Writes the blocks of a part."""

    def __init__(self, folder: Path, minhash: MinHash) -> None:
        self._folder = folder
        self._minhash = minhash
        self._count = 0
        self._clear()

    def _clear(self) -> None:
        self._stem = self._folder / f"{self._count:05d}"
        self._lines: IO[bytes] | None = None
        self._rows: list[tuple[int, int]] = []
        self._at = 0

    def write(self, text: str, item: Text) -> None:
        if self._lines is None:
            self._lines = self._stem.with_suffix(".jsonl").open("wb")
            self._sketch = Sketcher(self._minhash)
        line = json_line({"text": text, "source": item.source, "metadata": dict(item.metadata)})
        self._lines.write(line)
        self._rows.append((self._at, len(text)))
        self._at += len(line)
        self._sketch.add(text)
        if len(self._rows) == BLOCK:
            self.close()

    def close(self) -> None:
        if self._lines is None:
            return
        self._lines.close()
        np.save(self._stem.with_suffix(".rows.npy"), np.array(self._rows, np.int64))
        StoredSketch.save(self._sketch.done(), self._stem)
        self._count += 1
        self._clear()
