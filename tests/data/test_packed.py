from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from modelworks.data.packed import DAMAGED, PACKED, unpacked

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


def test_every_suffix_is_tested() -> None:
    assert set(PACK) == set(PACKED)


@pytest.mark.parametrize("suffix", PACKED)
@given(pieces=st.lists(st.binary(max_size=3000), min_size=1, max_size=4), size=st.integers(1, 5000))
def test_streams_in_a_row_are_read_as_one(suffix: str, pieces: list[bytes], size: int) -> None:
    stream = unpacked(io.BytesIO(b"".join(map(PACK[suffix], pieces))), suffix)
    read = []
    while piece := stream.read(size):
        read.append(piece)
    assert b"".join(read) == b"".join(pieces)


@pytest.mark.parametrize("suffix", PACKED)
def test_every_cut_is_noticed(suffix: str) -> None:
    """python-zstandard's reader ends at a cut as if it were the end."""
    whole = PACK[suffix](b"".join(b"line %d\n" % number for number in range(300)))
    for cut in range(1, len(whole)):
        with pytest.raises((*DAMAGED, OSError)):
            unpacked(io.BytesIO(whole[:cut]), suffix).read()


def test_what_is_larger_than_a_buffer_comes_whole() -> None:
    data = bytes(range(256)) * 20_000
    assert unpacked(io.BytesIO(zstandard.compress(data)), ".zst").read() == data
