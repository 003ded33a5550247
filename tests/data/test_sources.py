from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError
from modelworks.data import sources
from modelworks.data.sources import File, Text, Unread, find_files, read_rows, read_texts

ROWS = b'{"text": "one", "lang": "en"}\n\n{"text": "two"}\n'


def read(path: Path, **options: str) -> list[Text | Unread]:
    return list(read_texts(File(path.name, path), **options))


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_files_come_in_order_of_paths_and_names_each_once(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.txt", "b/.hidden", "a.txt"):
        write(tmp_path / name, "x")
    files, unread = find_files([tmp_path / "b", tmp_path / "a.txt", tmp_path])
    root = tmp_path.as_posix()
    assert [file.name for file in files] == [f"{root}/b/1.txt", f"{root}/b/2.txt", f"{root}/a.txt"]
    assert unread == []
    with pytest.raises(ConfigError, match="nowhere: there is no such file or folder"):
        find_files([tmp_path / "nowhere"])


def test_a_document_is_one_text_that_says_what_it_is(tmp_path: Path) -> None:
    prose, code = read(write(tmp_path / "a.md", "# Title\n\nText."))[0], read(write(tmp_path / "a.py", "x = 1\n"))[0]
    assert prose == Text("# Title\n\nText.", "a.md", {"media_type": "text/markdown", "title": "Title"})
    assert isinstance(code, Text)
    assert code.code


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", zstandard.compress),
        (".zst", lambda data: zstandard.compress(data[:9]) + zstandard.compress(data[9:])),  # two frames
    ],
)
def test_rows_and_documents_are_read_through_any_compression(tmp_path: Path, suffix: str, pack: object) -> None:
    rows = read(write(tmp_path / f"r.jsonl{suffix}", pack(ROWS)))  # type: ignore[operator]
    name = f"r.jsonl{suffix}"
    assert rows == [Text("one", f"{name}:1", {"lang": "en"}), Text("two", f"{name}:3")]
    document = read(write(tmp_path / f"d.md{suffix}", pack(b"# T\n\nBody")))  # type: ignore[operator]
    assert [text.text for text in document if isinstance(text, Text)] == ["# T\n\nBody"]


def test_broken_rows_are_reported_by_number_and_the_rest_is_read(tmp_path: Path) -> None:
    lines = [
        b'{"text": "ok"}',
        b'{"text": ',
        b"[1]",
        b'{"txt": "a"}',
        b'{"text": 5}',
        b'{"text": " "}',
        b'{"text": "\xff"}',
    ]
    found = read(write(tmp_path / "r.jsonl", b"\n".join([*lines, b'{"text": "end"}'])))  # fmt: skip
    assert [item.source for item in found] == [f"r.jsonl:{number}" for number in range(1, 9)]
    assert [item.reason for item in found if isinstance(item, Unread)] == [
        "not valid JSON: Expecting value",
        "not a JSON object",
        "no string under 'text'",
        "no string under 'text'",
        "nothing under 'text'",
        "not valid JSON: not UTF-8, or nested too deeply",
    ]
    assert [item.text for item in found if isinstance(item, Text)] == ["ok", "end"]


def test_a_huge_line_is_passed_over_without_being_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LINE_LIMIT", 1 << 20)
    lines = io.BytesIO(b'{"text": "' + b"x" * (5 << 20) + b'"}\n{"text": "after"}\n' + b"y" * (2 << 20))
    found = list(read_rows(lines, "r"))
    assert found == [
        Unread("r:1", "the line is longer than 1 MiB"),
        Text("after", "r:2"),
        Unread("r:3", "the line is longer than 1 MiB"),
    ]


def test_members_of_archives_are_read_and_their_faults_are_their_own(tmp_path: Path) -> None:
    members = {
        "d/a.txt": b"Text.",
        "d/r.jsonl": ROWS,
        "d/r.jsonl.gz": gzip.compress(ROWS),
        "d/picture.png": b"\x89PNG\r\n\x1a\n\0\0",
        "d/inner.zip": b"PK",
        "d/.hidden": b"x",
        "__MACOSX/d/a.txt": b"x",
        "d/empty.txt": b"",
        "d/z.txt": b"Last.",
    }
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    write(tmp_path / "a.tar.gz", gzip.compress(plain.getvalue()))
    write(tmp_path / "a.tar.zst", zstandard.compress(plain.getvalue()))
    for name in ("a.zip", "a.tar.gz", "a.tar.zst"):
        found = read(tmp_path / name)
        assert [item.source for item in found] == [
            f"{name}/d/{part}"
            for part in ("a.txt", "r.jsonl:1", "r.jsonl:3", "r.jsonl.gz:1", "r.jsonl.gz:3", "picture.png",
                         "inner.zip", "empty.txt", "z.txt")
        ]  # fmt: skip
        faults = {item.source.rpartition("/")[2]: item.reason for item in found if isinstance(item, Unread)}
        assert faults == {
            "picture.png": "PNG image: no text reader for .png",
            "inner.zip": "an archive or a table within an archive is not read: unpack it first",
            "empty.txt": "empty file",
        }


def test_parquet_gives_a_text_a_row(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    table = pa.table({"text": ["one", None, "three"], "n": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "r.parquet")
    assert read(tmp_path / "r.parquet") == [
        Text("one", "r.parquet:1", {"n": 1}),
        Unread("r.parquet:2", "no string under 'text'"),
        Text("three", "r.parquet:3", {"n": 3}),
    ]
    assert read(tmp_path / "r.parquet", text_key="body") == [
        Unread("r.parquet", "has no column 'body'; there are: text, n")
    ]
    damaged = read(write(tmp_path / "d.parquet", (tmp_path / "r.parquet").read_bytes()[:-9]))
    assert isinstance(damaged[0], Unread)
    assert damaged[0].reason.startswith("damaged or cut short: ")


def test_files_cut_short_give_what_came_before_and_a_reason(tmp_path: Path) -> None:
    rows = b"".join(b'{"text": "row %d"}\n' % number for number in range(20_000))
    for suffix, pack in ((".gz", gzip.compress), (".zst", zstandard.compress), (".xz", lzma.compress)):
        whole = pack(rows)  # type: ignore[operator]
        found = read(write(tmp_path / f"r.jsonl{suffix}", whole[: len(whole) // 2]))
        assert isinstance(found[0], Text)
        assert isinstance(found[-1], Unread)
        assert "damaged or cut short" in found[-1].reason or "not valid JSON" in found[-1].reason
    assert isinstance(read(write(tmp_path / "a.tar", b"\1" * 2000))[0], Unread)
    assert isinstance(read(write(tmp_path / "a.zip", b"PK\3\4"))[0], Unread)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.binary(max_size=300),
    st.sampled_from(".txt .jsonl .gz .jsonl.gz .zst .zip .tar .tgz .xz .bz2 .parquet .pdf .html".split()),
)
def test_no_bytes_stop_the_stream(tmp_path: Path, data: bytes, suffix: str) -> None:
    for item in read(write(tmp_path / f"wild{suffix}", data)):
        assert item.source.startswith("wild")
        assert item.text.strip() if isinstance(item, Text) else item.reason


@given(st.lists(st.dictionaries(st.sampled_from(["text", "a"]), st.text(max_size=20)), max_size=20))
def test_rows_come_back_as_they_were_written(rows: list[dict[str, str]]) -> None:
    lines = io.BytesIO("".join(json.dumps(row) + "\n" for row in rows).encode())
    found = {item.source: item for item in read_rows(lines, "r") if isinstance(item, Text)}
    kept = {f"r:{at}": row for at, row in enumerate(rows, 1) if row.get("text", "").strip()}
    assert {source: {"text": item.text, **item.metadata} for source, item in found.items()} == kept
