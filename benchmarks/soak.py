"""Mixed load for minutes, with clients that leave at any moment: is the memory flat, and is every slot given back?

Chat and completions, whole and streamed, with schemas and tools, embeddings and requests that are wrong. A third of the
clients leave after a random time. Afterwards the server must be idle within seconds, hold no cache block, have answered
nothing with a 5xx but for being busy, and its resident memory must be what it was after the first quarter.

    python benchmarks/soak.py [--minutes 10] [--clients 12] [--model starter]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

GROWTH = 1.05
"""Of the median resident memory, from the second quarter of the time to the last."""
IDLE_WITHIN = 5.0  # seconds
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "note", "parameters": SCHEMA}}


def requests(chosen: random.Random) -> tuple[str, dict[str, Any], set[int]]:
    """A path, a body and the statuses that are right for it."""
    words = " ".join(chosen.choices("red green blue one two three river stone sky".split(), k=chosen.randint(1, 200)))
    chat = {
        "model": "starter",
        "messages": [{"role": "user", "content": words}],
        "max_tokens": chosen.randint(1, 48),
        "stream": chosen.random() < 0.5,
        "temperature": chosen.choice((0, 1)),
    }
    kind = chosen.randrange(8)
    if kind == 0:
        return "/v1/chat/completions", chat | {"n": chosen.randint(2, 4)}, {200}
    if kind == 1:
        held = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
        return "/v1/chat/completions", chat | {"response_format": held}, {200}
    if kind == 2:
        return "/v1/chat/completions", chat | {"tools": [TOOL]}, {200}
    if kind == 3:
        return "/v1/completions", {"model": "starter", "prompt": words, "max_tokens": 16, "logprobs": 3}, {200}
    if kind == 4:
        return "/v1/embeddings", {"model": "starter-embedder", "input": words[:400]}, {200}
    if kind == 5:
        wrong = chosen.choice(({"temperature": "hot"}, {"colour": 1}, {"max_tokens": 10**7}, {"response_format": 3}))
        return "/v1/chat/completions", chat | wrong, {400}
    if kind == 6:
        asked = {"model": "starter", "input": words, "max_output_tokens": 16, "stream": chat["stream"]}
        return "/v1/responses", asked, {200}
    return "/v1/chat/completions", chat, {200}


async def client(http: httpx.AsyncClient, seed: int, until: float, counts: Counter[str], wrong: list[str]) -> None:
    """Send requests until the time is up; leave every third before its end."""
    chosen = random.Random(seed)
    while time.monotonic() < until:
        path, body, expected = requests(chosen)
        patience = chosen.uniform(0, 2) if chosen.random() < 1 / 3 else 300.0
        try:
            async with asyncio.timeout(patience), http.stream("POST", path, json=body) as response:
                text = (await response.aread()).decode()
            counts[str(response.status_code)] += 1
            if response.status_code not in expected | {429, 503} or ('"error":{"message"' in text and 200 in expected):
                wrong.append(f"{path} {response.status_code}: {text[-300:]}")
        except TimeoutError:
            counts["left"] += 1


async def sample(http: httpx.AsyncClient, process: subprocess.Popen[str], until: float, memory: list[float]) -> None:
    while time.monotonic() < until:
        memory.append(resident_mib(process.pid))
        await asyncio.sleep(1)


def resident_mib(pid: int) -> float:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


async def idle_after(http: httpx.AsyncClient) -> tuple[float, dict[str, float]]:
    """Seconds until nothing runs, waits or holds a block, and the server's last word on it."""
    began = time.monotonic()
    names = ("requests_running", "requests_queued", "cache_blocks_used")
    while True:
        lines = (await http.get("/metrics")).text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        state = {name: float(values[f"modelworks_{name}"]) for name in names}
        waited = time.monotonic() - began
        if not any(state.values()) or waited > 60:
            return waited, state
        await asyncio.sleep(0.1)


async def soak(url: str, process: subprocess.Popen[str], options: argparse.Namespace) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    memory: list[float] = []
    until = time.monotonic() + 60 * options.minutes
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=None)) as http:
        clients = (client(http, seed, until, counts, wrong) for seed in range(options.clients))
        await asyncio.gather(sample(http, process, until, memory), *clients)
        waited, state = await idle_after(http)
    quarter = max(1, len(memory) // 4)
    before, after = statistics.median(memory[quarter : 2 * quarter]), statistics.median(memory[-quarter:])
    holds = after <= GROWTH * before and waited <= IDLE_WITHIN and not any(state.values()) and not wrong
    for line in wrong[:5]:
        print(line, file=sys.stderr)
    return {
        "name": "soak",
        "ours": round(after, 1),
        "peer": round(before, 1),
        "ratio": round(after / before, 4),
        "unit": "MiB resident in the last quarter (peer: in the second)",
        "bar": f"ratio at most {GROWTH}, idle within {IDLE_WITHIN:g} s, no block held, no wrong answer",
        "holds": holds,
        "notes": {
            "minutes": options.minutes,
            "clients": options.clients,
            "requests": dict(sorted(counts.items())),
            "wrong": len(wrong),
            "idle_after_s": round(waited, 2),
            "state": state,
            "memory_mib": [round(each) for each in memory[:: max(1, len(memory) // 20)]],
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--model", default="starter")
    options = parser.parse_args()
    # A small cache is full soon: the memory that it takes up as it fills is no leak.
    command = [sys.executable, "-m", "modelworks", "serve", options.model]
    command += ["--name", "starter", "--port", "0", "--kv-mib", "64"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        result = asyncio.run(soak(line.split()[-1], process, options))
    finally:
        process.terminate()
        process.wait(60)
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
