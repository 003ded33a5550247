from __future__ import annotations

import json

import pytest

from modelworks.core.errors import ConfigError
from modelworks.engine.sample import Sampling
from modelworks.evals.answers import is_same_number
from modelworks.evals.tasks import Example
from modelworks.train.rationales import Sampled, sample_rationales

EXAMPLES = [
    Example([{"role": "user", "content": "2+2?"}], "#### 4"),
    Example([{"role": "user", "content": "3+4?"}], "#### 7"),
    Example([{"role": "user", "content": "9*9?"}], "#### 81"),
]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_right_rationales_are_kept(scripted, tmp_path):
    engine = scripted(
        [
            *["Two and two.\n#### 5", " It is 4.\n", "So 4", "4 again"],  # the first right ones
            *["#### 8", "It would be 7 but...", "", "9"],  # wrong, cut, empty, wrong
            *["81", "81", "#### 81", "80"],  # the same words count once
        ]
    )
    report = sample_rationales(engine, EXAMPLES, tmp_path / "kept.jsonl", is_right=is_same_number, samples=4, keep=2)
    found = rows(tmp_path / "kept.jsonl")
    assert [row["messages"][-1]["content"] for row in found] == ["It is 4.", "So 4", "81", "#### 81"]
    assert found[0]["messages"] == [*EXAMPLES[0].messages, {"role": "assistant", "content": "It is 4."}]
    assert [row["source"] for row in found] == [
        {"example": 0, "sample": 1}, {"example": 0, "sample": 2},
        {"example": 2, "sample": 0}, {"example": 2, "sample": 2},
    ]  # fmt: skip
    assert report == Sampled(asked=3, answers=12, finished=11, right=6, kept=4, solved=2)


def test_without_a_check_every_finished_answer_is_kept(scripted, tmp_path):
    """Sequence-level distillation: the teacher's answers, whatever they are."""
    engine = scripted(["five", "cut...", "eighty-one"])
    sample_rationales(engine, EXAMPLES, tmp_path / "all.jsonl", is_right=None, samples=1)
    assert [row["messages"][-1]["content"] for row in rows(tmp_path / "all.jsonl")] == ["five", "eighty-one"]


def test_each_sample_has_a_seed_of_its_own_and_the_teacher_its_shots(scripted, tmp_path):
    engine = scripted(["1"] * 6)
    sampling = Sampling(temperature=1.0, seed=100)
    sample_rationales(
        engine, EXAMPLES, tmp_path / "x.jsonl", is_right=None, samples=2, sampling=sampling, shots=EXAMPLES[2:]
    )
    assert [asked.seed for _, asked in engine.asked] == [100, 101, 102, 103, 104, 105]
    assert all(asked.temperature == 1.0 for _, asked in engine.asked)
    assert engine.asked[0][0] == [*EXAMPLES[2].solved(), *EXAMPLES[0].messages]
    assert rows(tmp_path / "x.jsonl")[0]["messages"][0] == EXAMPLES[0].messages[0], "a student reads no shots"


def test_a_run_that_fails_leaves_no_half_file(scripted, tmp_path):
    with pytest.raises(RuntimeError):  # the script ends early
        sample_rationales(scripted(["4"]), EXAMPLES, tmp_path / "x.jsonl", is_right=None, samples=1)
    assert list(tmp_path.iterdir()) == []


def test_numbers_below_one(scripted, tmp_path):
    with pytest.raises(ConfigError, match="samples=0"):
        sample_rationales(scripted([]), EXAMPLES, tmp_path / "x.jsonl", is_right=None, samples=0)
