"""Running the command, in this process or in one of its own; and a small handbook to ask."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelworks.cli import main
from modelworks.core.errors import DownloadError
from modelworks.core.log import console
from modelworks.models.fetch import pull
from modelworks.models.load import load

KETTLE = """# The Blue Kettle

## Warranty

The warranty of the Blue Kettle lasts three
years from the date of purchase.

## Cleaning

Descale the kettle with vinegar once a month.
"""
OFFICE = "Our office in Lisbon opened in 1998. It has forty employees.\n"


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    def assert_one_line_error(self, *parts: str, status: int = 1) -> None:
        """One line on standard error that holds `parts`, nothing on standard output."""
        assert self.status == status, self
        assert self.out == ""
        assert self.err.startswith("modelworks: ")
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        for part in parts:
            assert part in self.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command in this process."""

    def run_(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["modelworks", *map(str, arguments)])
        capsys.readouterr()
        console.cache_clear()
        status = 0
        try:
            main()
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 0
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run_


@pytest.fixture(scope="session")
def command() -> Callable[..., list[str]]:
    """The argument list that runs modelworks in a process of its own."""
    return _command


def _command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "modelworks", *map(str, arguments)]


@pytest.fixture
def spawn() -> Callable[..., Result]:
    """Run the command in a process of its own."""

    def spawn_(*arguments: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None) -> Result:
        done = subprocess.run(
            _command(*arguments), input=stdin, capture_output=True, env=os.environ | (env or {}), timeout=120
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    return spawn_


@pytest.fixture(scope="session")
def starters() -> None:
    """Skip where the starter models cannot be had."""
    try:
        pull("starter-embedder")
        pull("starter")
    except DownloadError as error:
        pytest.skip(f"the starter models are not here: {error}")


@pytest.fixture(scope="session")
def starter_adapter(
    starters: None, save_adapter: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A random adapter of the starter, strong enough that its answers are others."""
    return save_adapter(tmp_path_factory.mktemp("adapter"), load("starter", device="meta"), strength=3.0)


@pytest.fixture
def handbook(tmp_path: Path) -> Path:
    """A folder of two small documents."""
    folder = tmp_path / "handbook"
    folder.mkdir()
    (folder / "kettle.md").write_text(KETTLE, encoding="utf-8")
    (folder / "office.txt").write_text(OFFICE, encoding="utf-8")
    return folder
