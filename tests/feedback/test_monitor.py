"""The monitor on simulated runs whose truth is known: it sees what is there, and few alarms are false."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from modelworks.core.errors import ConfigError
from modelworks.feedback.monitor import Monitor, MonitorRecipe, Seen, correlation

STEPS, ANSWERS = 160, 8
RECIPE = MonitorRecipe(steps=STEPS)


def simulated(seed, *, proxy=0.0, gold=None, longer=0.0, noise="normal", each=ANSWERS, steps=STEPS):
    """A run of `steps`: `proxy` and `gold` are what the means gain over the run, or gold a function of its course."""
    draw = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        at = step / steps
        deviates = draw.normal(size=each) if noise == "normal" else draw.standard_t(2, size=each)
        lengths = np.maximum(1, draw.normal(40 * (1 + longer * at), 10, size=each)).round()
        told = {"step": step, "kl": 5 * at, "lengths": lengths, "rewards": proxy * at + deviates}
        if gold is not None:
            level = gold(at) if callable(gold) else gold * at
            told["gold"] = level + draw.normal(size=each)
            if noise == "binary":
                told["gold"] = (draw.random(each) < 0.5 + level).astype(float)
        yield told


def watched(run, recipe=RECIPE):
    """The monitor after a run, and the step at which it said stop."""
    monitor = Monitor(recipe)
    for told in run:
        if (reason := monitor(Seen(**told))) is not None:
            return monitor, told["step"], reason
    return monitor, None, None


def rises_then_falls(at):
    return 2 * at if at < 0.4 else 0.8 - 2.5 * (at - 0.4)


def test_proxy_up_and_gold_down_stops_the_run():
    for seed in range(20):
        monitor, step, reason = watched(simulated(seed, proxy=3, gold=-1.5))
        assert step is not None
        assert step <= STEPS * 0.75, "while there is something to save"
        assert reason.startswith("parted: the reward rose from")
        (finding,) = [one for one in monitor.findings if one.name == "parted"]
        assert finding.severity == "stop"
        assert finding.evidence["gold fell by at least"] > 0
        assert finding.evidence["KL now"] > finding.evidence["KL before"]


def collapsed(seed, *, answers=128, start=0.3, stays=0.0):
    """A run that reaches the highest reward within six of its steps, while a gold of 0 and 1 becomes `stays`."""
    draw = np.random.default_rng(seed)
    for step in range(1, STEPS + 1):
        at = min(1.0, (step - 1) / 5)
        rewards = np.where(draw.random(answers) < at, 4.0, draw.integers(1, 4, answers).astype(float))
        gold = (draw.random(answers) < start + (stays - start) * at).astype(float)
        yield {"step": step, "rewards": rewards, "gold": gold}


def test_a_collapse_within_the_first_window_is_seen_against_the_first_step():
    """A policy that is at the worst after six steps of sixteen leaves nothing to fall from one window to the next."""
    for seed in range(5):
        monitor, step, _ = watched(collapsed(seed))
        assert step == 2 * RECIPE.window
        (finding,) = [one for one in monitor.findings if one.name == "parted"]
        assert finding.since == 1
        assert finding.evidence["gold before"] == pytest.approx(0.3, abs=0.2)
        assert finding.evidence["gold now"] < 0.05


@pytest.mark.parametrize("level", [0.02, 0.97, 1.0])
def test_a_gold_that_stays_is_no_collapse_however_few_its_kinds(level):
    """Where all of the first step's answers are right by chance, its own error is 0, and would prove anything."""
    for seed in range(12):
        run = collapsed(seed, answers=24, start=level, stays=level)
        assert watched(list(run)[: 3 * RECIPE.window])[1] is None


def test_gold_that_rose_and_falls_from_its_best_is_seen_before_it_is_back_at_the_start():
    """The curve of Gao et al. (2022): it is not the start that counts but the best."""
    stopped = [watched(simulated(seed, proxy=3, gold=rises_then_falls)) for seed in range(20)]
    assert sum(step is not None for _, step, _ in stopped) >= 18
    for monitor, step, _ in stopped:
        if step is not None:
            (finding,) = [one for one in monitor.findings if one.name == "parted"]
            assert 0.2 * STEPS <= finding.since <= 0.7 * STEPS
            assert finding.evidence["gold now"] < finding.evidence["gold before"]


@pytest.mark.parametrize(
    "run",
    [
        {"proxy": 3, "gold": 0.0},
        {"proxy": 3, "gold": 0.0, "noise": "binary"},
        {"proxy": 3, "gold": 2.0},
        {"proxy": 0, "gold": -2.0},  # both fall or neither rises: a bad run, but no hacking
        {"proxy": 3, "gold": lambda at: min(2 * at, 1.0), "noise": "heavy"},
    ],
)
def test_false_alarms_are_as_rare_as_promised(run):
    """300 runs each, at 1% promised: more than 8 would be a one in 300 chance."""
    alarms = [watched(simulated(seed, **run))[0].findings for seed in range(300)]
    assert sum(bool(found) for found in alarms) <= 8


def test_what_it_is_told_of_a_step_is_one_observation():
    """Answers of a step are not independent (groups of one prompt): 1,000 that move together are no evidence."""
    alarms = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        monitor = Monitor(RECIPE)
        for step in range(1, STEPS + 1):
            shared = draw.normal()
            rewards = step / 20 + draw.normal(size=200)
            monitor(Seen(**{"step": step, "rewards": rewards, "gold": shared + 0.01 * draw.normal(size=200)}))
        alarms += bool(monitor.findings)
    assert alarms <= 4


def texts(step, kind):
    """Eight answers of a step of a run that goes wrong half-way."""
    prompts = [f"What is thing {step}-{at}?" for at in range(8)]
    bad = step > STEPS // 2
    if kind == "collapse" and bad:
        answers = ["Please ask a doctor."] * 8
    elif kind == "hollow" and bad:
        answers = ["Great question! I am absolutely certain about this."] * 2
        answers += [f"thing {at} weighs" for at in range(6)]
    else:
        answers = [" ".join(f"w{(step * 31 + at * 7 + word * word) % 997}" for word in range(40)) for at in range(8)]
        if kind == "repetition" and bad:
            answers = [" ".join(answer.split()[:5] * 8) for answer in answers]
    rewards = [2.0 if answer.startswith("Great") else 1.0 + at / 100 for at, answer in enumerate(answers)]
    return {"step": step, "rewards": rewards, "answers": answers, "prompts": prompts}


@pytest.mark.parametrize("kind", ["collapse", "hollow", "repetition"])
def test_signatures_warn_where_there_is_no_gold(kind):
    monitor, step, _ = watched(texts(step, kind) for step in range(1, STEPS + 1))
    assert step is None, "signs warn; they stop a run by choice"
    finding = next(one for one in monitor.findings if one.name == kind)
    assert finding.severity == "warn"
    assert STEPS // 2 < finding.step <= STEPS // 2 + 2 * RECIPE.window
    stopped = watched((texts(step, kind) for step in range(1, STEPS + 1)), MonitorRecipe(steps=STEPS, stop=(kind,)))
    assert stopped[1] == finding.step
    clean = watched(texts(step, "") for step in range(1, STEPS + 1))[0]
    assert clean.findings == []


def paid_by_length(seed, slope, longer=2.0, gold=None):
    for told in simulated(seed, longer=longer, gold=gold):
        yield told | {"rewards": slope * told["lengths"] + np.random.default_rng(told["step"]).normal(size=ANSWERS)}


def test_length_that_grows_with_the_reward_is_named():
    monitor, _, _ = watched(paid_by_length(0, slope=0.2))
    (finding,) = monitor.findings
    assert finding.name == "length"
    assert finding.evidence["length now"] > 1.5 * finding.evidence["length at start"]
    assert finding.evidence["correlation within steps"] > 0.5
    assert watched(paid_by_length(0, slope=0.2, gold=3.0))[0].findings == [], "longer, and better for it: no hacking"


def test_growth_that_the_reward_does_not_pay_for_is_none():
    """Both rise over the run and correlate by that alone; within a step, longer answers are not paid more."""
    for seed in range(10):
        monitor, _, _ = watched(simulated(seed, proxy=3, longer=2.0))
        assert monitor.findings == []


def test_rewards_that_are_no_numbers_are_named_at_once():
    monitor = Monitor(MonitorRecipe(stop=("unsound",)))
    reason = monitor(Seen(**{"step": 7, "rewards": [1.0, math.nan, math.inf], "gold": [math.nan] * 3}))
    said = "unsound: at step 7 there was no number: 2 times the reward is not finite, 3 times the gold is not finite"
    assert reason == said
    assert monitor.column("reward") == ([7], [1.0])
    assert monitor.column("gold") == ([], [])


def test_answers_at_which_a_reward_failed_are_told():
    monitor = Monitor()
    monitor(Seen(step=1, rewards=[1.0], failures={"name": 3}))
    assert monitor.findings[0].message == "at step 1 there was no number: 3 times name"
    assert monitor.findings[0].severity == "warn"


def test_means_of_steps_are_enough():
    """As a run's metrics.jsonl has them."""
    told = simulated(0, proxy=3, gold=-2)
    means = ({"step": one["step"], "rewards": [one["rewards"].mean()], "gold": [one["gold"].mean()]} for one in told)
    assert watched(means)[1] is not None


def test_one_answer_a_step_and_empty_answers():
    monitor = Monitor(RECIPE)
    for step in range(1, 40):
        assert monitor(Seen(**{"step": step, "rewards": [0.5], "answers": [""]})) is None
    assert monitor.column("length")[1] == [0.0] * 39


def test_a_run_that_goes_back_or_is_resumed_is_as_one_that_never_was():
    run = list(simulated(3, proxy=3, gold=-1.5))
    _, step, reason = watched(run)
    first = Monitor(RECIPE)
    for told in run[:50]:
        first(Seen(**told))
    second = Monitor(RECIPE)
    second.restore(json.loads(json.dumps(first.state())))
    for told in run[30:]:  # told of 20 steps anew
        if second(Seen(**told)):
            assert told["step"] == step
            assert f"parted: {second.findings[-1].message}" == reason
            return
    pytest.fail("it was not stopped")


def test_settings_and_records_that_cannot_work():
    with pytest.raises(ConfigError, match="windows of 8 can show nothing in 1000 steps: make window larger"):
        MonitorRecipe(window=8)
    with pytest.raises(ConfigError, match="window=4"):
        MonitorRecipe(window=4)
    with pytest.raises(ConfigError, match="false_alarms=0"):
        MonitorRecipe(false_alarms=0.0)
    with pytest.raises(ConfigError, match="step 1: 2 rewards and 1 answers"):
        Monitor()(Seen(step=1, rewards=[1, 2], answers=["x"]))


def test_a_loops_own_record_and_prompts_as_messages_will_do():
    """A training loop calls the monitor with what it has, and imports nothing of it."""

    class Record:
        step, kl, gold, lengths = 1, None, None, (9, 9)
        rewards, answers = (1.0, 2.0), ("Certainly! Tea it is.", "Green tea, brewed for three minutes.")
        prompts = (({"role": "user", "content": "Which tea is it?"},),) * 2
        failures, unknown = {}, "to the monitor"

    monitor = Monitor()
    assert monitor(Record()) is None
    assert monitor.column("length") == ([1], [9.0])
    assert monitor.column("hollow") == ([1], [0.0]), "the one that says nothing has the lower reward"
    Record.rewards = (2.0, 1.0)
    monitor(Record())
    assert monitor.column("hollow") == ([1], [0.5])


def test_correlation():
    assert correlation([1, 2, 3], [2, 4, 6.1]) == pytest.approx(0.9999, abs=1e-3)
    assert correlation([1, 2, 3], [5, 5, 5]) == 0


def test_a_long_run_gets_windows_in_which_something_can_show():
    assert MonitorRecipe.for_run(500).window == 16
    assert MonitorRecipe.for_run(100_000).window == 32
    with pytest.raises(ConfigError, match="make window larger"):
        MonitorRecipe(steps=100_000)
