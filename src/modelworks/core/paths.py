"""Where things live on disk, reading what may be damaged, and writing so that a crash never leaves half a file."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from modelworks.core.errors import ModelFileError


def cache_dir() -> Path:
    """The folder for downloaded models: `$MODELWORKS_CACHE`, else the platform's user cache."""
    if override := os.environ.get("MODELWORKS_CACHE"):
        return Path(override).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "modelworks"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "modelworks"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelworks"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from one of a model's files; raise ModelFileError where that is not what it holds."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(target: Path) -> Iterator[TextIOWrapper]:
    """Yield a UTF-8 text file beside `target`; on success put it on disk and in `target`'s place, else remove it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        Path(name).chmod(0o644)  # mkstemp makes it private
        Path(name).replace(target)
        _fsync(target.parent)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `target`; on success fsync its files and put it in `target`'s place.

    An existing `target` is kept until the new one is whole; on an error the scratch folder is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield scratch
        for path in scratch.rglob("*"):
            if path.is_file():
                _fsync(path)
        _fsync(scratch)
        scratch.chmod(0o755)  # mkdtemp makes it private; the finished folder follows ordinary rules
        if target.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            target.rename(retired / target.name)
            scratch.rename(target)
            shutil.rmtree(retired)
        else:
            scratch.rename(target)
        _fsync(target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
