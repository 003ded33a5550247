"""The driver of `llama-bench`, with a program in its place that answers as its README says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modelworks.engine.bench.compare import LLAMA, Side, Task, compare, find_peers

MakeTask = Callable[..., Task]
PROGRAM = f"""#!{sys.executable}
import json, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
open(sys.argv[0] + ".log", "a").write(json.dumps(options) + "\\n")
if "-m" in options and "broken" in options["-m"]:
    sys.exit("error: failed to load model")
speeds = [float(options["-n"]) + float(options["-p"]) + at for at in range(int(options["-r"]))]
print(json.dumps([{{"build_commit": "abc", "build_number": 7, "cpu_info": "some CPU", "samples_ts": speeds}}]))
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "llama-bench"
    path.write_text(PROGRAM)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return path


@pytest.fixture
def llama(program: Path, monkeypatch: pytest.MonkeyPatch) -> Side:
    """The side that is found where no interpreter has the package."""
    monkeypatch.setattr("modelworks.engine.bench.compare._probe", lambda python: {})
    (side,), missing = find_peers(wanted=[LLAMA])
    assert missing == {}
    return side


def test_it_decodes_after_the_context_and_reads_the_prompt(llama: Side, program: Path, make_task: MakeTask) -> None:
    outcomes = compare(make_task(model="x.gguf", threads=2), [llama], rounds=1)
    assert outcomes[LLAMA].fault is None
    assert outcomes[LLAMA].about == {"version": "llama-bench abc (7)", "cpu": "some CPU"}
    memory = outcomes[LLAMA].samples.pop("memory")
    assert memory[0] > 1
    assert outcomes[LLAMA].samples == {"decode": [20.0, 21.0], "prefill": [8.0, 9.0]}
    log = [json.loads(line) for line in Path(f"{program}.log").read_text().splitlines()]
    fixed = {"-m": "x.gguf", "-t": "2", "-r": "2", "-o": "json"}
    assert log == [fixed | {"-p": "0", "-n": "20", "-d": "8"}, fixed | {"-p": "8", "-n": "0"}]


@pytest.mark.parametrize(
    ("model", "said"), [("broken.gguf", "llama-bench ended with status 1"), ("folder", "it reads .gguf files only")]
)
def test_its_failure_is_one_line(llama: Side, make_task: MakeTask, model: str, said: str) -> None:
    outcomes = compare(make_task(model=model), [llama], rounds=1)
    assert outcomes[LLAMA].samples == {}
    assert (outcomes[LLAMA].fault or "").endswith(said)
