from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest
import zstandard

from modelworks.data.parts import json_line
from modelworks.data.sources import File, Text, read_texts
from modelworks.data.write import FORMATS, Writer

ROWS = [{"text": f"text {at} é\n日", "source": f"s:{at}", "metadata": {"n": at}} for at in range(7)]


def write(folder: Path, format: str, file_bytes: int = 1 << 20) -> list[dict[str, object]]:
    writer = Writer(folder, format, file_bytes)  # type: ignore[arg-type]
    for row in ROWS:
        writer.write(json_line(row), len(str(row["text"])))
    writer.close()
    return writer.files


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_what_sources_read(tmp_path: Path, format: str) -> None:
    files = write(tmp_path, format)
    assert [file["name"] for file in files] == [f"texts-00000.{format}"]
    path = tmp_path / str(files[0]["name"])
    found = list(read_texts(File("c", path)))
    assert [item.text for item in found if isinstance(item, Text)] == [row["text"] for row in ROWS]
    assert found[3].metadata["source"] == "s:3"  # type: ignore[union-attr]
    assert files[0]["texts"] == 7
    assert files[0]["characters"] == sum(len(str(row["text"])) for row in ROWS)
    assert files[0]["bytes"] == path.stat().st_size
    assert files[0]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("format", FORMATS)
def test_files_are_begun_anew_at_their_size_and_are_the_same_each_time(tmp_path: Path, format: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    size = 2 * len(json_line(ROWS[0])) - 5
    one, other = write(tmp_path / "a", format, size), write(tmp_path / "b", format, size)
    assert [file["texts"] for file in one] == [2, 2, 2, 1]
    assert one == other


def test_other_programs_read_the_compressed_files(tmp_path: Path) -> None:
    write(tmp_path, "jsonl.zst")
    data = zstandard.ZstdDecompressor().decompressobj().decompress((tmp_path / "texts-00000.jsonl.zst").read_bytes())
    assert [json.loads(line) for line in data.splitlines()] == ROWS
    write(tmp_path, "jsonl.gz")
    assert gzip.decompress((tmp_path / "texts-00000.jsonl.gz").read_bytes()) == data


def test_nothing_written_is_no_file(tmp_path: Path) -> None:
    writer = Writer(tmp_path, "jsonl", 10)
    writer.close()
    assert writer.files == []
    assert list(tmp_path.iterdir()) == []
