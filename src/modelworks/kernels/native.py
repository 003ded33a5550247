"""The compiled extension: whether there is one, which instruction set it uses, and with how many threads."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from typing import Any

from modelworks.core.errors import ConfigError


@functools.cache
def native() -> Any:
    """The extension module, or None, with one warning, where the package was installed without a compiler."""
    try:
        return importlib.import_module("modelworks.kernels._native")
    except ImportError as error:
        warnings.warn(
            f"the native kernels are not there ({error}): generation is slower; install a C++ compiler (GCC or Clang) "
            "and Python's headers, then install modelworks again",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def threads() -> int:
    """MODELWORKS_THREADS, or the processors that this process may run on. Raises ConfigError for a wrong value."""
    asked = os.environ.get("MODELWORKS_THREADS")
    if not asked:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or not 1 <= int(asked) <= 1024:
        raise ConfigError(f"MODELWORKS_THREADS must be a whole number from 1 to 1024, got {asked!r}")
    return int(asked)


def isa() -> str:
    """MODELWORKS_ISA, or the best instruction set of this machine. Raises ConfigError for one it does not have."""
    found: list[str] = native().isas()
    asked = os.environ.get("MODELWORKS_ISA") or found[0]
    if asked not in found:
        raise ConfigError(f"MODELWORKS_ISA is {asked!r}; this machine has {', '.join(found)}")
    return asked
