"""`pull` and `models`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelworks.models import fetch


@pytest.mark.parametrize("ref", ["no-such-model", "hf:nonsense", "pypi:../../etc", "pypi:x9..3", "pypi:", " "])
def test_pulling_a_bad_reference_is_one_line(run, ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWORKS_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run("pull", ref).assert_one_line_error(ref.strip() or "the reference is empty")


def test_pull_prints_where_the_models_are(run, starters: None) -> None:
    result = run("pull")
    assert result.status == 0
    lines = [line.split("\t") for line in result.out.splitlines()]
    assert [ref for ref, _ in lines] == list(fetch.ALIASES)
    assert all(Path(path).exists() for _, path in lines)
    assert run("pull", "starter", "--quiet").out == ""


def test_models_lists_the_cache(run, starters: None) -> None:
    run("pull", "--quiet")
    listed = json.loads(run("models", "--json").out)
    assert {fetch.ALIASES["starter"], fetch.ALIASES["starter-embedder"]} <= {model["ref"] for model in listed}
    table = run("models").out
    for model in listed:
        assert set(model) == {"ref", "path", "bytes"}
        assert model["bytes"] > 1_000_000
        assert model["path"] in table


def test_an_empty_cache_says_what_to_do(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWORKS_CACHE", str(tmp_path / "none"))
    assert "modelworks pull" in run("models").out
    assert json.loads(run("models", "--json").out) == []
