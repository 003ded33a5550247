"""`modelworks serve` as a process of its own: its line, its key, its end, and what it refuses to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def started(command: Callable[..., list[str]]) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Start a server on a free port; return its process and its URL."""
    running = []

    def start(*arguments: str | Path, **env: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            command("serve", "starter", "--port", "0", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | env,
        )
        running.append(process)
        line = process.stdout.readline()
        assert line.startswith("serving starter at http://127.0.0.1:"), line + process.stderr.read()
        return process, line.split()[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()


def get(url: str, key: str | None = None, body: Any = None) -> tuple[int, Any]:
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode())
    if key is not None:
        request.add_header("authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_it_serves_and_stops(started, starters: None, handbook: Path, tmp_path: Path) -> None:
    process, url = started(
        "--docs", handbook, "--store", tmp_path / "store", "--api-key", "one", MODELWORKS_API_KEY="two"
    )
    assert get(f"{url}/health") == (200, {"status": "ok", "model": "starter"})
    assert get(f"{url}/v1/models")[0] == 401
    for key in ("one", "two"):
        assert [model["id"] for model in get(f"{url}/v1/models", key)[1]["data"]] == ["starter", "starter-embedder"]
    body = {"model": "starter", "prompt": "The capital of France is", "temperature": 0, "max_tokens": 1}
    assert get(f"{url}/v1/completions", "one", body)[1]["choices"][0]["text"] == " Paris"
    while (listing := get(f"{url}/api/documents", "one")[1])["sync"]["state"] == "running":
        time.sleep(0.1)
    assert [document["name"] for document in listing["documents"]] == ["kettle.md", "office.txt"]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert process.stdout.read() == ""
    assert process.stderr.read() == ""


def test_adapters_are_served_by_their_names(started, starter_adapter: Path) -> None:
    _, url = started("--adapters", f"pirate={starter_adapter}", "--adapters", f"poet={starter_adapter}")
    listed = [model["id"] for model in get(f"{url}/v1/models")[1]["data"]]
    assert listed == ["starter", "pirate", "poet", "starter-embedder"]
    body = {"prompt": "The capital of France is", "temperature": 0, "max_tokens": 4}
    texts = [get(f"{url}/v1/completions", body=body | {"model": name})[1]["choices"][0]["text"] for name in listed[:3]]
    assert texts[0] != texts[1] == texts[2]
    assert get(f"{url}/v1/completions", body=body | {"model": "bard"})[0] == 404


def test_adapters_that_cannot_be_served(run, starter_adapter: Path, tmp_path: Path) -> None:
    for given, parts in (
        (["pirate"], ("'pirate'", "NAME=PATH")),
        (["=x"], ("'=x'", "NAME=PATH")),
        (["a="], ("'a='", "NAME=PATH")),
        (["a=x", "a=y"], ("'a' is given twice",)),
        ([f"starter={starter_adapter}"], ("named 'starter', as a model is",)),
        ([f"starter-embedder={starter_adapter}"], ("named 'starter-embedder', as a model is",)),
        ([f"a={tmp_path / 'none'}"], ("none", "no such file or folder")),
    ):
        options = [part for each in given for part in ("--adapters", each)]
        run("serve", "--port", "0", *options).assert_one_line_error(*parts)


def test_beyond_this_machine_it_takes_a_key(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELWORKS_API_KEY", raising=False)
    run("serve", "--host", "0.0.0.0", "--port", "0").assert_one_line_error("API key", "--api-key")
    run("serve", "--api-key", " ").assert_one_line_error("--api-key is empty")


def test_a_port_in_use(run, starters: None) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        run("serve", "--port", port).assert_one_line_error(port, "--port")


def test_no_such_model_or_folder(run, tmp_path: Path) -> None:
    run("serve", tmp_path / "none.gguf", "--port", "0").assert_one_line_error("none.gguf")
    run("serve", "--docs", tmp_path / "none", "--port", "0").assert_one_line_error("no such folder")


@pytest.mark.parametrize(
    ("option", "value"), [("port", "70000"), ("kv-mib", "0"), ("time-limit", "0"), ("max-queued", "x")]
)
def test_a_number_out_of_range(run, option: str, value: str) -> None:
    run("serve", f"--{option}={value}").assert_one_line_error(option, status=2)


def test_what_does_not_go_with_replicas(run, handbook: Path) -> None:
    run("serve", "--replicas", "2", "--docs", handbook).assert_one_line_error("--docs and --replicas")
    run("serve", "--sticky").assert_one_line_error("--sticky", "--replicas")
    run("serve", "--replicas", "0").assert_one_line_error("replicas", status=2)
