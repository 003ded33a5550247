"""Rows from files: each kind, packed and not, with its place; what is broken is told by its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelworks.core.errors import DataError
from modelworks.data.files import Broken, read_rows

ROWS: list[dict[str, Any]] = [
    {"text": "one\ntwo", "n": 1},
    {"text": "drei é 日本 \u2028 \x85", "n": None},
    {"text": "", "n": 3},
]
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def write(folder: Path, kind: str, packed: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    path = folder / f"rows.v2{kind}{packed}"
    if kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        content = path.read_bytes()
    elif kind == ".json":
        content = json.dumps(rows, indent=1, ensure_ascii=False).encode()
    else:
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[packed]
    path.write_bytes(pack(content))
    return path


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".ndjson", ".json", ".parquet"])
def test_rows_come_whole_with_their_places(kind: str, packed: str, tmp_path: Path) -> None:
    path = write(tmp_path, kind, packed)
    rows = list(read_rows(path))
    assert [row.value for row in rows] == ROWS
    lines = [2, 6, 10] if kind == ".json" else [1, 2, 3]
    assert [row.place for row in rows] == [f"{path}:{line}" for line in lines]


@pytest.mark.parametrize("kind", [".jsonl", ".json"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(rows=st.lists(st.dictionaries(st.text(), jsons, max_size=4), max_size=5), indent=st.sampled_from([None, 0, 2]))
def test_any_json_is_read_as_json_reads_it(
    kind: str, rows: list[dict[str, Any]], indent: int | None, tmp_path: Path
) -> None:
    path = tmp_path / f"rows{kind}"
    lines = [json.dumps(row) for row in rows]
    path.write_text("\n\n".join(lines) if kind == ".jsonl" else json.dumps(rows, indent=indent))
    assert [row.value for row in read_rows(path)] == rows


def test_json_that_is_lines_is_read_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.json"
    path.write_bytes(b'\xef\xbb\xbf\n{"text": "a"}\n\n  {"text": "b"}  \r\n')
    assert [(row.place[-2:], row.value["text"]) for row in read_rows(path)] == [(":2", "a"), (":4", "b")]


def test_text_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "all.txt.gz"
    path.write_bytes(gzip.compress("á\nb\n".encode()))
    assert [row.value for row in read_rows(path)] == [{"text": "á\nb\n"}]


BAD_LINES = {
    b'{"text": "a"': "not valid JSON",
    b"{'text': 1}": "not valid JSON",
    b"[1]": "expected a JSON object, found list",
    b'"text"': "expected a JSON object, found str",
    b'{"text": "\xff"}': "not UTF-8",
    b"[" * 100_000: "not valid JSON: nested too deeply",
    b'{"n": ' + b"1" * 5000 + b"}": "not valid JSON",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_broken_line_is_fatal_or_passed_over(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}\n')
    with pytest.raises(DataError, match=f"rows.jsonl:3: {BAD_LINES[line]}"):
        list(read_rows(path))
    broken: list[Broken] = []
    assert [row.value["text"] for row in read_rows(path, broken)] == ["a", "b"]
    assert [each.place for each in broken] == [f"{path}:3"]
    assert broken[0].reason.startswith(BAD_LINES[line])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[\n{"a": 1},\n{"a": 2}', ":3: not valid JSON: the list is cut short"),
        ('[\n{"a": 1}\n\n{"a": 2}]', ":4: not valid JSON: the list is cut short or lacks a comma"),
        ('[\n{"a": 1},\n{"a": \n x}]', ":4: not valid JSON"),
        ('[\n{"a": 1},\n', ":3: not valid JSON"),
    ],
)
def test_a_broken_list_is_fatal_in_either_case(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    for broken in (None, []):
        with pytest.raises(DataError, match=f"rows.json{said}"):
            list(read_rows(path, broken))


def test_a_member_of_a_list_that_is_no_object_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1},\n 3,\n {"a": 2}]')
    broken: list[Broken] = []
    assert [row.value["a"] for row in read_rows(path, broken)] == [1, 2]
    assert broken == [Broken(f"{path}:2", "expected a JSON object, found int")]


@pytest.mark.parametrize("packed", [".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_a_packed_file_cut_short_is_fatal(kind: str, packed: str, tmp_path: Path) -> None:
    path = write(tmp_path, kind, packed, [{"text": str(n) * 99} for n in range(3000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged or cut short"):
        list(read_rows(path, []))
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="damaged or cut short"):
        list(read_rows(path, []))


def test_what_parquets_schema_adds_to_a_row_goes_again(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "arguments": {"x": 1}}, {"role": "tool", "name": "f", "parts": [{"y": 2}]}]}]
    assert [row.value for row in read_rows(write(tmp_path, ".parquet", "", rows))] == rows


def test_several_zst_frames_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"a": 1}\n') + zstandard.compress(b'{"a": 2}\n'))
    assert [row.value["a"] for row in read_rows(path)] == [1, 2]


def test_damaged_parquet_is_fatal(tmp_path: Path) -> None:
    path = write(tmp_path, ".parquet", "")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="damaged or cut short"):
        list(read_rows(path))


@pytest.mark.parametrize("name", ["rows.csv", "rows", "rows.gz", "rows.csv.zst"])
def test_other_files_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="training data is"):
        list(read_rows(tmp_path / name))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: No such file"):
        list(read_rows(tmp_path / "none.jsonl"))
