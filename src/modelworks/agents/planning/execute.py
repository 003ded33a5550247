"""Carrying out a plan: what can run runs at the same time, results go to who needs them, failures lead to a new plan.

for event in execute(plan, work, replan=lambda done, failed: write_plan(model, task, done=done, failure=...)):
    ...                             # Started, Finished, Failed, Planned; and an Ended as the last
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias

from modelworks.agents.halt import Halt
from modelworks.agents.loop import Agent, AgentError
from modelworks.agents.model import ChatModel, Halted
from modelworks.agents.planning.plan import Plan, PlanStep, write_plan
from modelworks.agents.run import Run
from modelworks.agents.steps import Answer
from modelworks.core.errors import ModelworksError

Work: TypeAlias = Callable[[PlanStep, Mapping[str, str], Halt], str]
"""Does one step, given the results that it needs; its result. It ends within a second of the halt, however."""


@dataclass(frozen=True, slots=True)
class Started:
    step: PlanStep


@dataclass(frozen=True, slots=True)
class Finished:
    step: PlanStep
    result: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    step: PlanStep
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, or another one that takes over; results that are there stay."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event."""

    why: Literal["done", "failed", "halted"]
    results: Mapping[str, str]
    """By the ids of their steps, in the order in which they came."""
    text: str = ""
    """One line: what was not done, and why."""


Event: TypeAlias = Planned | Started | Finished | Failed | Ended
Replan: TypeAlias = Callable[[Mapping[str, str], Failed], Plan]
"""Another plan, from the results that are there and what failed. It may raise a `ModelworksError` to give up."""


def execute(
    plan: Plan,
    work: Work,
    *,
    given: Mapping[str, str] | None = None,
    parallel: int = 4,
    replan: Replan | None = None,
    replans: int = 2,
    halt: Halt | None = None,
) -> Iterator[Event]:
    """Carry out a plan, at most `parallel` steps at a time; yields what happens.

    A step whose work raises has failed. With `replan`, what runs is then finished and nothing else begun, and another
    plan goes on from the results, `replans` times at most; without, all is done that does not need what failed. A halt,
    or closing the iterator, reaches every step that runs, and none begins after it. `given` holds the results that the
    plan takes as given. Raises ValueError where one of those is missing.
    """
    results = dict(given or {})
    if missing := plan.given - results.keys():
        raise ValueError(f"the plan takes {min(missing)!r} as given, and it is not")
    inner = Halt()  # set by the halt from outside, and by whoever stops iterating
    forget = halt.on_set(inner.set) if halt is not None else lambda: None
    threads = ThreadPoolExecutor(max(1, parallel), thread_name_prefix="modelworks-plan")
    try:
        for left in range(replans, -1, -1):
            round_ = _Round(plan, work, results, parallel, inner, threads, is_last=replan is None or left == 0)
            yield from round_.run()
            if inner.is_set():
                yield Ended("halted", dict(results), "halted")
                return
            if not round_.failed:
                yield Ended("done", dict(results))
                return
            reason = f"step {round_.failed[0].step.id!r} failed: {round_.failed[0].reason}"
            if replan is None or left == 0:
                break
            try:
                plan = replan(dict(results), round_.failed[0])
            except ModelworksError as error:
                reason += f"; and there is no other plan: {error}"
                break
            yield Planned(plan)
        yield Ended("halted" if inner.is_set() else "failed", dict(results), reason)
    finally:
        forget()
        inner.set()
        # A step that does not mind the halt must not hold up who does.
        threads.shutdown(wait=False, cancel_futures=True)


def plan_and_execute(
    model: ChatModel,
    task: str,
    work: Work,
    *,
    most: int = 6,
    parallel: int = 4,
    replans: int = 2,
    halt: Halt | None = None,
) -> Iterator[Event]:
    """Have a model write a plan of at most `most` steps for a task, carry it out, and where a step fails plan anew.

    Yields what `execute` does, and the plans. Raises `ModelError` where the model writes no plan to begin with, and
    what `ChatModel.reply` raises.
    """

    taken: set[str] = set()  # a step's id is its own over all plans, as are the runs that agents have for steps

    def planned(done: Mapping[str, str], failure: str) -> Plan:
        plan = write_plan(model, task, done=done, taken=taken, failure=failure, most=most, halt=halt)
        taken.update(step.id for step in plan.steps)
        return plan

    def replan(done: Mapping[str, str], failed: Failed) -> Plan:
        return planned(done, f"step {failed.step.id!r} ({failed.step.task}) failed: {failed.reason}")

    try:
        plan = planned({}, "")
    except Halted:
        yield Ended("halted", {}, "halted")
        return
    yield Planned(plan)
    yield from execute(plan, work, parallel=parallel, replan=replan, replans=replans, halt=halt)


def by_agent(agent: Agent, parent: Run | None = None) -> Work:
    """Work that an agent does, each step as a run of its own; under the rules of `parent`, where that is given."""

    def work(step: PlanStep, results: Mapping[str, str], halt: Halt) -> str:
        told = "\n\n".join([step.task, *(f"Result of {id}: {text}" for id, text in results.items())])
        run = agent.run(told) if parent is None else agent.under(parent, told, step.id)
        forget = halt.on_set(run.halt)
        try:
            for _ in run:
                pass
        finally:
            forget()
        if not isinstance(run.end, Answer):
            raise AgentError(f"run {run.id} ended without an answer: {run.end.text if run.end else 'it was left'}")
        return run.end.text

    return work


class _Round:
    """One plan's steps on their way."""

    def __init__(
        self,
        plan: Plan,
        work: Work,
        results: dict[str, str],
        parallel: int,
        halt: Halt,
        threads: ThreadPoolExecutor,
        *,
        is_last: bool,
    ) -> None:
        self._plan, self._work, self._results = plan, work, results
        self._parallel, self._halt, self._threads, self._is_last = parallel, halt, threads, is_last
        self._done: queue.SimpleQueue[tuple[PlanStep, Future[str]] | None] = queue.SimpleQueue()
        self._began: dict[str, float] = {}
        self.failed: list[Failed] = []

    def run(self) -> Iterator[Event]:
        graph = self._plan.graph()
        forget = self._halt.on_set(lambda: self._done.put(None))
        ready: list[str] = []
        try:
            while True:
                ready += graph.get_ready()
                while ready and len(self._began) < self._parallel and self._may_begin():
                    step = self._plan.step(ready.pop(0))
                    self._begin(step)
                    yield Started(step)
                if not self._began or (ended := self._done.get()) is None:
                    return
                event = self._ended(*ended)
                if isinstance(event, Finished):
                    graph.done(event.step.id)
                yield event
        finally:
            forget()

    def _may_begin(self) -> bool:
        return not self._halt.is_set() and (self._is_last or not self.failed)

    def _begin(self, step: PlanStep) -> None:
        self._began[step.id] = time.monotonic()
        needed = {need: self._results[need] for need in step.needs}
        future = self._threads.submit(self._work, step, needed, self._halt)
        future.add_done_callback(lambda future: self._done.put((step, future)))

    def _ended(self, step: PlanStep, future: Future[str]) -> Finished | Failed:
        seconds = time.monotonic() - self._began.pop(step.id)
        error = future.exception()
        if error is None:
            self._results[step.id] = future.result()
            return Finished(step, self._results[step.id], seconds)
        if not isinstance(error, Exception):
            raise error
        name = "" if isinstance(error, ModelworksError) else f"{type(error).__name__}: "
        failed = Failed(step, f"{name}{error}", seconds)
        self.failed.append(failed)
        return failed
