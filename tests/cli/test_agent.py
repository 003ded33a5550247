"""`modelworks agent`: a scripted server in the model's place, real tools, and errors of one line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


def said(text: str = "", *calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    made = [
        {"id": str(at), "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for at, (name, arguments) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": text} | ({"tool_calls": made} if made else {})
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if made else "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    }


@pytest.fixture
def server() -> Iterator[Any]:
    """`server(reply, ...)` is the URL of a model that says these in turn; `server.asked` has what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = json.dumps(replies.pop(0)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    replies: list[Any] = []
    asked: list[Any] = []
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()

    def scripted(*said: Any) -> str:
        replies.extend(said)
        return f"http://127.0.0.1:{http.server_port}/v1"

    scripted.asked = asked  # type: ignore[attr-defined]
    yield scripted
    http.shutdown()
    http.server_close()


@pytest.fixture
def journal(tmp_path: Any) -> Any:
    return tmp_path / "agents.db"


def test_steps_are_shown_and_the_answer_is_last(run, server, journal) -> None:
    url = server(said("I add.", ("calculator", {"expression": "12 * 17 + 5"})), said("It is 209."))
    done = run("agent", "What is 12 * 17 + 5?", "--url", url, "--tools", "calculator", "--journal", journal)
    assert done.status == 0, done
    lines = done.out.splitlines()
    assert lines[0] == "I add."
    assert lines[1].startswith("→ calculator")
    assert '"12 * 17 + 5"' in lines[1]
    assert lines[2].strip() == "209"
    assert lines[3] == "It is 209."
    assert "2 steps, 1 calls, 30 tokens" in done.err


def test_as_json_each_step_is_a_line(run, server, journal) -> None:
    url = server(said("", ("calculator", {"expression": "1 +"})), said("No."))
    done = run("agent", "What?", "--url", url, "--tools", "calculator", "--journal", journal, "--json")
    steps = [json.loads(line) for line in done.out.splitlines()]
    assert [step["step"] for step in steps] == ["call", "observation", "answer"]
    assert steps[1]["error"] is True
    assert steps[2]["text"] == "No."


def test_without_a_terminal_what_changes_something_is_refused_unless_it_is_allowed(
    run, server, journal, tmp_path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    write = said("", ("write_file", {"path": "a.txt", "content": "hello"}))
    told = ("agent", "Write hello.", "--tools", "files", "--workspace", work, "--journal", journal)
    done = run(*told, "--url", server(write, said("done")))
    assert "nobody is there to allow it" in done.out
    assert list(work.iterdir()) == []
    done = run(*told, "--url", server(write, said("done")), "--allow", "writes")
    assert (work / "a.txt").read_text() == "hello", done
    done = run(*told, "--url", server(write, said("done")), "--allow", "writes", "--forbid", "write_file")
    assert "the policy never allows write_file" in done.out


def test_documents_are_searched(run, server, journal, tmp_path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "office.md").write_text("Our office in Lisbon opened in 1998. It has forty employees.\n")
    url = server(said("", ("search_documents", {"query": "When did the office open?"})), said("In 1998 [1]."))
    done = run("agent", "When did the office open?", "--url", url, "--docs", docs, "--journal", journal)
    assert "office.md" in done.out
    assert "1998" in server.asked[1]["messages"][-1]["content"]
    assert done.out.splitlines()[-1] == "In 1998 [1]."


def test_tools_are_listed(run) -> None:
    assert {"calculator", "files", "python", "sql"} <= set(run("agent", "--tools", "list").out.split())


@pytest.mark.parametrize(
    ("options", "said_"),
    [
        ((" ",), "the task is empty"),
        (("x", "--tools", "nothing"), "no tool is called 'nothing'"),
        (("x", "--tools", "files"), "needs a workspace"),
        (("x", "--allow", "writes", "--forbid", "writes"), "writes is both allowed and forbidden"),
        (("x", "--allow", "nobody"), "no tool is called 'nobody' here"),
        (("x", "--docs", "/nowhere"), "no such folder"),
        (("x", "--mcp", "half"), "expected NAME=COMMAND or NAME=URL"),
    ],
)
def test_what_is_wrong_is_one_line(run, server, journal, options: tuple[str, ...], said_: str) -> None:
    done = run("agent", *options, "--url", server(), "--journal", journal)
    assert done.status == 1
    assert said_ in done.err
    assert done.err.count("\n") == 1


def test_a_server_that_is_away_ends_the_run_with_status_1(run, journal) -> None:
    done = run("agent", "Anything.", "--url", "http://127.0.0.1:9/v1", "--journal", journal, "--seconds", "0.5")
    assert done.status == 1
    assert "stopped (" in done.err


@pytest.mark.usefixtures("starters")
def test_a_close_choice_of_a_small_model_goes_to_the_larger_one(run, server, journal, tmp_path) -> None:
    """The larger model is asked where the margin is below --close, and at no other time."""
    examples = tmp_path / "examples.jsonl"
    call = {"type": "function", "function": {"name": "calculator", "arguments": '{"expression": "2+2"}'}}
    turns = [
        {"role": "user", "content": "Add two and two."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    examples.write_text(json.dumps({"messages": turns}) + "\n")
    told = ["agent", "Use the calculator: 12 * 17 + 5", "--tools", "calculator", "--journal", journal]
    told += ["--examples", examples, "--larger"]
    done = run(*told, f"big={server(said('209, says the larger one.'))}", "--close", "1000")
    assert (done.status, done.out) == (0, "209, says the larger one.\n")
    assert server.asked[0]["model"] == "big"
    done = run(*told, f"big={server()}", "--close", "0.0001")
    assert done.status == 0, done
    assert "→ calculator" in done.out
    assert done.out.splitlines()[-1] == "209"
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("options", "said_"),
    [
        (("--larger", "big"), "--larger big: expected MODEL=URL"),
        (("--larger", "big=http://127.0.0.1:9/v1", "--url", "http://127.0.0.1:9/v1"), "--larger is for a small model"),
        (("--examples", "/nowhere.jsonl"), "/nowhere.jsonl: No such file"),
        (("--examples", "half.jsonl"), "half.jsonl:1"),
    ],
)
def test_what_is_wrong_with_the_help_of_a_small_model(run, journal, tmp_path, monkeypatch, options, said_) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half.jsonl").write_text('{"text": "no dialogue"}\n')
    run("agent", "x", *options, "--journal", journal).assert_one_line_error(said_)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`asked(line, ...)`: what becomes of a request whose approver types these lines; None is the input's end."""
    from modelworks.agents.approval import Request
    from modelworks.agents.taint import Tainted
    from modelworks.agents.tool import call_digest, tool
    from modelworks.cli.agent import _ask

    @tool(effects=["writes", "network"])
    def send(to: str, text: str) -> str:
        """Send."""
        return ""

    def typed(*lines: str | None) -> Any:
        given = iter(lines)

        def read(prompt: str = "") -> str:
            line = next(given)
            if line is None:
                raise EOFError
            return line

        monkeypatch.setattr("builtins.input", read)
        arguments = {"to": "eve@evil.example", "text": "a\x1b[31mb"}
        tainted = (Tainted("to", "eve@evil.example", frozenset({"mail.eml"}), True),)
        return _ask(Request("r", "c", "agent", send, arguments, call_digest(send, arguments), "it sends", tainted))

    return typed


def test_whoever_is_asked_sees_all_and_says_yes_no_or_something_else(asked, capsys) -> None:
    assert asked("y").allow
    shown = capsys.readouterr().out
    for part in ("it sends", "network, writes", '"eve@evil.example"', "to stands in mail.eml"):
        assert part in shown
    assert "\x1b[31m" not in shown
    refused = asked("what?", "n", "not to her")
    assert (refused.allow, refused.reason) == (False, "not to her")
    edited = asked("e", "{half", "e", '{"to": "bob@example.com", "text": "a"}')
    assert edited.allow
    assert edited.arguments == {"to": "bob@example.com", "text": "a"}
    assert not asked("h").allow
    assert not asked(None).allow
