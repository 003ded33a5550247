"""Which kernels run, and what is said where there are none."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from modelworks.core.errors import ConfigError
from modelworks.kernels import native
from modelworks.kernels.program import Plan, Program


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where the package was installed without a compiler."""

    def missing(name: str, *rest: Any) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    native.native.cache_clear()
    yield
    native.native.cache_clear()


def test_one_warning_says_what_to_do(without: None, recwarn: pytest.WarningsRecorder) -> None:
    assert native.native() is None
    assert native.native() is None
    assert len(recwarn) == 1
    assert "C++ compiler" in str(recwarn[0].message)


@pytest.mark.filterwarnings("ignore:the native kernels are not there")
def test_a_program_without_kernels_is_an_error(without: None) -> None:
    with pytest.raises(ConfigError, match="native kernels"):
        Program(Plan((), (), 1, 1, 8, 8, 8), num_blocks=1)


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELWORKS_THREADS", raising=False)
    assert native.threads() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("MODELWORKS_THREADS", "3")
    assert native.threads() == 3
    for wrong in ("0", "-1", "two", "1.5", "5000"):
        monkeypatch.setenv("MODELWORKS_THREADS", wrong)
        with pytest.raises(ConfigError, match="MODELWORKS_THREADS"):
            native.threads()


@pytest.mark.skipif(native.native() is None, reason="modelworks was installed without its native kernels")
def test_the_instruction_set_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELWORKS_ISA", raising=False)
    assert native.isa() == native.native().isas()[0]
    monkeypatch.setenv("MODELWORKS_ISA", "portable")
    assert native.isa() == "portable"
    monkeypatch.setenv("MODELWORKS_ISA", "sse5")
    with pytest.raises(ConfigError, match="sse5"):
        native.isa()
