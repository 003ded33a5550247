"""A run that is written down, finished or not, told to a monitor as if it went on before its eyes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from modelworks.core.errors import ConfigError, DataError
from modelworks.feedback.monitor import Monitor, MonitorRecipe, Seen
from modelworks.train.answer_log import ANSWERS
from modelworks.train.record import read_metrics

COLUMNS = {"reward": "reward", "gold": "gold", "kl": "kl", "length": "length"}
"""What the metrics of a run, or its evaluations, call these."""


def watch_run(folder: str | Path, *, columns: Mapping[str, str] = COLUMNS, window: int | None = None) -> Monitor:
    """Tell a monitor all that a run's folder holds: metrics a step, and answers where they were written.

    `columns` says what the metrics call the reward, the gold, the KL and the length. Raises ConfigError for a folder
    without a run, or for metrics without the reward, and DataError for damaged files.
    """
    _, records = read_metrics(folder)
    answers = _answers(Path(folder) / ANSWERS)
    steps = [record.step for record in records if record.step.skipped is None]
    if steps and not answers and not any(columns["reward"] in step.metrics for step in steps):
        known = ", ".join(dict.fromkeys(name for step in steps for name in step.metrics)) or "none"
        raise ConfigError(f"{folder}: no metric is called {columns['reward']!r}; there are {known}")
    length = max([record.steps for record in records] or [1])
    monitor = Monitor(MonitorRecipe.for_run(length) if window is None else MonitorRecipe(steps=length, window=window))
    if answers:
        for at, told in sorted(answers.items()):
            monitor(Seen(step=at, **told))
        return monitor
    for step in steps:
        numbers = {name: value for name, value in step.evaluation.items() if isinstance(value, int | float)}
        numbers |= step.metrics
        if columns["reward"] not in numbers:
            continue
        told = {"rewards": [numbers[columns["reward"]]]}
        for name, key in (("gold", "gold"), ("length", "lengths")):
            if columns[name] in numbers:
                told[key] = [numbers[columns[name]]]
        monitor(Seen(step=step.step, kl=numbers.get(columns["kl"]), **told))
    return monitor


def _answers(path: Path) -> dict[int, dict[str, Any]]:
    """By step, what a monitor is told of it."""
    if not path.exists():
        return {}
    steps: dict[int, dict[str, Any]] = {}
    kls: dict[int, list[float]] = {}
    for row in _whole_rows(path):
        try:
            told = steps.setdefault(int(row["step"]), {"rewards": [], "answers": [], "prompts": []})
            told["rewards"].append(_number(row["reward"]))
            told["answers"].append(str(row["answer"]))
            told["prompts"].append(row["prompt"])
            for name, key in (("gold", "gold"), ("length", "lengths")):
                if row.get(name) is not None:
                    told.setdefault(key, []).append(_number(row[name]))
            if row.get("kl") is not None:
                kls.setdefault(int(row["step"]), []).append(_number(row["kl"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: a line without step, prompt, answer and reward: {error!r}") from error
    for step, told in steps.items():
        for key in ("gold", "lengths"):
            if len(told.get(key, told["answers"])) != len(told["answers"]):
                raise DataError(f"{path}: step {step} has {key} for some of its answers alone")
        told["kl"] = fmean(kls[step]) if step in kls else None
    return steps


def _whole_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of a file that a run may be writing: a last one without its end is passed over."""
    whole = path.read_bytes().rpartition(b"\n")[0]
    for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}: line {number} is damaged: not valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise DataError(f"{path}: line {number} is damaged: it is no JSON object")
        yield value


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
