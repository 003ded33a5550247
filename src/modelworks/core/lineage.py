"""Where a model comes from: `modelworks.json` beside its weights, enough to make it again or to trace what it saw."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from modelworks.core.errors import ModelFileError
from modelworks.core.paths import read_json

FILE = "modelworks.json"
_RECORDED = ("modelworks", "torch", "numpy", "tokenizers", "safetensors", "gguf")


def sha256(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def installed_versions() -> dict[str, str]:
    """Python's version and those of the packages that decide what a model computes, where installed."""
    found = {"python": platform.python_version()}
    for name in _RECORDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # an optional part that this model was made without
    return found


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """The record of one model; all of it is JSON.

    `parents` are references or paths of the models it was made from; `data` maps each data set's name to its hash;
    `recipe` is the resolved one; `created` is in UTC.
    """

    parents: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=installed_versions)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def write(self, folder: Path) -> None:
        """Write the record into a model's folder."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, sort_keys=True)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Lineage | None:
        """The record in a model's folder, None where there is none; raise ModelFileError for a damaged one."""
        path = folder / FILE
        if not path.exists():
            return None
        record = read_json(path)
        if not record.keys() <= {f.name for f in fields(cls)}:
            raise ModelFileError(f"{path}: not a lineage record of this version of modelworks")
        return cls(**record | {"parents": tuple(record.get("parents", ()))})
