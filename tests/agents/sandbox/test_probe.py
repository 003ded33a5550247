from __future__ import annotations

import pytest

from modelworks.agents.sandbox import kinds
from modelworks.agents.sandbox import probe as module
from modelworks.agents.sandbox.probe import Probe, probe


def test_it_tells_what_works_and_why_better_does_not() -> None:
    assert Probe({"bubblewrap": "", "landlock": "old"}).lines() == ["sandbox: bubblewrap, seccomp and limits"]
    only_landlock = Probe({"bubblewrap": "is not installed", "landlock": ""})
    assert only_landlock.kind == "landlock"
    assert only_landlock.lines()[0] == "sandbox: bubblewrap does not work: is not installed"
    assert only_landlock.lines()[1].startswith("sandbox: landlock")
    nothing = Probe({"bubblewrap": "is not installed", "landlock": "old"})
    assert nothing.kind is None
    assert nothing.lines()[-1] == "sandbox: commands and code are refused"


def test_it_really_runs_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bwrap that is there, and does not work: as on systems that forbid user namespaces."""
    monkeypatch.setattr(
        kinds.shutil, "which", lambda name, path=None: "/bin/false" if name == "bwrap" else f"/bin/{name}"
    )
    monkeypatch.setattr(kinds, "landlock_version", lambda: 0)
    probe.cache_clear()
    try:
        found = probe()
    finally:
        probe.cache_clear()
    assert found.kind is None
    assert found.reasons["bubblewrap"] == "bubblewrap ended without a word"
    assert found.reasons["landlock"].startswith("the kernel has no Landlock")


def test_a_machine_without_a_table_of_calls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds.seccomp, "is_supported", lambda: False)
    assert "no table of system calls" in module._why_not("bubblewrap")
