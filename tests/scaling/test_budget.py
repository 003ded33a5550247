"""What the law that ships says of budgets and of known models."""

from __future__ import annotations

import pytest

from modelworks.scaling.budget import allocate, chinchilla, judge, kaplan, loss_of_repeated
from modelworks.scaling.fit import fit_chinchilla, fit_power
from modelworks.scaling.presets import PRESETS
from modelworks.scaling.runs import Runs


def test_the_law_that_ships_is_the_fit_of_the_public_runs(points: Runs) -> None:
    shipped, fitted = chinchilla(), fit_chinchilla(points.without_highest(5), resamples=1)
    for name, value in fitted.parameters().items():
        assert shipped.parameters()[name] == pytest.approx(value, rel=1e-6)
    assert (shipped.rows, shipped.counting) == (240, "total")


def test_an_allocation_at_chinchillas_budget() -> None:
    best = allocate(chinchilla(), 5.76e23)
    assert pytest.approx(73.2e9, rel=0.01) == best.N
    assert best.tokens_per_parameter == pytest.approx(17.9, abs=0.1)
    assert best.N_interval.low < 70e9 < best.N_interval.high  # Chinchilla itself
    assert best.D_interval.low < 1.4e12 < best.D_interval.high
    assert best.loss_interval is not None
    assert best.loss_interval.low < best.loss < best.loss_interval.high
    assert best.beyond == pytest.approx(44, abs=1)
    assert allocate(chinchilla(), 1e20).beyond == 1


@pytest.mark.parametrize(
    ("name", "verdict", "factor"),
    [
        ("gpt-3", "under-trained", 3.3),
        ("gopher", "under-trained", 4.1),
        ("palm", "under-trained", 3.5),
        ("chinchilla", "about right", 0.94),
        ("llama-65b", "about right", 0.92),
        ("llama-7b", "over-trained", 1 / 2.8),
        ("llama3-8b", "over-trained", 1 / 10.2),
    ],
)
def test_known_models(name: str, verdict: str, factor: float) -> None:
    judged = judge(chinchilla(), PRESETS[name].parameters, PRESETS[name].tokens)
    assert judged.verdict == verdict
    assert judged.factor == pytest.approx(factor, rel=0.02)


def test_the_tokens_that_a_size_wants_make_it_the_best() -> None:
    judged = judge(chinchilla(), 7e9, 1e12)
    again = judge(chinchilla(), 7e9, judged.tokens_wanted)
    assert again.factor == pytest.approx(1)
    assert pytest.approx(7e9) == again.best.N


def test_kaplan_wanted_gpt3_larger() -> None:
    preset = PRESETS["gpt-3"]
    judged = judge(kaplan(), preset.parameters - preset.embeddings, preset.tokens)
    assert judged.verdict == "over-trained"
    assert pytest.approx(515e9, rel=0.01) == judged.best.N
    assert judged.best.loss is None


def test_repeating_little_text_is_worth_less() -> None:
    fit = chinchilla()
    fresh = loss_of_repeated(fit, 1e9, 20e9, 20e9)
    assert fresh == pytest.approx(fit.law.loss(1e9, 20e9))
    four, forty = loss_of_repeated(fit, 1e9, 20e9, 5e9), loss_of_repeated(fit, 1e9, 20e9, 5e8)
    assert fresh < four < fresh * 1.01
    assert forty > fresh * 1.04


def test_what_allocates_nothing_is_refused(points: Runs) -> None:
    with pytest.raises(ValueError, match="allocates nothing"):
        allocate(fit_power(points.N_R, points.loss_R, resamples=1), 1e20)
    with pytest.raises(ValueError, match="positive"):
        allocate(chinchilla(), 0)
