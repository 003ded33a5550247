"""Replicas: how they share the machine, and two of them behind Ray Serve's proxy, where Ray is installed.

`pip install -e '.[ray]'` in an environment with the tests' packages makes the last ones run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from modelworks.core.errors import ConfigError, DownloadError
from modelworks.models.fetch import pull
from modelworks.serve import worker
from modelworks.serve.service import Settings

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'modelworks[ray]'"
)


@pytest.mark.parametrize(
    ("nodes", "replicas", "threads"), [([2], 1, 2), ([2], 2, 1), ([16, 16], 4, 8), ([8, 2], 2, 4), ([8, 2, 0], 5, 2)]
)
def test_replicas_share_the_processors(nodes: list[float], replicas: int, threads: int) -> None:
    assert worker.threads_each(nodes, replicas) == threads


@pytest.mark.parametrize("nodes", [[], [2], [1, 1]])
def test_more_replicas_than_processors(nodes: list[float]) -> None:
    with pytest.raises(ConfigError, match="3 replicas need a processor each"):
        worker.threads_each(nodes, 3)


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'modelworks\[ray\]'"):
        worker.serve_replicas(Settings(model="none", name="none"), 2, "127.0.0.1", 0, on_start=lambda: None)


# --- two replicas -----------------------------------------------------------------------------------------------------


class Replicated:
    """A server with two replicas, in a process of its own."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "modelworks", "serve", "starter", "--port", "0", "--kv-mib", "64"]
        self.process = subprocess.Popen(
            [*command, "--replicas", "2", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline()
        if "with 2 replicas" not in line:
            self.process.kill()
            pytest.fail(line + self.process.stderr.read())
        self.url = re.search(r"http://\S+", line)[0]
        self.http = httpx.Client(base_url=self.url, timeout=120)
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def counts(self, name: str) -> dict[str, float]:
        """A metric's values by replica."""
        lines = self.http.get("/metrics").text.splitlines()
        found = (re.fullmatch(rf'modelworks_{name}{{replica="([^"]+)"}} (\S+)', line) for line in lines)
        return {match[1]: float(match[2]) for match in found if match}

    def complete(self, prompt: str, **more: Any) -> httpx.Response:
        body = {"model": "starter", "prompt": prompt, "temperature": 0, "max_tokens": 4}
        headers = more.pop("headers", {})
        return self.http.post("/v1/completions", json=body | more, headers=headers)


@pytest.fixture(scope="module")
def replicated() -> Iterator[Replicated]:
    try:
        pull("starter")
        pull("starter-embedder")
    except DownloadError as error:
        pytest.skip(f"the starter models are not here: {error}")
    running = Replicated("--sticky")
    yield running
    stream = running.openai.completions.create(
        model="starter", prompt="Once", max_tokens=200, stream=True, logit_bias=dict.fromkeys(("0", "2"), -100)
    )
    next(stream)
    running.process.send_signal(signal.SIGINT)
    assert len(list(stream)) > 150  # what has begun is finished
    assert running.process.wait(60) == 0
    assert running.process.stdout.read() + running.process.stderr.read() == ""
    with pytest.raises(httpx.TransportError):
        running.http.get("/health")


@needs_ray
@pytest.mark.slow
def test_both_replicas_answer_and_their_counts_stand_together(replicated: Replicated) -> None:
    assert replicated.http.get("/health").json() == {"status": "ok", "model": "starter"}
    for number in range(16):
        response = replicated.complete("The capital of France is", user=str(number))
        assert response.json()["choices"][0]["text"].startswith(" Paris")
        assert len(response.headers.get_list("x-request-id")) == 1
    counts = replicated.counts("generated_tokens_total")
    assert len(counts) == 2
    assert all(counts.values())
    assert sum(counts.values()) == 16 * 4


@needs_ray
@pytest.mark.slow
def test_a_stream_comes_piece_by_piece(replicated: Replicated) -> None:
    times = []
    stream = replicated.openai.chat.completions.create(
        model="starter", messages=[{"role": "user", "content": "Tell a story."}], max_tokens=64, stream=True
    )
    for _ in stream:
        times.append(time.monotonic())
    assert len(times) > 20
    assert times[len(times) // 2] - times[0] > 0.2 * (times[-1] - times[0])


@needs_ray
@pytest.mark.slow
def test_errors_come_through(replicated: Replicated) -> None:
    response = replicated.complete("x", colour="red")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "colour"
    assert replicated.http.get("/v1/none").status_code == 404
    assert replicated.http.get("/health", headers={"host": "evil.example"}).status_code == 403


@needs_ray
@pytest.mark.slow
def test_a_client_that_leaves_frees_its_slot(replicated: Replicated) -> None:
    body = json.dumps({"model": "starter", "prompt": "x", "max_tokens": 900, "stream": True, "logit_bias": {"2": -100}})
    with socket.create_connection(("127.0.0.1", int(replicated.url.rpartition(":")[2])), timeout=30) as sock:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body.encode())
        assert sock.recv(100)
        assert sum(replicated.counts("requests_running").values()) == 1
    end = time.monotonic() + 5
    while sum(replicated.counts("requests_running").values()):
        assert time.monotonic() < end
        time.sleep(0.05)


@needs_ray
@pytest.mark.slow
def test_a_session_stays_with_its_replica(replicated: Replicated) -> None:
    """So a conversation's prompts, each of which begins as the one before, are in that replica's cache."""
    prompt = "Once upon a time there was a kettle. " * 20
    for _ in range(2):
        replicated.complete(prompt, headers={"x-session-id": "one"})
    for _ in range(6):
        usage = replicated.complete(prompt, headers={"x-session-id": "one"}).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] > 100


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "address", "said"),
    [
        (["--replicas", "1"], "127.0.0.1:1", "no Ray cluster answers at RAY_ADDRESS 127.0.0.1:1"),
        (["--replicas", "9999"], "", "9999 replicas need a processor each"),
        (["--replicas", "1", "--max-running", "1000"], "", "did not start: max_step_tokens=512 is less than"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(options: list[str], address: str, said: str) -> None:
    command = [sys.executable, "-m", "modelworks", "serve", "starter", "--port", "0", *options]
    environment = os.environ | {"RAY_ADDRESS": address}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
