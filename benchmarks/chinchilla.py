"""Chinchilla's law (approach 3) fitted to Hoffmann's public runs, beside the published replication.

The bar: all five parameters within the replication's 95% intervals. `ours` is the objective that the fit reaches, and
`peer` the one at the replication's printed parameters; lower is better. The bootstrap draws 4,000 resamples, as the
replication did.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from operator import attrgetter
from pathlib import Path

import numpy as np

from modelworks.scaling.fit import fit_chinchilla
from modelworks.scaling.frontier import fit_isoflop
from modelworks.scaling.laws import Chinchilla
from modelworks.scaling.runs import read_runs

POINTS = Path(__file__).parents[2] / "shared" / "data" / "scaling" / "chinchilla_points.csv"
DROPPED = 5  # rows of highest loss, as the replication does
BUDGETS = (6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21)
# Besiroglu et al. 2024, arXiv:2404.10102.
REPLICATION = Chinchilla(E=1.8169, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)
INTERVALS = {
    "E": (1.769, 1.871),
    "A": (285, 744),
    "alpha": (0.317, 0.373),
    "B": (1042, 5810),
    "beta": (0.331, 0.415),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resamples", type=int, default=4000)
    resamples = parser.parse_args().resamples
    if not POINTS.exists():
        print(f"missing: {POINTS}")
        return 2
    everything = read_runs(POINTS)
    runs = everything.without_highest(DROPPED)
    began = time.perf_counter()
    fit = fit_chinchilla(runs, resamples=resamples)
    seconds = time.perf_counter() - began
    print(f"{len(runs)} runs, {resamples} resamples, {seconds:.1f} s")
    print(f"{'':6}{'ours':>10}{'95%':>22}{'published':>12}{'95%':>22}")
    holds = True
    for name, (low, high) in INTERVALS.items():
        value, ours = getattr(fit.law, name), fit.interval(attrgetter(name))
        holds &= low <= value <= high
        between, published = f"{ours.low:.4g} to {ours.high:.4g}", f"{low:.4g} to {high:.4g}"
        print(f"{name:6}{value:>10.5g}{between:>22}{getattr(REPLICATION, name):>12.5g}{published:>22}")
    miss_R = np.abs(np.log(np.asarray(REPLICATION.loss(runs.N_R, runs.D_R)) / runs.loss_R))
    inside_R = np.minimum(miss_R, 1e-3)
    theirs = float((inside_R * (miss_R - inside_R / 2)).sum())
    a = fit.interval(lambda law: law.exponent)
    isoflop = fit_isoflop(everything, BUDGETS).fit
    second = isoflop.interval(lambda law: law.a)
    N, D = fit.law.optimum(5.76e23)
    print(f"a, approach 3: {fit.law.exponent:.3f} ({a.low:.3f} to {a.high:.3f})")
    print(f"a, approach 2: {isoflop.law.a:.3f} ({second.low:.3f} to {second.high:.3f})")
    notes = (
        f"E {fit.law.E:.4f}, A {fit.law.A:.1f}, B {fit.law.B:.0f}, alpha {fit.law.alpha:.4f}, beta {fit.law.beta:.4f}; "
        f"{D / N:.1f} tokens a parameter at 5.76e23 FLOPs; approach 2: a {isoflop.law.a:.3f}; "
        f"{resamples} resamples in {seconds:.1f} s"
    )
    result = {
        "name": "chinchilla",
        "ours": round(fit.objective, 8),
        "peer": round(theirs, 8),
        "ratio": round(theirs / fit.objective, 4),
        "unit": "summed Huber loss",
        "bar": "all five parameters within the published intervals",
        "holds": bool(holds),
        "notes": notes,
    }
    print(json.dumps(result))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
