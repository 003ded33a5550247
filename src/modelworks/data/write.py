"""The files of a corpus: numbered JSON Lines, plain or compressed, or Parquet."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal, Protocol, get_args

import zstandard

from modelworks.core.errors import ConfigError
from modelworks.core.lineage import sha256

Format = Literal["jsonl.zst", "jsonl.gz", "jsonl", "parquet"]
FORMATS = get_args(Format)
_ROW_GROUP = 1000
_LEVEL = 6


class _File(Protocol):
    def write(self, line: bytes, /) -> Any: ...

    def close(self) -> None: ...


class Writer:
    """Writes rows into as many files as they need; each row is a line of JSON, as `parts` has them."""

    def __init__(self, folder: Path, format: Format, file_bytes: int) -> None:
        """file_bytes: bytes of rows, before compression, from which the next file is begun."""
        self._folder = folder
        self._format = format
        self._file_bytes = file_bytes
        self._open: _File | None = None
        self.files: list[dict[str, Any]] = []
        """Name, texts, characters, bytes and SHA-256 of each file that is closed."""

    def write(self, line: bytes, characters: int) -> None:
        if self._open is None:
            self._path = self._folder / f"texts-{len(self.files):05d}.{self._format}"
            self._open = _OPEN[self._format](self._path)
            self._texts = self._characters = self._bytes = 0
        self._open.write(line)
        self._texts += 1
        self._characters += characters
        self._bytes += len(line)
        if self._bytes >= self._file_bytes:
            self.close()

    def close(self) -> None:
        """Finish the file that is being written, if there is one."""
        if self._open is None:
            return
        self._open.close()
        self._open = None
        self.files.append(
            {
                "name": self._path.name,
                "texts": self._texts,
                "characters": self._characters,
                "bytes": self._path.stat().st_size,
                "sha256": sha256(self._path),
            }
        )


def _zst(path: Path) -> IO[bytes]:
    return zstandard.open(path, "wb", cctx=zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True))


def _gz(path: Path) -> IO[bytes]:
    return gzip.GzipFile(path, "wb", compresslevel=_LEVEL, mtime=0)  # type: ignore[return-value]  # no name, no time


def _plain(path: Path) -> IO[bytes]:
    return path.open("wb")


class _Parquet:
    """Rows as a table of `text`, `source` and `metadata`, the last as JSON."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet as parquet
        except ImportError:
            raise ConfigError("writing Parquet needs pyarrow: pip install 'modelworks[corpus]'") from None
        self._schema = pyarrow.schema([(name, pyarrow.string()) for name in ("text", "source", "metadata")])
        self._table = pyarrow.Table
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, str]] = []

    def write(self, line: bytes) -> None:
        row = json.loads(line)
        row["metadata"] = json.dumps(row["metadata"], ensure_ascii=False)
        self._rows.append(row)
        if len(self._rows) == _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._table.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


_OPEN: Mapping[str, Callable[[Path], _File]] = {
    "jsonl.zst": _zst,
    "jsonl.gz": _gz,
    "jsonl": _plain,
    "parquet": _Parquet,
}
