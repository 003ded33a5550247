from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelworks.agents.approval import allow, deny
from modelworks.agents.audit import actions, verify
from modelworks.agents.journal import Journal
from modelworks.agents.loop import Agent
from modelworks.agents.model import Reply
from modelworks.agents.tool import tool


@tool(effects=["writes"])
def put(text: str) -> str:
    """Keep a text."""
    return f"kept {text}"


@tool(effects=["reads"])
def look() -> str:
    """Look at what is there."""
    raise OSError("the disk is gone")


@pytest.fixture
def path(tmp_path: Path, scripted: Callable[..., Any], calls: Callable[..., Any]) -> Path:
    path = tmp_path / "journal.db"
    replies = (
        calls(("put", '{"text": "a"}'), text="First a."),
        calls(("put", '{"text": "b"}'), ("look", "{}")),
        Reply("Done."),
    )
    with Journal(path) as journal:

        def approve(request: Any) -> Any:
            return allow(request, by="Ada") if request.arguments["text"] == "a" else deny(request, "no b", by="Ada")

        Agent(scripted(*replies), [put, look], approve=approve, journal=journal).ask("Keep a and b.")
    return path


def test_each_action_is_explained(path: Path) -> None:
    with Journal(path) as journal:
        kept, refused, failed = actions(journal)
        assert (kept.tool, kept.arguments, kept.outcome, kept.said) == ("put", {"text": "a"}, "done", "First a.")
        assert kept.why == "allowed by Ada"
        assert kept.result == "kept a"
        assert kept.effects == ("writes",)
        assert (refused.outcome, refused.why) == ("refused", "refused by Ada: no b")
        assert (failed.outcome, failed.why) == ("failed", "the policy says always")
        assert "the disk is gone" in failed.result
        assert verify(journal).holds


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("""UPDATE entries SET body = replace(body, 'kept a', 'kept z') WHERE kind = 'result'""", "was changed"),
        ("UPDATE entries SET time = '2020' WHERE sequence = 3", "entry 3"),
        ("UPDATE entries SET run = 'x' WHERE sequence = 2", "entry 2"),
        ("DELETE FROM entries WHERE sequence = 4", "entry 4 is missing"),
        ("DELETE FROM entries WHERE sequence > 8", "missing at the end"),
        ("UPDATE entries SET sequence = 100 WHERE sequence = 5", "entry 5 is missing"),
        ("UPDATE runs SET task = 'Keep nothing.'", "line in the list of runs was changed"),
        ("""UPDATE runs SET "end" = NULL""", "line in the list of runs was changed"),
        ("DELETE FROM runs", "taken out of the list of runs"),
        ("INSERT INTO runs VALUES ('z', NULL, 'a', 't', '', '1', NULL)", "run z"),
    ],
)
def test_tampering_is_found(path: Path, statement: str, said: str) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement).rowcount > 0
    with Journal(path) as journal:
        chain = verify(journal)
    assert not chain.holds
    assert any(said in fault for fault in chain.faults), chain.faults


def test_a_chain_that_was_computed_anew_is_found_by_a_head_that_was_kept(path: Path, tmp_path: Path) -> None:
    with Journal(path) as journal:
        head = journal.head()
        assert verify(journal, head).holds
        journal.begin("later", "agent", "more", {"origins": [], "instructions": ""})
        assert verify(journal, head).holds
    with Journal(tmp_path / "forged.db") as forged:
        for index in range(head[0]):
            forged.add("r", "reply", {"text": str(index)})
        chain = verify(forged, head)
        assert any("which was kept, is not there" in fault for fault in chain.faults)
