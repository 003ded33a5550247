"""For all tests: budgets are counted in steps, never in seconds, since the machines are shared and slow at times."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("steps", deadline=None)
settings.load_profile("steps")
