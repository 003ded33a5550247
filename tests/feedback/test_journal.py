"""Records that only grow: what a reader can rely on, and what a killed or tampering writer leaves."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.core.errors import ConfigError, DataError
from modelworks.feedback.journal import Journal, read_journal

ABOUT = {"records": "test", "recipe": {"seed": 0, "labels": ("A", "B")}}


@pytest.fixture
def path(tmp_path):
    with Journal(tmp_path / "records.jsonl", ABOUT) as journal:
        for at in range(3):
            journal.append({"at": at, "said": "zwölf Ölkännchen\u2028"})
    return tmp_path / "records.jsonl"


def test_what_was_written_is_read_and_gone_on_with(path):
    with Journal(path, ABOUT) as journal:
        assert [line["at"] for line in journal.records] == [0, 1, 2]
        journal.append({"at": 3})
    found = read_journal(path)
    assert [line["at"] for line in found.lines] == [0, 1, 2, 3]
    assert all("time" in line for line in found.lines)
    assert found.about["recipe"] == {"seed": 0, "labels": ["A", "B"]}


@pytest.mark.parametrize("left", [1, 5, -1])
def test_a_torn_last_line_is_cut_off(path, left):
    whole = path.read_bytes()
    last = whole[whole[:-1].rfind(b"\n") + 1 :]
    path.write_bytes(whole[: -len(last)] + last[:left])
    assert len(read_journal(path).lines) == 2
    with Journal(path, ABOUT) as journal:
        journal.append({"at": "again"})
    assert [line["at"] for line in read_journal(path).lines] == [0, 1, "again"]


def test_a_file_torn_in_its_first_line_begins_anew(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"records": "te')
    with Journal(tmp_path / "r.jsonl", ABOUT) as journal:
        journal.append({"at": 0})
    assert len(read_journal(tmp_path / "r.jsonl").lines) == 1


def change(lines):
    lines[2] = lines[2].replace('"at": 1', '"at": 7')


def take_out(lines):
    del lines[1]


def swap(lines):
    lines[1], lines[2] = lines[2], lines[1]


def forge(lines):
    """A changed line whose own hash was left out of the chain."""
    line = json.loads(lines[3])
    lines[3] = json.dumps(line | {"hash": "0" * 64})


@pytest.mark.parametrize(("tamper", "number"), [(change, 3), (take_out, 2), (swap, 2), (forge, 4)])
def test_a_line_that_was_tampered_with_is_named(path, tamper, number):
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    tamper(lines)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"line {number} was changed"):
        read_journal(path)
    with pytest.raises(DataError, match=f"line {number}"), Journal(path, ABOUT):
        pass


def test_what_is_no_record_is_named(path):
    path.write_bytes(path.read_bytes() + b"[1]\n")
    with pytest.raises(DataError, match="line 5 is no record"):
        read_journal(path)


def test_records_of_something_else_are_refused_by_name(path):
    other = {**ABOUT, "recipe": {"seed": 1, "labels": ("A", "B")}}
    with pytest.raises(ConfigError, match="differ in recipe; name a new folder"), Journal(path, other):
        pass
    assert len(read_journal(path).lines) == 3


def test_two_writers_at_once_are_refused(path):
    with Journal(path, ABOUT), pytest.raises(ConfigError, match="another process"), Journal(path, ABOUT):
        pass
    with Journal(path, ABOUT):
        pass


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_journal(tmp_path / "none.jsonl")


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100)
@given(st.lists(VALUE, max_size=4))
def test_any_json_is_read_back_and_its_hashes_hold(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("journal") / "r.jsonl"
    with Journal(path, ABOUT) as journal:
        for value in values:
            journal.append({"value": value})
    assert [line["value"] for line in read_journal(path).lines] == values
