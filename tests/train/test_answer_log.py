from __future__ import annotations

import json
import math
from dataclasses import replace

from modelworks.train.answer_log import ANSWERS, AnswerLog
from modelworks.train.rollout import Generation

TOLD = Generation(
    number=0,
    step=0,
    prompts=("Say it:", ({"role": "user", "content": "Hi"},)),
    answers=("one line\u2028of two", "é"),
    lengths=(4, 1),
    cut=(False, True),
    rewards=(1.0, 0.5),
    parts={"length": (1.0, 0.5)},
    gold=(0.0, math.nan),
    kls=(0.1, -0.1),
    kl_coefficient=0.05,
    failures={},
    equal_groups=0,
)


def lines(folder):
    return [json.loads(line) for line in (folder / ANSWERS).read_text(encoding="utf-8").rstrip("\n").split("\n")]


def test_every_answer_is_a_line(tmp_path):
    with AnswerLog(tmp_path) as log:
        log.add(TOLD)
        log.add(replace(TOLD, step=2, gold=None, kls=None))
    first, second, third, _ = lines(tmp_path)
    assert first == {
        "step": 0, "prompt": "Say it:", "answer": "one line\u2028of two", "reward": 1.0, "length": 4, "cut": False,
        "gold": 0.0, "kl": 0.1,
    }  # fmt: skip
    assert second["prompt"] == [{"role": "user", "content": "Hi"}]
    assert second["gold"] is None  # a gold that failed is no number
    assert third["step"] == 2
    assert not {"gold", "kl"} & set(third)


def test_a_run_that_goes_on_cuts_off_what_was_sampled_after_its_checkpoint(tmp_path):
    with AnswerLog(tmp_path) as log:
        for step in (0, 2, 4):
            log.add(replace(TOLD, step=step))
    with (tmp_path / ANSWERS).open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "prom')  # killed in the midst of a line
    # Three steps were taken: the batch sampled at 2 is gone on with, that of 4 is sampled anew.
    with AnswerLog(tmp_path, steps_done=3) as log:
        log.add(replace(TOLD, step=4))
    assert [line["step"] for line in lines(tmp_path)] == [0, 0, 2, 2, 4, 4]
    with AnswerLog(tmp_path):
        pass
    assert (tmp_path / ANSWERS).read_text() == ""
