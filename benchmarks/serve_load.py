"""Many clients at once: tokens a second of all together, and the time to the first token, beside llama.cpp's server.

Each server runs in a process of its own, ours and the peer in turn, over the same GGUF file. Every client sends one
streamed completion after the other; no two prompts begin alike, so no prefix cache helps, and no answer ends early.

    python benchmarks/serve_load.py [--clients 16] [--prompt 256] [--answer 128] [--requests 2] [--rounds 1]
                                    [--model starter] [--threads 2] [--llama-server PATH]

The peer is `llama_cpp.server`, which answers one request at a time, from `.venv-bench-serve-load` (`make bench
NAME=serve-load` sets it up). The stronger peer is llama.cpp's own `llama-server`, with a slot for each client: give its
path. The notes say which was used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from modelworks.models.fetch import pull
from modelworks.models.load import load

ROOT = Path(__file__).parents[1]
PEER_PYTHON = ROOT / ".venv-bench-serve-load" / "bin" / "python"
PATIENCE = 120.0  # seconds until a server must answer


@dataclass(frozen=True)
class Run:
    """One load on one server."""

    tokens_per_second: float
    first_token_p50: float
    first_token_p95: float


@contextmanager
def serving(command: Sequence[str], port: int, threads: int) -> Iterator[str]:
    """A server's process until the block ends; yields its URL once it answers."""
    environment = os.environ | {"MODELWORKS_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:  # not a pipe, which a talkative server would fill and wait for
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for(url, process)
            yield url
        except (httpx.TransportError, TimeoutError) as error:
            log.seek(0)
            raise SystemExit(
                f"{' '.join(command)}: {error} (exit status {process.poll()})\n"
                f"{log.read().decode(errors='replace')[-2000:]}"
            ) from error
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Until a server answers. Raises TimeoutError where it does not."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            if httpx.get(f"{url}/v1/models", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError("it does not answer")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def make_prompts(tokenizer: Any, count: int, length: int) -> list[str]:
    """Texts of exactly `length` tokens that differ from their first word on."""
    words = "river stone window engine garden letter market winter travel music paper silver bridge forest".split()
    found: list[str] = []
    for seed in range(count):
        chosen = random.Random(seed)
        text = f"Report {seed}:"
        while len(ids := tokenizer.encode(text)) < length:
            text += " " + chosen.choice(words)
        found.append(tokenizer.decode(ids[:length]))
    return found


async def one(client: httpx.AsyncClient, prompt: str, answer: int, biased: dict[str, int]) -> tuple[float, int]:
    """Send a request; seconds to its first token, and how many tokens came."""
    body = {
        "model": "starter",
        "prompt": prompt,
        "max_tokens": answer,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logit_bias": biased,
    }
    began = time.perf_counter()
    first, pieces, counted = 0.0, 0, None
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"status {response.status_code}: {(await response.aread()).decode()[:500]}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if event.get("usage"):
                counted = event["usage"]["completion_tokens"]
            if event.get("choices") and event["choices"][0]["text"]:
                first = first or time.perf_counter() - began
                pieces += 1
    # A server that states no usage in a stream sends one event a token.
    return first, pieces if counted is None else counted


async def load_server(url: str, prompts: Sequence[str], options: argparse.Namespace, biased: dict[str, int]) -> Run:
    limits = httpx.Limits(max_connections=options.clients)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await one(client, "Warm up.", 4, biased)

        async def ask(mine: Sequence[str]) -> list[tuple[float, int]]:
            return [await one(client, prompt, options.answer, biased) for prompt in mine]

        began = time.perf_counter()
        found = await asyncio.gather(*(ask(prompts[at :: options.clients]) for at in range(options.clients)))
        seconds = time.perf_counter() - began
    answers = [each for client in found for each in client]
    firsts = sorted(first for first, _ in answers)
    p95 = firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))]
    return Run(sum(tokens for _, tokens in answers) / seconds, statistics.median(firsts), p95)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("clients", 16),
        ("prompt", 256),
        ("answer", 128),
        ("requests", 2),
        ("rounds", 1),
        ("threads", 2),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--model", default="starter", help="a GGUF model that both servers read")
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's own server, the stronger peer")
    options = parser.parse_args()
    file = pull(options.model)
    tokenizer = load(file, device="meta").tokenizer  # without its weights
    prompts = make_prompts(tokenizer, options.clients * options.requests, options.prompt)
    never = dict.fromkeys(map(str, sorted(tokenizer.stop_ids)), -100)
    room = options.prompt + options.answer + 16

    def ours(port: int) -> list[str]:
        return [sys.executable, "-m", "modelworks", "serve", str(file), "--name", "starter", "--port", str(port)]

    def peer(port: int) -> list[str]:
        if options.llama_server:
            slots, context = str(options.clients), str(options.clients * room)
            return [
                *(str(options.llama_server), "-m", str(file), "--port", str(port), "-np", slots, "-c", context),
                *("-t", str(options.threads), "-tb", str(options.threads)),
            ]
        threads = str(options.threads)
        return [
            *(str(PEER_PYTHON), "-m", "llama_cpp.server", "--model", str(file), "--port", str(port)),
            *(
                "--n_ctx",
                str(room),
                "--n_threads",
                threads,
                "--n_threads_batch",
                threads,
                "--interrupt_requests",
                "False",
                "--verbose",
                "False",
            ),
        ]

    if not options.llama_server and not PEER_PYTHON.exists():
        print(f"{PEER_PYTHON} is missing: make bench NAME=serve-load", file=sys.stderr)
        return 2
    runs: dict[str, list[Run]] = {"ours": [], "peer": []}
    for _ in range(options.rounds):
        for name, command in (("ours", ours), ("peer", peer)):
            port = free_port()
            with serving(command(port), port, options.threads) as url:
                run = asyncio.run(load_server(url, prompts, options, never))
            print(f"{name}: {run.tokens_per_second:.1f} tok/s, first token p50 {run.first_token_p50:.2f} s, "
                  f"p95 {run.first_token_p95:.2f} s", flush=True)  # fmt: skip
            runs[name].append(run)
    speed = {name: statistics.median(run.tokens_per_second for run in each) for name, each in runs.items()}
    p95 = {name: statistics.median(run.first_token_p95 for run in each) for name, each in runs.items()}
    result = {
        "name": "serve-load",
        "ours": round(speed["ours"], 1),
        "peer": round(speed["peer"], 1),
        "ratio": round(speed["ours"] / speed["peer"], 3),
        "unit": "tok/s of all clients together",
        "bar": "at least 2.0 times the peer, with a lower p95 time to first token",
        "holds": speed["ours"] >= 2 * speed["peer"] and p95["ours"] < p95["peer"],
        "notes": {
            "clients": options.clients,
            "tokens": {"prompt": options.prompt, "answer": options.answer},
            "requests_each": options.requests,
            "first_token_p95_s": {name: round(value, 3) for name, value in p95.items()},
            "peer": "llama.cpp's llama-server" if options.llama_server else "llama_cpp.server (one request at a time)",
            "threads": options.threads,
        },
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
