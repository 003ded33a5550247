"""Each kind of confinement that this machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelworks.agents.sandbox.kinds import KINDS, UIDS, Kind
from modelworks.agents.sandbox.probe import probe


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    why = probe().reasons[request.param]
    if why:
        pytest.skip(why)
    return request.param


@pytest.fixture
def reachable(tmp_path: Path) -> Path:
    """`tmp_path`, to which others than its owner can come."""
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_mode & 0o011 != 0o011:
            above.chmod(above.stat().st_mode | 0o011)
        if above.name.startswith("pytest-of-"):
            break
    return tmp_path


@pytest.fixture
def workspace(reachable: Path, kind: Kind) -> Path:
    """A folder that the sandbox can write to, also where root's commands run as another user."""
    folder = reachable / "workspace"
    folder.mkdir()
    if os.geteuid() == 0 and kind == "landlock":
        os.chown(folder, UIDS[0], UIDS[0])
    return folder
