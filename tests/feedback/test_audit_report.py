"""The audit's page and curve: everything that was found is there, and nothing from a run acts in it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from modelworks.core.errors import ConfigError
from modelworks.feedback.audit import Sides, calibration, length_bias, reward_bias, score_pairs
from modelworks.feedback.audit_report import Audit, against_kl, page
from modelworks.feedback.monitor import Monitor, MonitorRecipe, Seen
from modelworks.feedback.probes import Probe, run_probes
from modelworks.feedback.win_rate import win_rate
from modelworks.train.rewards import length

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u2028\ud800"


@pytest.fixture(scope="module")
def monitor():
    """Of a run whose gold falls; it has answers, too."""
    draw, found = np.random.default_rng(0), Monitor(MonitorRecipe(steps=96))
    for step in range(1, 97):
        at = step / 96
        found(
            Seen(
                step=step,
                kl=5 * at,
                rewards=3 * at + draw.normal(size=4),
                gold=-3 * at + draw.normal(size=4),
                answers=[f"{HOSTILE} {draw.integers(1e6)}" for _ in range(4)],
            )
        )
    return found


@pytest.fixture(scope="module")
def audit(monitor):
    reward = length()
    prompt = [{"role": "user", "content": "?"}]
    pairs = [Sides(prompt, "w " * a, "w " * b) for a, b in ((3, 1), (1, 2), (4, 4), (9, 2))]
    chosen, rejected, failures = score_pairs(reward, pairs)
    return Audit(
        name=HOSTILE,
        monitor=monitor,
        labels=length_bias(pairs),
        left_out={HOSTILE: 2},
        reward=reward_bias(pairs, chosen, rejected, failures),
        calibration=calibration(chosen, rejected),
        wins=win_rate([1, 1, 0, 0.5], [9, 8, 3, 4], [5, 5, 5, 5]),
        probes=run_probes(reward, [Probe(prompt=HOSTILE, good="a", traps={"long": f"b c {HOSTILE}"})]),
    )


def test_everything_that_was_found_is_told(audit):
    html = page(audit)
    for heading in (
        "Findings", "Reward and KL", "What the answers look like", "Specification probes", "Length in the pairs",
        "Length in the reward", "Calibration of the reward", "Against the base",
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in html
    assert '<p class="stop"><b>parted</b>: the reward rose' in html
    assert "<th>long<td>0 of 1<td>0.0% to" in html
    assert 'aria-label="Confidence and truth"' in html
    assert not re.search(r'\b(src|href|srcset)="', html)


def test_nothing_from_a_run_becomes_markup(audit):
    html = page(audit)
    html.encode()
    assert "<script" not in html
    assert "<img" not in html
    assert "\x1b" not in html


def test_the_numbers_are_json(audit):
    told = json.loads(json.dumps(audit.to_json()))
    assert told["findings"][0]["name"] == "parted"
    assert (told["labels"]["longer_wins"], told["reward"]["prefers_longer"]) == (2, 3)
    assert told["probes"] == [{"trap": "long", "resisted": 0, "of": 1, "broken": 0}]
    assert set(told) == {"name", "findings", "left_out", "labels", "reward", "calibration", "wins", "probes"}


def test_the_curve_is_of_reward_and_gold_against_kl(monitor, tmp_path):
    picture = against_kl(monitor)
    svg = picture.to_svg()
    assert "KL from the reference" in svg
    assert f"parted, step {monitor.findings[0].step}" in svg
    reward, gold = ([*map(float, re.findall(r",([\d.]+)", line))] for line in re.findall(r'points="([^"]*)"', svg)[:2])
    assert len(reward) == len(gold) == 96 // 16
    assert reward[0] > reward[-1], "on a page upwards is less"
    assert gold[0] < gold[-1]
    picture.save(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_kl_gold_or_answers_and_one_without_anything():
    plain = Monitor()
    with pytest.raises(ConfigError, match="no reward yet"):
        against_kl(plain)
    assert "No reward is written yet" in page(Audit(name="x", monitor=plain))
    plain(Seen(step=1, rewards=[0.5]))
    assert "steps</text>" in against_kl(plain).to_svg()
    assert "1 steps are too few to compare: two windows of 16" in page(Audit(name="x", monitor=plain))
    for step in range(2, 40):
        plain(Seen(step=step, rewards=[0.5]))
    assert "nothing to say about this run" in page(Audit(name="x", monitor=plain))
    assert page(Audit(name="x"))


def test_it_is_shown_in_a_browser_without_a_violation(audit, chromium, tmp_path):
    (tmp_path / "audit.html").write_text(page(audit), encoding="utf-8")
    chromium.set_window_size(390, 800)
    chromium.get(f"file://{tmp_path}/audit.html")
    charts = chromium.execute_script(
        "return [...document.querySelectorAll('svg')].filter((e) => e.checkVisibility()).length"
    )
    assert charts >= 6
    assert chromium.execute_script("return window.seen") == {"attacks": [], "violations": []}
    width = chromium.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
