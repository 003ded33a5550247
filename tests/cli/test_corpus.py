"""`corpus`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = """The committee of the town met in the old hall to speak about the bridge.
It was built long ago, and nobody knows with certainty who paid for it.
Some of the stones have moved, so carts must be led across one by one.
A mason from the next valley said that he could mend it before winter.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    root.mkdir()
    (root / "good.txt").write_text(GOOD)
    (root / "copy.txt").write_text(GOOD.upper())
    (root / "short.txt").write_text("Too short.")
    (root / "rows.jsonl").write_text('{"text": "x"}\n{broken\n')
    return root


def test_a_table_says_what_each_step_did(run, folder: Path, tmp_path: Path) -> None:
    result = run("corpus", folder, "--out", tmp_path / "out")
    assert result.status == 0, result
    lines = {line.split("  ")[0]: line for line in result.out.splitlines()}
    assert "not valid JSON 1" in lines["read"]
    assert "gopher/words 2" in lines["filter"]
    assert "the words of an earlier text 1" in lines["exact duplicates"]
    assert result.out.splitlines()[-1].startswith(f"{tmp_path / 'out'}: 1 texts, 286 characters, 1 file, ")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "texts-00000.jsonl.zst",
        "dropped.jsonl.gz",
        "report.json",
        "report.html",
    }


def test_json_is_the_report(run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--filters", "none", "--near-duplicates", "keep", "--cleaners", "nfc,space", "--format", "jsonl"]
    result = run("corpus", folder, "--out", out, "--json", "--workers", "1", "--seed", "3", *options)
    report = json.loads(result.out)
    assert report == json.loads((out / "report.json").read_text())
    assert report["texts"] == 3
    assert report["recipe"]["filters"] == []
    assert report["recipe"]["cleaners"] == ["nfc", "space"]
    assert report["recipe"]["near_duplicates"] is None
    assert report["recipe"]["seed"] == 3
    assert report["files"][0]["name"] == "texts-00000.jsonl"
    assert run("corpus", folder, "--out", out, "--quiet").out == ""


def test_paths_are_mixed_by_weights(run, tmp_path: Path) -> None:
    for name in "ab":
        rows = [{"text": f"{name} {at} {'word ' * 20}"} for at in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = (tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    options = ("--weights", "3,1", "--filters", "none", "--near-duplicates", "keep", "--out", tmp_path / "out")
    result = run("corpus", *paths, *options)
    assert result.status == 0, result
    assert f"{tmp_path / 'a.jsonl'}: 75% of the mixture, 40 texts, read 1.00 times" in result.out
    assert f"{tmp_path / 'b.jsonl'}: 25% of the mixture, 14 texts, read 0.33 times" in result.out
    run("corpus", paths[0], *options).assert_one_line_error("1 paths and 2 weights")


def test_bad_input_is_one_line(run, folder: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    run("corpus", *out).assert_one_line_error("name at least one file or folder")
    run("corpus", tmp_path / "nowhere", *out).assert_one_line_error("there is no such file or folder")
    run("corpus", folder / "short.txt", *out).assert_one_line_error("no text is left: gopher/words (1)")
    run("corpus", folder, *out, "--filters", "gofer").assert_one_line_error("there is no filter 'gofer'")
    run("corpus", folder, "--out", folder / "good.txt").assert_one_line_error("is a file; name a folder")
    run("corpus", folder, *out, "--evaluation", folder).assert_one_line_error("the evaluation set cannot be read")
    run("corpus", folder).assert_one_line_error("--out", status=2)
    run("corpus", folder, *out, "--weights", "a").assert_one_line_error("--weights", status=2)
    run("corpus", folder, *out, "--near-duplicates", "x").assert_one_line_error("--near-duplicates", status=2)


def test_help_and_a_run_load_no_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from modelworks.data.prepare import prepare; "
        f"prepare([{str(folder)!r}], {str(tmp_path / 'out')!r}, quiet=True); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
