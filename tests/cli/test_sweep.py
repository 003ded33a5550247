"""`modelworks sweep`: the plan it prints, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "sweep.toml"


@pytest.fixture
def arguments(tmp_path: Path) -> tuple[str | Path, ...]:
    """A sweep of a fixed cost, over data of which only the manifest is needed to plan."""
    (tmp_path / "data").mkdir()
    shard = {"documents": 1, "tokens": 1, "files": {}}
    manifest = {"format": 1, "vocab_size": 512, "pad_id": 1, "dtype": "<u2", "shards": [shard]}
    (tmp_path / "data" / "00000.tokens").write_bytes(b"\0\0")
    (tmp_path / "data" / "00000.offsets").write_bytes(bytes(8) + b"\1" + bytes(7))
    shard["files"] = {
        "00000.tokens": {"bytes": 2, "sha256": ""},
        "00000.offsets": {"bytes": 16, "sha256": ""},
    }
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    recipe = tmp_path / "sweep.toml"
    recipe.write_text(RECIPE.read_text().replace("hours = 0.5", "flops = 6e13"))
    data = f'run.data.train={{"{tmp_path}/data" = 1.0}}'
    return recipe, data, f'run.data.held_out="{tmp_path}/data"'


def test_a_plan_is_shown_and_nothing_trained(run, arguments, tmp_path: Path) -> None:
    shown = run("sweep", *arguments, "--plan", "--out", tmp_path / "out")
    assert shown.status == 0, shown.err
    assert len(shown.out.splitlines()) == 2 + 15
    planned = json.loads(run("sweep", *arguments, "--plan", "--json").out)
    assert 6 * sum(one["parameters"] * one["tokens"] for one in planned) == pytest.approx(6e13, rel=1e-3)
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_is_one_line(run, arguments) -> None:
    run("sweep", *arguments, "hours=1", "--plan").assert_one_line_error("state either hours or flops")
    run("sweep", *arguments, "flops=1e8", "--plan").assert_one_line_error("too small")
    run("sweep", *arguments, "run.optim.lr=fast", "--plan").assert_one_line_error("run.optim.lr")
    run("sweep", "nowhere.toml").assert_one_line_error("nowhere.toml")
