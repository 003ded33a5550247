"""The command as a whole: start-up, usage errors, pipes, signals."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelworks.__main__ import main as start
from modelworks.cli import app, fail

HEAVY = ("torch", "numpy", "tokenizers", "safetensors", "huggingface_hub", "sqlite3", "lxml", "docx", "lancedb")
REPORT = f"import sys; print([name for name in {HEAVY} if name in sys.modules], len(sys.modules), file=sys.stderr)"


def modules_after(code: str) -> tuple[list[str], int]:
    """The heavy modules, and how many of all kinds, that a fresh interpreter holds after running `code`."""
    script = f"import atexit, sys\natexit.register(lambda: exec({REPORT!r}))\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    names, _, number = done.stderr.strip().rpartition(" ")
    return ast.literal_eval(names), int(number)


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        *([verb, "--help"] for verb in ("ask", "docs", "generate", "bench", "plan")),
        ["plan", "fit", "--help"],
        ["feedback", "sample", "--help"],
    ],
)
def test_help_loads_nothing_heavy(argv: list[str]) -> None:
    heavy, number = modules_after(
        f"import sys; sys.argv = ['modelworks', *{argv}]; from modelworks.cli import main; main()"
    )
    assert heavy == []
    assert number < 700  # about 500 of them are the standard library's, cyclopts' and rich's


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy, number = modules_after("import modelworks")
    assert heavy == []
    assert number < 150


def test_every_verb_is_in_the_help(run) -> None:
    result = run("--help")
    assert result.status == 0
    for verb in ("ask", "index", "docs", "chat", "generate", "bench", "sweep", "plan", "pull", "models"):
        assert f" {verb} " in result.out
        assert run(verb, "--help").status == 0


def test_every_verb_resolves() -> None:
    for verb in ("ask", "index", "docs", "chat", "generate", "bench", "sweep", "plan", "pull", "models"):
        assert app[verb].name == (verb,)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["frobnicate"], "frobnicate"),
        (["docs", "frobnicate", "x"], "frobnicate"),
        (["ask"], "FOLDER"),
        (["ask", ".", "what", "is", "this"], "in quotes"),
        (["ask", ".", "q", "--passages", "0"], "--passages"),
        (["ask", ".", "q", "--passages", "9" * 30], "--passages"),
        (["ask", ".", "q", "--threshold", "1.5"], "--threshold"),
        (["ask", ".", "q", "--tresholt", "1"], "--threshold"),
        (["index", ".", "--workers", "many"], "--workers"),
        (["generate", "x", "--temperature", "hot"], "--temperature"),
        (["models", "extra"], "extra"),
    ],
)
def test_a_usage_error_is_one_line_that_names_the_fault(run, argv: list[str], said: str) -> None:
    run(*argv).assert_one_line_error(said, "--help", status=2)


def test_a_message_with_control_characters_stays_one_line(capsys) -> None:
    with pytest.raises(SystemExit) as leaving:
        fail("a\nb\x1b[31m\udcff: bad")
    assert leaving.value.code == 1
    assert capsys.readouterr().err == "modelworks: a\\nb\\x1b[31m\\udcff: bad\n"


@pytest.mark.parametrize(("argv", "status"), [(["models"], 141), (["--help"], 1)])  # rich, which prints help, exits 1
def test_a_reader_that_goes_away_ends_the_command_quietly(command, argv: list[str], status: int) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(command(*argv), stdout=write_end, stderr=subprocess.PIPE, timeout=60)
    os.close(write_end)
    assert done.returncode == status
    assert done.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_on_a_full_disk_is_one_line(command) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command("--help"), stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1
    assert done.stderr == b"modelworks: No space left on device\n"


def test_ctrl_c_while_starting_is_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("modelworks.cli.main", interrupted)
    with pytest.raises(SystemExit) as stopped:
        start()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "modelworks: stopped\n"


def test_ctrl_c_says_that_it_stopped(run, monkeypatch) -> None:
    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("modelworks.models.fetch.models", interrupted)
    run("models").assert_one_line_error("stopped", status=130)
