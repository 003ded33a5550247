"""Results item by item in a JSONL file, so that a benchmark that was cut goes on with the next run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from modelworks.core.log import progress

Row = dict[str, Any]


def each(path: Path, keys: Iterable[str], make: Callable[[str], Row], *, workers: int = 1) -> list[Row]:
    """A row for each key, in the keys' order: from the file where it is there, else made and written at once.

    With several `workers` so many are made at a time, as suits an engine, which decodes several rows in one step.
    """
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
    with (
        path.open("a", encoding="utf-8") as file,
        progress(path.stem, len(missing)) as advance,
        ThreadPoolExecutor(workers) as pool,
    ):
        waiting = {pool.submit(make, key): key for key in missing}
        try:
            for done in as_completed(waiting):
                key = waiting[done]
                found[key] = done.result()
                file.write(json.dumps({"key": key, **found[key]}) + "\n")
                file.flush()
                advance()
        finally:
            pool.shutdown(cancel_futures=True)
    return [found[key] for key in wanted]
