"""`modelworks agents`: what the journal says of runs, and what can still be done with them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelworks.agents.approval import Policy
from modelworks.agents.journal import Journal
from modelworks.agents.loop import Agent
from modelworks.agents.model import ModelError, Reply
from modelworks.agents.tool import tool
from modelworks.text.tool_calls import ToolCall


class Said:
    """A model that says its replies in turn."""

    name = "said"
    context_length = 4096

    def __init__(self, *replies: Any) -> None:
        self._replies = list(replies)

    def count(self, messages: Any, tools: Any = ()) -> int:
        return 1

    def reply(self, *_: Any, **__: Any) -> Reply:
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


@tool(effects=["writes"], trusted=True)
def put(text: str) -> str:
    """Keep a text."""
    return f"kept {text}"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "agents.db"
    with Journal(path) as kept:
        policy = Policy(effects={"writes": "always"})
        model = Said(Reply("I keep it.", (ToolCall("put", '{"text": "a\\u0007b"}'),)), Reply("Done."))
        list(Agent(model, [put], journal=kept, policy=policy).run("Keep a.", id="aa1"))
        list(Agent(Said(ModelError("gone")), journal=kept).run("Fail.", id="bb2"))
    return path


def test_runs_are_listed(run, journal) -> None:
    out = run("agents", "list", "--journal", journal).out
    assert sorted(line.split()[:2] for line in out.splitlines()[2:]) == [["aa1", "answer"], ["bb2", "stop"]]
    found = json.loads(run("agents", "list", "--journal", journal, "--json").out)
    assert {each["id"]: each["task"] for each in found} == {"aa1": "Keep a.", "bb2": "Fail."}


def test_a_run_is_shown_again_entry_by_entry(run, journal) -> None:
    out = run("agents", "replay", "aa", "--journal", journal).out
    kinds = [line.split()[2] for line in out.splitlines()]
    assert kinds == ["task", "reply", "call", "intent", "result", "reply", "end"]
    assert "\x07" not in out
    lines = run("agents", "replay", "aa", "--journal", journal, "--json").out.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == kinds


def test_an_audit_explains_each_action_and_finds_tampering(run, journal) -> None:
    done = run("agents", "audit", "--journal", journal)
    assert done.status == 0
    assert "put (writes)" in done.out
    assert "the model said: I keep it." in done.out
    assert "the policy says always; done: kept a" in done.out
    head = done.out.split()[-1]
    assert run("agents", "audit", "--journal", journal, "--head", head).status == 0
    assert run("agents", "audit", "--journal", journal, "--head", f"2:{'0' * 64}").status == 1
    with sqlite3.connect(journal) as connection:
        connection.execute("UPDATE entries SET body = replace(body, 'kept', 'lost') WHERE kind = 'result'")
    done = run("agents", "audit", "--journal", journal)
    assert done.status == 1
    assert "THE JOURNAL WAS CHANGED" in done.out
    assert json.loads(run("agents", "audit", "--journal", journal, "--json").out)["holds"] is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("replay", "zz"), "no run"),
        (("halt", "aa1"), "does not run: its state is answer"),
        (("resume", "aa1", "--url", "http://127.0.0.1:9/v1"), "with the answer 'Done.'; add a reply"),
        (("audit", "--head", "nonsense"), "is no head"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, journal, words: tuple[str, ...], said: str) -> None:
    run("agents", *words, "--journal", journal).assert_one_line_error(said)


def test_a_journal_that_is_not_there_is_not_made(run, tmp_path: Path) -> None:
    run("agents", "list", "--journal", tmp_path / "no.db").assert_one_line_error("no such journal")
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_served_until_it_is_stopped(command: Callable[..., list[str]], tmp_path: Path) -> None:
    model = ("--url", "http://127.0.0.1:9/v1", "--model", "away")  # nothing listens at this port
    place = ("--journal", tmp_path / "agents.db", "--port", "0", "--api-key", "sesame")
    arguments = command("agents", "serve", "--tools", "calculator", *model, *place)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert ": runs of agents at http://127.0.0.1:" in line, line + process.stderr.read()
        url = line.split()[-1]
        with urllib.request.urlopen(url, timeout=60) as page:
            assert b"A task for the agent" in page.read()
        headers = {"authorization": "Bearer sesame"}
        with urllib.request.urlopen(urllib.request.Request(f"{url}/api/agents", None, headers), timeout=60) as reply:
            assert [each["name"] for each in json.load(reply)["tools"]] == ["calculator"]
        body = json.dumps({"task": "What is 6 times 7?"}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{url}/api/runs", body, headers), timeout=60) as reply:
            run = json.load(reply)["id"]
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
    with Journal(tmp_path / "agents.db") as journal:
        assert journal.find(run).task == "What is 6 times 7?"
        assert journal.find(run).state in ("stop", "interrupted")


def test_a_page_that_cannot_be_served_is_one_line(run: Any, tmp_path: Path) -> None:
    for arguments, said in (
        (("--host", "0.0.0.0"), "no API key is set"),
        (("--api-key", " "), "--api-key is empty"),
        (("--port", "0", "--url", "nowhere"), "nowhere"),
        (("--port", "0", "--url", "http://127.0.0.1:9/v1", "--tools", "nonsense"), "nonsense"),
    ):
        run("agents", "serve", "--journal", tmp_path / "a.db", *arguments).assert_one_line_error(said)
