"""What is kept of a run: one JSON object a line in `metrics.jsonl`, and the same numbers for TensorBoard.

The first line says what holds for all: model, parameters, FLOPs a token, the machine's peak. Each later one is a
`Record`. A run that goes on from a checkpoint first cuts off what was written after it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modelworks.core.config import resolve
from modelworks.core.errors import ConfigError, DataError
from modelworks.train.loop import Step

METRICS = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A step, and the run so far. Its line has the fields of both, without those that are None or empty."""

    step: Step
    steps: int
    """Of the whole run."""
    time: float
    """Seconds since 1970."""
    total_tokens: int
    total_seconds: float
    """Of training alone, without evaluation and saving."""
    total_flops: float
    tokens_per_second: float
    mfu: float | None
    """Model FLOPs utilisation: the part of the machine's measured peak."""

    def to_json(self) -> dict[str, Any]:
        line = asdict(self) | asdict(self.step)
        return {name: _sound(value) for name, value in line.items() if value is not None and value != {}}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Record:
        """The record of a line that `to_json` made; raise ConfigError that names what is missing or wrong in it."""
        of_step = {item.name for item in fields(Step)}
        step: dict[str, Any] = {"loss": None, "grad_norm": None, "metrics": {}}
        whole: dict[str, Any] = {"mfu": None, "step": step}
        for name, value in line.items():
            (step if name in of_step else whole)[name] = _unsound(value)
        return resolve(cls, whole)


class Recorder:
    """Writes `metrics.jsonl` in a run's folder, and event files where they are asked for; used as a context."""

    def __init__(
        self, folder: Path, about: Mapping[str, Any], *, steps_done: int = 0, tensorboard: bool = False
    ) -> None:
        """`about` is the first line, of which `steps`, `flops_per_token` and `peak_flops` are used here, too."""
        self._about = about
        self._tokens, self._seconds = 0, 0.0
        lines = _lines_until(folder / METRICS, steps_done) if steps_done else []
        if lines:
            last = json.loads(lines[-1])
            self._tokens, self._seconds = last.get("total_tokens", 0), last.get("total_seconds", 0.0)
        else:
            lines = [json.dumps({"run": about})]
        self._file = (folder / METRICS).open("w", encoding="utf-8")
        self._file.write("".join(f"{line}\n" for line in lines))
        self._file.flush()
        self._events = _event_writer(folder / "tensorboard", steps_done) if tensorboard else None

    def add(self, step: Step) -> Record:
        """Write a step's line and return what it says."""
        self._tokens += step.tokens
        self._seconds += step.seconds
        flops, peak = self._about["flops_per_token"], self._about["peak_flops"]
        rate = step.tokens / step.seconds if step.seconds else 0.0
        record = Record(
            step=step,
            steps=self._about["steps"],
            time=time.time(),
            total_tokens=self._tokens,
            total_seconds=self._seconds,
            total_flops=flops * self._tokens,
            tokens_per_second=rate,
            mfu=rate * flops / peak if peak else None,
        )
        self._file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")
        self._file.flush()
        if self._events is not None:
            self._add_events(record)
        return record

    def _add_events(self, record: Record) -> None:
        step, events = record.step, self._events
        assert events is not None
        numbers = {"loss": step.loss, "lr": step.lr, "gradient norm": step.grad_norm, "mfu": record.mfu}
        numbers |= {"tokens per second": record.tokens_per_second, **step.metrics}
        for name, value in step.evaluation.items():
            if isinstance(value, int | float):
                numbers[f"evaluation/{name}"] = value
            else:
                events.add_text(f"evaluation/{name}", "\n\n".join(value), step.step)
        for name, value in numbers.items():
            if value is not None:
                events.add_scalar(name, value, step.step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_metrics(folder: str | Path) -> tuple[dict[str, Any], list[Record]]:
    """What `metrics.jsonl` in a run's folder says of the run, and the records of its steps so far.

    A last line without its end is passed over: a run may be writing it, or was killed while it did. Raises ConfigError
    for a folder without a run in it, and DataError for any other damage, with the number of the line.
    """
    path = Path(folder) / METRICS
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{folder}: there is no run: it has no {METRICS}") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    about: dict[str, Any] | None = None
    records: list[Record] = []
    whole, _, _ = data.rpartition(b"\n")
    for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ConfigError("it is no JSON object")
            if about is not None:
                records.append(Record.from_json(value))
            elif isinstance(value.get("run"), dict):
                about = value["run"]
            else:
                raise ConfigError("the first line of a run says what it is")
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is damaged: not valid JSON: {error}") from error
        except ConfigError as error:
            raise DataError(f"{path}: line {number} is damaged: {error}") from error
    if about is None:
        raise ConfigError(f"{path}: nothing is written in it yet")
    return about, records


def _lines_until(path: Path, step: int) -> list[str]:
    """The lines of a run up to the last one on `step`."""
    if not path.exists():
        return []
    # Not splitlines: what a model says may have line separators (U+2028, U+0085), which JSON leaves as they are.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    ends = [at for at, line in enumerate(lines) if line.endswith("}") and json.loads(line).get("step") == step]
    return lines[: ends[-1] + 1] if ends else []


def _sound(value: Any) -> Any:
    """JSON has neither infinity nor NaN: they are written as texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _sound(item) for name, item in value.items()}
    return value


def _unsound(value: Any) -> Any:
    """The number that `_sound` wrote as a text, itself or within a mapping."""
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, Mapping):
        return {name: _unsound(item) for name, item in value.items()}
    return value


def _event_writer(folder: Path, steps_done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("TensorBoard is not installed: pip install 'modelworks[tensorboard]'") from error
    # What a run wrote after the checkpoint that it goes on from is hidden.
    return SummaryWriter(str(folder), purge_step=steps_done + 1 if steps_done else None)
