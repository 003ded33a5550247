"""Results item by item in a JSONL file, so that a benchmark that was cut goes on with the next run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from modelworks.core.log import progress

Row = dict[str, Any]


def each(path: Path, keys: Iterable[str], make: Callable[[str], Row]) -> list[Row]:
    """A row for each key, in the keys' order: from the file where it is there, else made and written at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Row] = {}
    if path.exists():
        *whole, rest = path.read_text(encoding="utf-8").split("\n")
        for line in whole:
            row = json.loads(line)
            found[row.pop("key")] = row
        if rest:  # a run was killed while it wrote this line
            path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
    wanted = list(keys)
    missing = [key for key in wanted if key not in found]
    with path.open("a", encoding="utf-8") as file, progress(path.stem, len(missing)) as advance:
        for key in missing:
            found[key] = make(key)
            file.write(json.dumps({"key": key, **found[key]}) + "\n")
            file.flush()
            advance()
    return [found[key] for key in wanted]
