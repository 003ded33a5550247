"""Hoffmann's runs, read once."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelworks.scaling.runs import Runs, read_runs

POINTS = Path(__file__).parents[3] / "shared" / "data" / "scaling" / "chinchilla_points.csv"


@pytest.fixture(scope="session")
def points_csv() -> Path:
    if not POINTS.exists():
        pytest.skip("the public training runs are not here")
    return POINTS


@pytest.fixture(scope="session")
def points(points_csv: Path) -> Runs:
    """All 245 rows."""
    return read_runs(points_csv)
