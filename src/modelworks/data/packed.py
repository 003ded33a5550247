"""Files compressed by gzip, bzip2, xz or Zstandard, as streams of what is in them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Mapping
from typing import IO, Any

import zstandard

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What reading raises where a file is damaged or cut short; bz2 raises OSError."""


def unpacked(file: IO[bytes], suffix: str) -> IO[bytes]:
    """The stream within `file`, by a suffix of `PACKED`.

    Several streams in a row are read as one. A last one that is cut short raises EOFError when its end is reached, in
    Zstandard, too, where the library's own reader would just end.
    """
    return _OPEN[suffix](file)


class _Frames(io.RawIOBase):
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._frame: Any = None  # None between two frames
        self._packed = b""
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._packed = self._packed or self._file.read(1 << 17)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("it ends within a frame")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._ready = self._frame.decompress(self._packed)
            self._packed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        taken = self._ready[: len(buffer)]
        self._ready = self._ready[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


_OPEN: Mapping[str, Callable[[IO[bytes]], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda file: io.BufferedReader(_Frames(file)),
}
PACKED = tuple(_OPEN)
