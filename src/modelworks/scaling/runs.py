"""Training runs as a law sees them: parameters, tokens, FLOPs and the loss that was reached.

Shapes: R rows.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import ConfigError
from modelworks.core.log import escaped
from modelworks.scaling.minimise import Array

Counting = Literal["total", "without embeddings"]
"""How parameters are counted. Exponents depend on it: in small models the embeddings are most of them."""

FLOPS_PER_PARAMETER = 6
"""C = 6 N D: a multiplication and an addition for each parameter and token, once forward and twice backward."""

# What a column may be called: lower case, words apart by one space.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "parameters": ("parameters", "params", "n", "model size", "size"),
    "parameters without embeddings": ("parameters without embeddings", "non embedding parameters", "n non embedding"),
    "tokens": ("tokens", "d", "training tokens"),
    "flops": ("flops", "flop", "c", "training flops", "training flop", "compute"),
    "loss": ("loss", "l", "validation loss", "val loss", "eval loss"),
    "run": ("run", "name", "id"),
}
_SHOWN = 5  # rows or names in a message


@dataclass(frozen=True)
class Runs:
    """Rows in the order of their source, all positive and finite, with how N is counted.

    `run` names the training run of a row, where a file holds points of curves; empty where each row is a run.
    """

    N_R: Array
    D_R: Array
    C_R: Array
    loss_R: Array
    counting: Counting = "total"
    run: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.loss_R)

    def __getitem__(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Runs:
        """The rows that a mask or a list of indices selects."""
        run = tuple(np.asarray(self.run, dtype=object)[which]) if self.run else ()
        return replace(
            self, N_R=self.N_R[which], D_R=self.D_R[which], C_R=self.C_R[which], loss_R=self.loss_R[which], run=run
        )

    def without_highest(self, count: int) -> Runs:
        """Without the `count` rows of highest loss: runs that diverged, or a warm-up caught half-way."""
        if not 0 <= count < len(self):
            raise ConfigError(f"{count} of {len(self)} rows cannot be dropped")
        return self[np.sort(np.argsort(self.loss_R, kind="stable")[: len(self) - count])]


def make_runs(
    N_R: Array, D_R: Array, loss_R: Array, *, counting: Counting = "total", run: tuple[str, ...] = ()
) -> Runs:
    """Runs of known size and tokens; C = 6 N D. Raises ConfigError for a value that is not positive and finite."""
    columns = {"parameters": N_R, "tokens": D_R, "loss": loss_R}
    values = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    _check_values(values, "row")
    N_R, D_R, loss_R = values.values()
    return Runs(N_R, D_R, FLOPS_PER_PARAMETER * N_R * D_R, loss_R, counting, run)


def read_runs(path: Path) -> Runs:
    """Read a CSV with a header: a loss, and two of parameters, tokens and FLOPs; the third follows from C = 6 N D.

    Raises ConfigError for a file that cannot be read, has no rows, or lacks these columns (the message names those that
    are there), and for values that are no positive finite numbers (it names the lines).
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = [name for name in reader.fieldnames or () if name]
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a CSV in UTF-8: {error.reason} at byte {error.start}") from error
    except csv.Error as error:
        raise ConfigError(f"{path}: not a CSV: {error}") from error
    columns = {what: name for what in _NAMES if (name := _find(header, what)) is not None}
    size = "parameters" if "parameters" in columns else "parameters without embeddings"
    given = [what for what in (size, "tokens", "flops") if what in columns]
    if "loss" not in columns or len(given) < 2:
        there = ", ".join(escaped(name) for name in header) or "none"
        raise ConfigError(f"{path}: a fit needs a column loss and two of parameters, tokens, flops; columns: {there}")
    if not rows:
        raise ConfigError(f"{path}: it has a header and no rows")
    lines = [line for line, _ in rows]
    values = {what: np.array([_number(row[columns[what]]) for _, row in rows]) for what in (*given, "loss")}
    _check_values(values, "line", lines, str(path))
    six = FLOPS_PER_PARAMETER
    N_R = values[size] if size in values else values["flops"] / (six * values["tokens"])
    D_R = values["tokens"] if "tokens" in values else values["flops"] / (six * N_R)
    C_R = values["flops"] if "flops" in values else six * N_R * D_R
    counting: Counting = "without embeddings" if size in given and size != "parameters" else "total"
    run = tuple(row[columns["run"]] or "" for _, row in rows) if "run" in columns else ()
    return Runs(N_R, D_R, C_R, values["loss"], counting, run)


def _find(header: list[str], what: str) -> str | None:
    plain = {" ".join(name.lower().replace("_", " ").replace("-", " ").split()): name for name in header}
    return next((plain[name] for name in _NAMES[what] if name in plain), None)


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return float("nan")  # reported with its line


def _check_values(values: Mapping[str, Array], unit: str, places: list[int] | None = None, where: str = "") -> None:
    for what, value_R in values.items():
        bad = np.flatnonzero(~(np.isfinite(value_R) & (value_R > 0)))
        if len(bad):
            named = ", ".join(str(places[at] if places else at + 1) for at in bad[:_SHOWN])
            more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
            said = f"{what} must be positive and finite; {unit}{'s' * (len(bad) > 1)} {named}{more}"
            raise ConfigError(f"{where}: {said}" if where else said)
