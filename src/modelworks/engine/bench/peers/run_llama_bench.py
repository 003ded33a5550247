"""llama.cpp as its own `llama-bench` measures it: reading a prompt, decoding, and memory, but no requests.

It takes the program's path before the task. `compare` runs this text, with `measure` beside it, like the other peers.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

from measure import end_with_parent

end_with_parent()
executable, task = sys.argv[-2], json.loads(sys.argv[-1])
if not task["model"].endswith(".gguf"):
    raise SystemExit("it reads .gguf files only")


def say(**line):
    print(json.dumps(line), flush=True)


def test(*options):
    """One test of llama-bench, as its README documents its JSON: the first and only entry of a list."""
    fixed = ["-m", task["model"], "-t", str(task["threads"]), "-r", str(task["passes"]), "-o", "json"]
    done = subprocess.run([executable, *fixed, *options], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"llama-bench ended with status {done.returncode}")
    return json.loads(done.stdout)[0]


context = str(task["context"])
measured = []
if "decode" in task["kinds"]:
    measured.append(("decode", test("-p", "0", "-n", str(task["tokens"]), "-d", context)))
if "prefill" in task["kinds"]:
    measured.append(("prefill", test("-p", context, "-n", "0")))
if measured:
    build = measured[0][1]
    say(about={"version": f"llama-bench {build['build_commit']} ({build['build_number']})", "cpu": build["cpu_info"]})
for name, entry in measured:
    say(measure=name, samples=entry["samples_ts"])
if measured and "memory" in task["kinds"]:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    say(measure="memory", samples=[peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)])
say(done=True)
