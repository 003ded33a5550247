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
def workspace(tmp_path: Path, kind: Kind) -> Path:
    """A folder that the sandbox can write to, also where root's commands run as another user."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    if os.geteuid() == 0 and kind == "landlock":
        os.chown(folder, UIDS[0], UIDS[0])
        for above in folder.parents:
            if above.stat().st_uid == os.geteuid() and above.is_relative_to("/tmp") and above != Path("/tmp"):
                above.chmod(above.stat().st_mode | 0o011)
    return folder
