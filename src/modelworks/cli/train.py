"""`modelworks train`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from modelworks.cli.terminal import Flag, note
from modelworks.core.log import Advance, progress

if TYPE_CHECKING:
    from modelworks.train.record import Record
    from modelworks.train.rollout import Generation, Watch
    from modelworks.train.run import RunRecipe


def train(
    recipe: Path,
    /,
    *overrides: str,
    out: Annotated[Path | None, Parameter(show_default=False)] = None,
    resume: Flag = False,
    tensorboard: Flag = False,
    quiet: Flag = False,
) -> None:
    """Train a model by a recipe.

    Parameters
    ----------
    recipe
        A TOML file; recipes/ has some.
    overrides
        What is to differ from it, such as optim.lr=1e-5 or steps=100.
    out
        The run's folder; runs/ and the recipe's name, where not given.
    resume
        Go on from the last checkpoint in that folder.
    tensorboard
        Write event files for TensorBoard, too.
    quiet
        Print nothing but the folder of the finished model.
    """
    from modelworks.parallel.ranks import rank
    from modelworks.train.run import read_recipe, run

    read = read_recipe(recipe, overrides)
    folder = out or Path("runs") / recipe.stem
    audit = _audit(read, folder, resume, quiet)
    with ExitStack() as bar:
        advance: Advance | None = None

        def watch(record: Record) -> None:
            nonlocal advance
            step = record.step
            if advance is None:  # only now is it known where the run begins
                advance = bar.enter_context(progress("training", record.steps - step.step + 1, quiet=quiet))
            if not quiet and step.skipped:
                back = "" if step.rolled_back_to is None else f"; back to step {step.rolled_back_to}"
                note(f"step {step.step} was skipped: {step.skipped}{back}")
            if not quiet and step.evaluation:
                note(f"step {step.step}: {_told(step.evaluation)}")
            mfu = "" if record.mfu is None else f"  MFU {record.mfu:.0%}"
            loss = "" if step.loss is None else f"loss {step.loss:.4f}  "
            advance(note=f"{loss}{record.tokens_per_second:,.0f} tok/s{mfu}")

        model = run(read, folder, resume=resume, tensorboard=tensorboard, watch=watch, audit=audit)
    if rank() == 0:
        print(model)


def _audit(recipe: RunRecipe, folder: Path, resume: bool, quiet: bool) -> Watch | None:
    """What watches a run that samples for reward hacking: it warns, and ends one whose proxy and gold part."""
    from modelworks.feedback.monitor import Monitor, MonitorRecipe
    from modelworks.feedback.watch import watch_run
    from modelworks.train.answer_log import ANSWERS
    from modelworks.train.policy import OnPolicyRecipe

    if not isinstance(recipe, OnPolicyRecipe):
        return None
    if resume and (folder / ANSWERS).exists():
        monitor = watch_run(folder)
    else:
        monitor = Monitor(MonitorRecipe.for_run(recipe.steps or MonitorRecipe.steps))

    def watch(generation: Generation) -> str | None:
        known = len(monitor.findings)
        reason = monitor(generation)
        for finding in monitor.findings[known:]:
            if finding.severity == "warn" and not quiet:
                note(f"step {generation.step}: {finding.name}: {finding.message}")
        return reason

    return watch


def _told(evaluation: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4f}" if isinstance(value, int | float) else f"{name} {value!r}"
        for name, value in evaluation.items()
    )
