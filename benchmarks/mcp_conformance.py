"""Whether modelworks keeps to the Model Context Protocol, judged by the protocol's own conformance suite.

    python benchmarks/mcp_conformance.py [--only NAME ...] [--all]

The suite plays a client against `support/mcp_server.py`, and servers against `support/mcp_client.py`. The first is our
server with handlers of the SDK for what modelworks does not have, the second our client, with the SDK's authorisation
where a server asks for it; the notes say of each scenario how many checks passed, and which sides they are about. A
scenario holds where none of its checks fails and at least one is made or warned of. Scenarios of drafts, of extensions
and of the version 2025-03-26 alone run with `--all` and are counted apart. A client need not know the first two, and
the SDK refuses what one of the last asks for (metadata of an authorisation server that names another issuer).

`make bench NAME=mcp-conformance` sets up Node in `.venv-bench-mcp-conformance`, and the suite within it, once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-bench-mcp-conformance"
SUITE = "@modelcontextprotocol/conformance@0.1.16"
ENTRY = PEERS / "suite" / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
NODE = PEERS / "bin" / "node"
SERVER = ROOT / "benchmarks" / "support" / "mcp_server.py"
CLIENT = ROOT / "benchmarks" / "support" / "mcp_client.py"
SECONDS = 120
CURRENT = {"2025-06-18", "2025-11-25"}
# What our own code answers for; the SDK's answers for the rest, behind our guard and over our way to a server.
OURS = (
    *("server-initialize", "ping", "tools-list", "tools-call-simple-text", "tools-call-error", "json-schema-2020-12"),
    *("dns-rebinding-protection", "server-sse-multiple-streams", "initialize", "tools_call", "sse-retry"),
)


def install() -> None:
    """Put the suite beside the Node that runs it."""
    if ENTRY.exists():
        return
    if not NODE.exists():
        raise SystemExit(f"{PEERS} lacks Node: make bench NAME=mcp-conformance")
    command = [
        str(PEERS / "bin" / "npm"),
        "install",
        "--no-audit",
        "--no-fund",
        "--prefix",
        str(PEERS / "suite"),
        SUITE,
    ]
    environment = os.environ | {"PATH": f"{PEERS / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def scenarios() -> dict[str, list[tuple[str, str]]]:
    """Names and versions of the suite's scenarios, for servers and for clients."""
    told = subprocess.run([str(NODE), str(ENTRY), "list"], check=True, stdout=subprocess.PIPE, text=True).stdout
    servers, _, clients = told.partition("Client scenarios")
    pattern = re.compile(r"^\s+- (\S+) \[(.*)\]$", re.MULTILINE)
    return {"server": pattern.findall(servers), "client": pattern.findall(clients)}


@contextmanager
def serving(log: Path) -> Iterator[str]:
    with log.open("w") as errors:
        process = subprocess.Popen([sys.executable, str(SERVER)], stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise SystemExit(f"the server did not start: {log.read_text()[-2000:]}")
            yield url
        finally:
            process.terminate()
            process.wait(30)


def run(side: str, name: str, folder: Path, url: str) -> Counter[str]:
    """How many checks of a scenario passed, failed and were warned of."""
    results = folder / f"{side}-{name.replace('/', '-')}"
    command = [str(NODE), str(ENTRY), side, "--scenario", name, "-o", str(results)]
    if side == "server":
        command += ["--url", url]
    else:
        command += ["--command", f"{sys.executable} {CLIENT}", "--timeout", str(SECONDS * 1000)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=2 * SECONDS)
    counts: Counter[str] = Counter()
    for file in results.rglob("checks.json"):
        counts.update(check["status"] for check in json.loads(file.read_text()))
    if done.returncode and not counts["FAILURE"]:
        counts["FAILURE"] += 1  # such as a client that ended with an error
    print(f"{side} {name}: {dict(counts)}", flush=True)
    if counts["FAILURE"]:
        print(done.stdout[-3000:], file=sys.stderr)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="names of scenarios")
    parser.add_argument("--all", action="store_true", help="also scenarios of drafts, extensions and 2025-03-26")
    options = parser.parse_args()
    install()
    held: Counter[str] = Counter()
    total: Counter[str] = Counter()
    checks: Counter[str] = Counter()
    told: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        log = folder / "log"
        with serving(log) as url:
            for side, named in scenarios().items():
                for name, versions in named:
                    extra = not CURRENT & set(versions.split(","))
                    if name not in options.only if options.only else extra and not options.all:
                        continue
                    counts = run(side, name, folder, url)
                    kind = f"{side} extras" if extra else side
                    holds = not counts["FAILURE"] and bool(counts["SUCCESS"] + counts["WARNING"])
                    held[kind] += holds
                    total[kind] += 1
                    checks.update({f"{side} passed": counts["SUCCESS"], f"{side} failed": counts["FAILURE"]})
                    checks[f"{side} warned"] += counts["WARNING"]
                    about = "ours" if name in OURS else "the SDK, over ours"
                    told[name] = {"passed": counts["SUCCESS"], "failed": counts["FAILURE"], "about": about}
        tracebacks = log.read_text().count("Traceback")
    ours, peer = held["server"] + held["client"], total["server"] + total["client"]
    result = {
        "name": "mcp-conformance",
        "ours": ours,
        "peer": peer,
        "ratio": round(ours / peer, 4) if peer else 0.0,
        "unit": f"scenarios of {SUITE} that hold, server and client (peer: of how many)",
        "bar": "all of them, and no traceback in the server's log",
        "holds": ours == peer > 0 and not tracebacks,
        "notes": {"held": held, "of": total, "checks": checks, "tracebacks": tracebacks, "scenarios": told},
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
