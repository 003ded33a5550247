"""Which texts hold pieces of evaluation sets: overlap of n-grams of words (Brown et al. 2020, appendix C).

A text is contaminated where it holds 13 words in a row of an evaluation's row, whatever their case and punctuation.
A string of 8 to 12 words must stand in it whole; shorter ones are not looked for, since chance would find them.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import ConfigError
from modelworks.data.ngrams import Hashes, ngram_hashes, normalised, word_hashes

SIZE = 13
SHORTEST = 8


class Hit(NamedTuple):
    """A text's overlap with an evaluation set."""

    row: str
    """The first row hit, such as `gsm8k_test.jsonl:17`."""
    words: str
    """The words in which the two agree first."""


class Contamination:
    """The n-grams of evaluation sets, in sorted arrays: 12 bytes for each."""

    def __init__(self, rows: Iterable[tuple[str, str]], *, size: int = SIZE, shortest: int = SHORTEST) -> None:
        """rows: each row's name and one of its strings. Raises ValueError where not 1 <= shortest <= size."""
        if not 1 <= shortest <= size:
            raise ValueError(f"the shortest string has from 1 to {size} words; got {shortest}")
        self.names: list[str] = []
        self.too_short = 0
        """Strings of fewer than `shortest` words, which are not looked for."""
        grams: dict[int, list[tuple[Hashes, int]]] = {}
        for name, string in rows:
            words_W = word_hashes(string)
            if len(words_W) < shortest:
                self.too_short += 1
                continue
            if not self.names or self.names[-1] != name:
                self.names.append(name)
            length = min(size, len(words_W))
            grams.setdefault(length, []).append((np.unique(ngram_hashes(words_W, length)), len(self.names) - 1))
        self._tables = {length: _table(found) for length, found in sorted(grams.items(), reverse=True)}

    def find(self, text: str) -> Hit | None:
        """Where `text` first agrees with a row, the longest n-grams first; None where it agrees with none."""
        words_W = word_hashes(text)
        for length, (hashes_N, rows_N) in self._tables.items():
            grams_N = ngram_hashes(words_W, length)
            if not len(grams_N):
                continue
            at_N = np.minimum(np.searchsorted(hashes_N, grams_N), len(hashes_N) - 1)
            hits = np.flatnonzero(hashes_N[at_N] == grams_N)
            if len(hits):
                first = int(hits[0])
                return Hit(self.names[rows_N[at_N[first]]], _words_at(text, first, length))
        return None


def _table(found: list[tuple[Hashes, int]]) -> tuple[Hashes, NDArray[np.int32]]:
    hashes_N = np.concatenate([hashes for hashes, _ in found])
    rows_N = np.repeat(np.array([row for _, row in found], np.int32), [len(hashes) for hashes, _ in found])
    hashes_N, first = np.unique(hashes_N, return_index=True)  # of several rows, the first
    return hashes_N, rows_N[first]


def _words_at(text: str, at: int, length: int) -> str:
    return b" ".join(normalised(text).split()[at : at + length]).decode()


def evaluation_rows(path: Path) -> Iterator[tuple[str, str]]:
    """The strings of an evaluation set, each with the name of its row, counted from 1.

    Reads JSONL, a JSON array, CSV and TSV, also with `.gz`; of any other file, each paragraph is a row.

    Raises:
        ConfigError: the file is missing, cannot be read, or holds no row: an evaluation set that is left out by
            mistake would go unnoticed.
    """
    empty, number = True, 0
    try:
        for number, row in enumerate(_rows(path), 1):
            for string in _strings(row):
                empty = False
                yield f"{path.name}:{number}", string
    except (OSError, EOFError, ValueError, RecursionError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        where = f" after row {number}" if number else ""
        raise ConfigError(f"{path}: the evaluation set cannot be read{where}: {reason}") from error
    if empty:
        raise ConfigError(f"{path}: the evaluation set holds no text")


def _rows(path: Path) -> Iterator[Any]:
    data = path.read_bytes()
    names = path.name.lower().split(".")
    if names[-1] == "gz":
        data = gzip.decompress(data)
        names.pop()
    text, suffix = data.decode("utf-8-sig"), names[-1]
    if suffix in ("jsonl", "ndjson"):
        yield from (json.loads(line) if line.strip() else "" for line in text.split("\n"))
    elif suffix == "json":
        rows = json.loads(text)
        yield from rows if isinstance(rows, list) else [rows]
    elif suffix in ("csv", "tsv"):
        yield from csv.reader(io.StringIO(text, newline=""), delimiter="\t" if suffix == "tsv" else ",")
    else:
        yield from text.split("\n\n")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _strings(one)
