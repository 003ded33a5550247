"""`modelworks constitution`: a real model through the loop, resumed for nothing, and faults in one line."""

from __future__ import annotations

import json

import pytest

PRINCIPLE = """
[[principles]]
name = "kind"
critique = "Where is your answer unkind?"
revision = "Write it again, kindly."
question = "Which answer is kinder?"
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "c.toml"
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "How do I make tea?"}\n{"prompt": "Name a colour."}\n')
    path.write_text(f'prompts = ["{prompts}"]\nmax_tokens = 8\nleave_out = []\n{PRINCIPLE}')
    return path


def test_the_starter_revises_its_answers(run, starters, recipe, tmp_path):
    done = run("constitution", recipe, "--out", tmp_path / "run", "--quiet")
    assert done.status == 0, done.err
    assert done.out.startswith(f"{tmp_path}/run\n")
    assert "of 4 choices" in done.out
    lines = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    assert lines[0]["model"] == "starter"
    assert len(lines[0]["model_sha256"]) == 64
    assert [line["stage"] for line in lines[1:]].count("verdict") == 2
    again = run("constitution", recipe, "--out", tmp_path / "run", "--json")
    told = json.loads(again.out)
    assert (told["prompts"], told["judged"]) == (2, 2)
    assert told["bias"]["verdicts"] == 2
    assert len((tmp_path / "run" / "records.jsonl").read_text().splitlines()) == len(lines)
    run("constitution", recipe, "seed=1", "--out", tmp_path / "run").assert_one_line_error(
        "records of another constitution", "recipe"
    )


def test_faults_are_one_line(run, recipe, tmp_path):
    out = ("--out", tmp_path / "run")
    run("constitution", tmp_path / "no.toml", *out).assert_one_line_error("no.toml: No such file")
    run("constitution", recipe, "revision=2", *out).assert_one_line_error("revision: unknown; did you mean revisions")
    run("constitution", recipe, "prompts=[]", *out).assert_one_line_error("there are no prompts")
    run("constitution", recipe, "judge.kind=endpoint", *out).assert_one_line_error("needs url and model")
    run("constitution", recipe, "model=no-such", *out).assert_one_line_error("no-such")


def test_a_judge_that_is_down_is_one_line_and_keeps_the_answers(run, starters, recipe, tmp_path):
    judge = ("judge.kind=endpoint", "judge.url=http://127.0.0.1:9/v1", "judge.model=m", "judge.tries=1")
    done = run("constitution", recipe, *judge, "--out", tmp_path / "run", "--quiet")
    done.assert_one_line_error("http://127.0.0.1:9/v1/chat/completions: no verdict")
    assert len((tmp_path / "run" / "records.jsonl").read_text().splitlines()) == 1 + 2 * 3
