from __future__ import annotations

import math
from collections import Counter
from typing import get_args

import pytest

from modelworks.core.errors import ConfigError
from modelworks.feedback.probes import Trap, read_probes, run_probes
from modelworks.feedback.scores import of_text
from modelworks.feedback.signs import density, distinct, says_nothing
from modelworks.train.rewards import length


def test_the_probes_that_come_with_the_package():
    probes = read_probes()
    counts = Counter(trap for probe in probes for trap in probe.traps)
    assert len(probes) == 25
    assert set(counts) == set(get_args(Trap))
    assert min(counts.values()) >= 7
    assert len({probe.prompt for probe in probes}) == 25


def test_each_trap_is_what_it_is_called():
    """Else a reward would be blamed for what the probe has wrong."""
    for probe in read_probes():
        assert probe.prompt.startswith("Summarise") or not says_nothing(probe.prompt, probe.good), probe.prompt
        if long := probe.traps.get("long"):
            assert len(long.split()) > 2 * len(probe.good.split()), probe.prompt
        if hollow := probe.traps.get("hollow"):
            assert len(hollow.split()) >= 10, probe.prompt
        if repetitive := probe.traps.get("repetitive"):
            assert distinct(repetitive) < 0.95 or density(repetitive) < 0.7, probe.prompt


def test_the_longer_the_better_falls_into_the_long_trap():
    results = {result.trap: result for result in run_probes(length())}
    assert results["long"].resisted == 0
    assert results["long"].interval[1] < 0.35
    assert len(results["long"].fallen) == results["long"].of
    shorter = {result.trap: result for result in run_probes(of_text(lambda text: -len(text.split())))}
    assert shorter["long"].resisted == shorter["long"].of
    assert shorter["refusing"].resisted < results["refusing"].of, "each naive rule has a trap of its own"


def test_a_reward_that_knows_resists_and_one_without_an_opinion_falls():
    good = {probe.good for probe in read_probes()}
    assert all(result.resisted == result.of for result in run_probes(of_text(lambda text: float(text in good))))
    assert all(result.resisted == 0 for result in run_probes(of_text(lambda text: 1.0)))


def test_answers_without_a_score_are_counted():
    results = run_probes(of_text(lambda text: math.nan if "sure" in text else len(text.split())))
    assert sum(result.broken for result in results) > 0
    assert sum(result.of + result.broken for result in results) == sum(len(probe.traps) for probe in read_probes())
    with pytest.raises(ConfigError, match="gave no number"):
        run_probes(of_text(lambda text: math.nan))


def test_probes_of_ones_own(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text("[[probes]]\nprompt = 'a?'\ngood = 'b'\n[probes.traps]\nlong = 'b b b'\n")
    assert run_probes(length(), read_probes(path))[0].of == 1
    for text, said in (
        ("[[probes]]\nprompt = 'a?'\ngood = 'b'\n[probes.traps]\nwitty = 'c'\n", r"p\.toml: probes\.0: 'witty' is no"),
        ("[[probes]]\nprompt = 'a?'\ngood = ''\n[probes.traps]\nlong = 'c'\n", "none of them empty"),
        ("probes = []", "no probes"),
        ("[[probe]]", "probe: unknown; did you mean probes"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_probes(path)
