"""Public preference data, where the machine has it."""

from __future__ import annotations

from pathlib import Path

import pytest

_DATA = Path(__file__).parents[3] / "shared" / "data" / "preference"


@pytest.fixture(scope="session")
def preference() -> Path:
    if not _DATA.is_dir():
        pytest.skip("the public preference data is not here")
    return _DATA
