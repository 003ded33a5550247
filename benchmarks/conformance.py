"""Whether the server keeps to OpenAI's API and to its own description, judged by other people's tools.

llm-comply checks answers, streams, tool calls and errors of chat completions and of responses. Schemathesis reads
`/openapi.json` and sends right and wrong requests to every endpoint; there may be no 5xx, no status or body that the
description does not have, nothing wrong that is accepted, and no traceback in the server's log.

    python benchmarks/conformance.py [--examples 100] [--tries 5] [--model starter]

What a starter model cannot do is not counted: it sees no images, so the two checks that send one fail, and they must
do so with status 400. It is small, samples at temperature 1 and sometimes does not end its answer, which checks that
want a whole answer take for a fault: a check whose answer was cut is asked again, up to `--tries` times, and the notes
say how often. `make bench NAME=conformance` sets up both tools in `.venv-bench-conformance`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / ".venv-bench-conformance" / "bin"
FORMATS = ("openai-chat", "open-responses")
IMAGES = ("chat-image-input", "image-input")
CUT = re.compile("got '(length|incomplete)'")
# What depends on several fields or on the server's models, the description says in words: valid data may be refused.
CONFIG = '[checks]\npositive_data_acceptance.expected-statuses = ["2xx", "400", "404"]\n'


@contextmanager
def serving(model: str, kv_mib: int, log: Path, *more: str) -> Iterator[str]:
    """A server's process until the block ends; yields its URL."""
    command = [sys.executable, "-m", "modelworks", "serve", model, "--name", "starter", "--port", "0"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--kv-mib", str(kv_mib), *more], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"the server did not start: {log.read_text()[-2000:]}")
            yield line.split()[-1]
        finally:
            process.terminate()
            process.wait(60)


def comply(url: str, kind: str, only: str | None = None) -> dict[str, dict[str, Any]]:
    """llm-comply's results by the name of the check."""
    command = [str(TOOLS / "llm-comply"), "--format", kind, "-u", f"{url}/v1", "-k", "none", "-m", "starter", "--json"]
    told = subprocess.run([*command, *(["-f", only] if only else [])], stdout=subprocess.PIPE, text=True)
    return {each["id"]: each for each in json.loads(told.stdout)["results"]}


def said(result: dict[str, Any]) -> str:
    return "; ".join(result.get("errors", ()))


def check_api(url: str, tries: int) -> tuple[int, int, dict[str, Any]]:
    """How many of llm-comply's checks pass, of how many; and notes."""
    passed = total = 0
    again: dict[str, int] = {}
    failed: dict[str, list[str]] = {}
    skipped: list[str] = []
    refused: list[str] = []
    for kind in FORMATS:
        for name, result in comply(url, kind).items():
            if result["status"] == "skipped":
                skipped.append(name)
                continue
            if name in IMAGES and "HTTP 400" in said(result):
                refused.append(name)
                continue
            while CUT.search(said(result)) and again.get(name, 1) < tries:
                again[name] = again.get(name, 1) + 1
                result = comply(url, kind, name)[name]
            total += 1
            passed += result["status"] == "passed"
            if result["status"] != "passed":
                failed[name] = result.get("errors", [])
            print(f"{kind} {name}: {result['status']}", flush=True)
    notes = {"failed": failed, "tries": again, "skipped_by_the_tool": skipped, "images_refused_with_400": refused}
    return passed, total, notes


def fuzz(url: str, examples: int, folder: Path) -> tuple[int, int, dict[str, Any]]:
    """How many operations schemathesis finds no fault with, of how many; and notes."""
    config, report = folder / "schemathesis.toml", folder / "junit.xml"
    config.write_text(CONFIG)
    command = [str(TOOLS / "schemathesis"), "--config-file", str(config), "run", f"{url}/openapi.json", "--no-color"]
    command += ["--checks", "all", "--max-examples", str(examples), "--continue-on-failure", "--workers", "2"]
    command += ["--request-timeout", "120", "--report", "junit", "--report-junit-path", str(report)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=folder).stdout
    operations = re.search(r"Tested: +(\d+)", told)
    generated = re.search(r"(\d+) generated", told)
    if operations is None or generated is None:
        raise SystemExit(f"schemathesis did not finish:\n{told[-3000:]}")
    faults = re.findall(r"^_+ ((?:GET|POST) \S+) _+$", told, re.MULTILINE)
    if faults:
        print(told, file=sys.stderr)
    total = int(operations[1])
    return total - len(set(faults)), total, {"requests": int(generated[1]), "faults": sorted(set(faults))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100, help="requests to each operation, beside fixed ones")
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--model", default="starter")
    options = parser.parse_args()
    if not (TOOLS / "schemathesis").exists():
        print(f"{TOOLS} lacks the tools: make bench NAME=conformance", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        log = folder / "log"
        # A cache of a few hundred tokens, and of a few dozen, so that an answer without a maximum ends soon.
        with serving(options.model, 24, log) as url:
            passed, checks, notes = check_api(url, options.tries)
        logged = log.read_text()
        documents = folder / "documents"
        documents.mkdir()
        (documents / "kettle.md").write_text("# Kettle\n\nThe warranty lasts three years.\n")
        with serving(options.model, 3, log, "--docs", str(documents), "--store", str(folder / "store")) as url:
            sound, operations, found = fuzz(url, options.examples, folder)
        logged += log.read_text()
    tracebacks = logged.count("Traceback")
    if tracebacks:
        print(logged[-5000:], file=sys.stderr)
    ours, peer = passed + sound, checks + operations
    result = {
        "name": "conformance",
        "ours": ours,
        "peer": peer,
        "ratio": round(ours / peer, 4),
        "unit": "checks of llm-comply and operations that schemathesis tests (peer: of how many)",
        "bar": "all of them, and no traceback in the server's log",
        "holds": ours == peer and not tracebacks,
        "notes": {"llm-comply": notes, "schemathesis": found, "tracebacks": tracebacks},
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
