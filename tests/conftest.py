"""For all tests: budgets are counted in steps, never in seconds, since the machines are shared and slow at times."""

from __future__ import annotations

import signal

from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with Ctrl-C ignored, and processes inherit that; here it is what is tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("steps", deadline=None)
settings.load_profile("steps")
