"""The loop: what is asked and recorded, what is left out and why, and that a killed run goes on where it was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelworks.core.config import resolve, to_toml
from modelworks.core.errors import ConfigError, DataError
from modelworks.data.files import read_rows
from modelworks.data.formats import to_sample
from modelworks.data.sample import Dialogue, Pair
from modelworks.feedback.constitution import PAIRS, RECORDS, SFT, constitution, read_prompts
from modelworks.feedback.endpoint import JudgeError
from modelworks.feedback.journal import read_journal
from modelworks.feedback.judge import Verdict
from modelworks.feedback.principles import ConstitutionRecipe

PRINCIPLES = [
    {"name": name, "critique": f"Where is it not {name}?", "revision": f"Be {name}.", "question": f"Which is {name}?"}
    for name in ("kind", "true", "brief")
]


@pytest.fixture
def recipe(tmp_path):
    """Makes a recipe over prompts that are written into a file."""

    def make(prompts, **changes):
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
        values = {"principles": PRINCIPLES, "prompts": [str(path)], "max_tokens": 12, **changes}
        return resolve(ConstitutionRecipe, values)

    return make


class Likes:
    """A judge that finds an answer better the longer it is, in both orders; `bias` is for what stands first."""

    def __init__(self, bias=0.0):
        self.bias, self.seen = bias, []

    def __call__(self, comparisons):
        for one in comparisons:
            self.seen.append(one)
            first, second = float(len(one.first)), float(len(one.second))
            yield Verdict(((first + self.bias, second), (first, second + self.bias)))


def records(folder):
    return read_journal(folder / RECORDS).lines


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_step_is_asked_in_order_and_recorded(recipe, says, tmp_path):
    engine, judge = says(["It is hot.", "That is curt.", "It is pleasantly hot."]), Likes()
    report = constitution(recipe(["How is tea?"], seed=3), tmp_path / "run", engine=engine, judge=judge)
    response, critique, revision, verdict = records(tmp_path / "run")
    drawn = next(one for one in PRINCIPLES if one["name"] == critique["principle"])

    user = {"role": "user", "content": "How is tea?"}
    before = [user, {"role": "assistant", "content": "It is hot."}, {"role": "user", "content": drawn["critique"]}]
    after = [{"role": "assistant", "content": "That is curt."}, {"role": "user", "content": drawn["revision"]}]
    assert [prompt for prompt, _ in engine.asked] == [[user], before, [*before, *after]]
    assert [one["stage"] for one in (response, critique, revision, verdict)] == [
        "response", "critique", "revision", "verdict",
    ]  # fmt: skip
    assert response["messages"] == [user]
    assert revision["text"] == "It is pleasantly hot."
    assert len({one["seed"] for one in (response, critique, revision)}) == 3
    assert verdict["question"] == judge.seen[0].question
    assert verdict["question"] in [one["question"] for one in PRINCIPLES]
    assert (verdict["choice"], verdict["logprobs"]) == ("revision", [[10, 21], [10, 21]])
    assert (report.judged, report.revised_wins, report.sft, report.pairs) == (1, 1, 1, 1)
    assert sum(report.by_principle.values(), ()) == (1, 1)


def test_what_is_written_is_read_back_as_training_data(recipe, says, tmp_path):
    """The layer that trains must find what this one leaves."""
    constitution(recipe(["a?"]), tmp_path / "run", engine=says(["one", "bad", "one two"]), judge=Likes())
    (sft,) = [to_sample(row) for row in read_rows(tmp_path / "run" / SFT)]
    assert isinstance(sft, Dialogue)
    assert [turn["content"] for turn in sft.messages] == ["a?", "one two"]
    (pair,) = [to_sample(row) for row in read_rows(tmp_path / "run" / PAIRS)]
    assert isinstance(pair, Pair)
    assert pair.prompt == ({"role": "user", "content": "a?"},)
    assert (pair.chosen[0]["content"], pair.rejected[0]["content"]) == ("one two", "one")
    assert pair.margin is None, "a judge's log-odds are no margin of a reward"
    assert pair.extra["judge"]["log_odds"] == 4


def test_several_revisions_each_begin_with_the_last(recipe, says, tmp_path):
    engine = says(["one", "c1", "two", "c2", "three"])
    constitution(recipe(["a?"], revisions=2), tmp_path / "run", engine=engine, judge=Likes())
    assert engine.asked[3][0][1]["content"] == "two"
    assert len(engine.asked[3][0]) == 3, "the first critique is not carried on"
    assert [(one["stage"], one["round"]) for one in records(tmp_path / "run")][3:5] == [
        ("critique", 1), ("revision", 1),
    ]  # fmt: skip
    assert rows(tmp_path / "run" / PAIRS)[0]["chosen"][0]["content"] == "three"


def test_two_samples_are_compared_without_a_revision(recipe, says, tmp_path):
    engine = says(["one", "one two"])
    report = constitution(recipe(["a?"], compare="samples"), tmp_path / "run", engine=engine, judge=Likes())
    assert (report.sft, report.pairs, report.revised_wins) == (0, 1, 1)
    seeds = [sampling.seed for _, sampling in engine.asked]
    assert seeds[0] != seeds[1]


def test_more_prompts_than_go_together(recipe, says, tmp_path):
    """Each keeps its own answer, critique and revision across chunks."""
    said = []
    for chunk in (range(32), range(32, 40)):
        said += [f"{what} {at}" for what in ("answer", "critique", "a longer revision") for at in chunk]
    prompts = [f"question {at}" for at in range(40)]
    report = constitution(recipe(prompts), tmp_path / "run", engine=says(said), judge=Likes())
    assert (report.prompts, report.pairs) == (40, 40)
    for at, row in enumerate(rows(tmp_path / "run" / PAIRS)):
        assert row["prompt"][0]["content"] == f"question {at}"
        assert row["rejected"][0]["content"] == f"answer {at}"
        assert row["chosen"][0]["content"] == f"a longer revision {at}"


def test_faults_are_counted_and_left_out_by_choice(recipe, says, tmp_path):
    prompts = ["empty?", "same?", "cut?", "echo this question of mine back?", "copy?", "fine?"]
    said = ["x", "Yes, so.", "y", "z", "v", "w"]
    said += ["c", "c", "c", "Echo this question of mine back", "This is my whole critique.", "c"]
    said += ["  ", "yes so", "longer...", "zz", "this is my whole critique", "ww"]
    report = constitution(recipe(prompts), tmp_path / "run", engine=says(said), judge=Likes())
    assert report.faults == {"empty": 1, "unchanged": 1, "cut": 1, "echo": 2}
    assert (report.prompts, report.judged, report.sft, report.pairs) == (6, 6, 1, 1)
    # Nothing is asked again when only what is written is to be another; what is empty never is.
    kept = constitution(recipe(prompts, leave_out=[]), tmp_path / "run", engine=says([]), judge=Likes())
    assert (kept.sft, kept.pairs) == (5, 5)


def test_a_verdict_that_the_order_decided_is_counted(recipe, says, tmp_path):
    report = constitution(recipe(["a?"]), tmp_path / "run", engine=says(["one", "c", "two and"]), judge=Likes(bias=9.0))
    assert report.faults == {"flipped": 1}
    assert (report.bias.flipped, report.bias.first_place, report.bias.mean) == (1, 2, 9.0)
    assert report.pairs == 1
    left = constitution(recipe(["a?"], leave_out=["flipped"]), tmp_path / "run", engine=says([]), judge=Likes(bias=9.0))
    assert (left.pairs, left.sft) == (0, 1)


def test_a_prompt_that_does_not_fit_costs_no_other(recipe, says, tmp_path):
    """Public class of faults: one long row ends a run of hours."""
    engine = says(["x", "c", "x y"])
    report = constitution(recipe(["word " * 600, "a?"]), tmp_path / "run", engine=engine, judge=Likes())
    assert report.faults == {"too long": 1}
    assert "do not fit the model's context" in records(tmp_path / "run")[0]["failure"]
    assert report.pairs == 1


def test_a_failed_verdict_is_recorded_and_not_a_pair(recipe, says, tmp_path):
    def judge(comparisons):
        return (Verdict(None, "the rule: no number") for _ in comparisons)

    report = constitution(recipe(["a?"]), tmp_path / "run", engine=says(["x", "c", "x y"]), judge=judge)
    assert (report.faults, report.judged, report.pairs, report.sft) == ({"unjudged": 1}, 0, 0, 1)
    assert report.win_interval == (0.0, 1.0)
    assert records(tmp_path / "run")[-1]["failure"] == "the rule: no number"


def test_a_judge_that_is_down_loses_no_answer(recipe, says, tmp_path):
    def down(comparisons):
        raise JudgeError("http://x: no verdict after 4 tries: refused")

    with pytest.raises(JudgeError):
        constitution(recipe(["a?"]), tmp_path / "run", engine=says(["x", "c", "x y"]), judge=down)
    assert len(records(tmp_path / "run")) == 3


def test_records_of_another_constitution_are_refused(recipe, says, tmp_path):
    judge = Likes()
    constitution(recipe(["a?"]), tmp_path / "run", engine=says(["x", "c", "x y"]), judge=judge)
    with pytest.raises(ConfigError, match="another constitution or model: they differ in constitution, recipe"):
        constitution(recipe(["a?"], principles=PRINCIPLES[:2]), tmp_path / "run", engine=says([]), judge=judge)
    more = constitution(recipe(["a?", "b?", "a?"]), tmp_path / "run", engine=says(["x", "c", "x y"]), judge=judge)
    assert (more.prompts, more.repeated, more.pairs) == (2, 1, 2)


def test_prompts_of_every_format(tmp_path):
    lines = [
        {"prompt": "a"},
        {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "x"}]},
        {"chosen": "\n\nHuman: c\n\nAssistant: yes", "rejected": "\n\nHuman: c\n\nAssistant: no"},
        {"prompt": "half \ud800 character", "completion": "x"},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "part \ud800"}]}], "completion": "x"},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prompts, repeated = read_prompts([path])
    said = [turns[-1]["content"] for turns in prompts.values()]
    assert said == ["a", "b", "c", "half ? character", [{"type": "text", "text": "part ?"}]]
    assert repeated == 0
    assert len(read_prompts([path], 2)[0]) == 2
    (tmp_path / "t.jsonl").write_text('{"text": "no turns"}\n')
    with pytest.raises(DataError, match="no prompt to answer"):
        read_prompts([tmp_path / "t.jsonl"])
    with pytest.raises(ConfigError, match="there are no prompts"):
        read_prompts([])


CHILD = """
import os, signal, sys
sys.path.insert(0, sys.argv[4])
from conftest import make_tiny
from modelworks.engine.engine import Engine
from modelworks.feedback import constitution as home
from modelworks.feedback.principles import read_constitution

left, write = int(sys.argv[3]), home.Journal._write
def dying(self, line):
    global left
    if left == 0:
        self._file.write('{"prompt": "torn')
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    write(self, line)
home.Journal._write = dying
with Engine(make_tiny(), kv_bytes=64 << 20) as engine:
    home.constitution(read_constitution(sys.argv[1]), sys.argv[2], engine=engine, quiet=True)
"""


def test_killed_and_resumed_equals_never_killed(recipe, engine, tmp_path):
    """kill -9 in the midst of a line: nothing is lost, nothing is asked twice, and the end is the same."""
    made = recipe([f"What is {at}?" for at in range(5)], temperature=1.0, leave_out=[])
    whole = constitution(made, tmp_path / "whole", engine=engine)
    (tmp_path / "c.toml").write_text(to_toml(made))
    command = [sys.executable, "-c", CHILD, tmp_path / "c.toml", tmp_path / "cut", "9", Path(__file__).parent]
    done = subprocess.run(list(map(str, command)), capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    before = (tmp_path / "cut" / RECORDS).read_bytes()
    assert before.endswith(b"torn")

    resumed = constitution(made, tmp_path / "cut", engine=engine)
    after = (tmp_path / "cut" / RECORDS).read_bytes()
    assert after.startswith(before.removesuffix(b'{"prompt": "torn'))
    keys = [(one["prompt"], one["stage"], one["round"]) for one in records(tmp_path / "cut")]
    assert len(keys) == len(set(keys)) == 5 * 4

    def told(folder):
        return {(one["prompt"], one["stage"]): one.get("text", one.get("choice")) for one in records(folder)}

    assert told(tmp_path / "cut") == told(tmp_path / "whole")
    assert (
        (resumed.sft, resumed.pairs, resumed.faults) == (whole.sft, whole.pairs, whole.faults) == (5, 5, whole.faults)
    )
    assert resumed.bias.mean == pytest.approx(whole.bias.mean, abs=1e-4)  # the prefix cache changes a sum's last bits
    sides = [[(row["chosen"], row["rejected"]) for row in rows(tmp_path / name / PAIRS)] for name in ("cut", "whole")]
    assert sides[0] == sides[1]
