from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelworks.agents.journal import Journal


def test_the_page_is_served_until_it_is_stopped(command: Callable[..., list[str]], tmp_path: Path) -> None:
    model = ("--url", "http://127.0.0.1:9/v1", "--model", "away")  # nothing listens at this port
    place = ("--journal", tmp_path / "agents.db", "--port", "0", "--api-key", "sesame")
    arguments = command("agents", "serve", "--tools", "calculator", *model, *place)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("away with 1 tools at http://127.0.0.1:"), line + process.stderr.read()
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


def test_what_users_get_wrong_is_one_line(run: Any, tmp_path: Path) -> None:
    for arguments, said in (
        (("--host", "0.0.0.0"), "no API key is set"),
        (("--api-key", " "), "--api-key is empty"),
        (("--port", "0", "--url", "nowhere"), "nowhere"),
        (("--port", "0", "--url", "http://127.0.0.1:9/v1", "--tools", "nonsense"), "nonsense"),
    ):
        run("agents", "serve", "--journal", tmp_path / "a.db", *arguments).assert_one_line_error(said)
