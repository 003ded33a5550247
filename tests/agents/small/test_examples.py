"""Files of dialogues that a small model is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelworks.agents.small.examples import read_examples
from modelworks.core.errors import DataError

CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
USER = {"role": "user", "content": "Add 1"}
ANSWER = {"role": "assistant", "content": "", "tool_calls": [CALL]}


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_dialogues_without_their_system_message(tmp_path: Path) -> None:
    rows = [{"messages": [USER, ANSWER]}, {"messages": [{"role": "system", "content": "Be brief"}, USER, ANSWER]}]
    first, second = read_examples(written(tmp_path / "a.jsonl", *rows))
    assert first == second
    assert first[0] == USER
    assert first[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "a"}, "an example is a dialogue"),
        ({"messages": [USER]}, "assistant"),
        ({"messages": [ANSWER, USER]}, "begins with a user's message"),
        ({"messages": [{"role": "nobody", "content": ""}]}, "role"),
    ],
)
def test_what_is_no_example_is_told_with_its_place(tmp_path: Path, row: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read_examples(written(tmp_path / "a.jsonl", {"messages": [USER, ANSWER]}, row))
    assert "a.jsonl:2" in str(caught.value)


def test_a_file_without_any(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dialogue"):
        read_examples(written(tmp_path / "a.jsonl"))
