"""Whether a journal is what was written, and what it says of each action: who wanted it, who allowed it, what came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from modelworks.agents.journal import GENESIS, Journal, entry_hash


@dataclass(frozen=True, slots=True)
class Chain:
    """What a check of all hashes found."""

    entries: int
    head: str
    faults: tuple[str, ...]
    """One line each; none where every entry is as it was written."""

    @property
    def holds(self) -> bool:
        return not self.faults


Outcome: TypeAlias = Literal["done", "failed", "refused", "not made", "unknown"]


@dataclass(frozen=True, slots=True)
class Action:
    """One call of a tool that a model wanted, with all that led to it."""

    run: str
    agent: str
    call: str
    tool: str
    effects: tuple[str, ...]
    arguments: Mapping[str, Any]
    """With which it was made, or would have been."""
    digest: str
    time: str
    said: str
    """What the model wrote beside it."""
    why: str
    """Why it was made or not: the rule, or who decided what."""
    tainted: tuple[Mapping[str, Any], ...]
    """Arguments that may derive from content of others, with where that comes from."""
    outcome: Outcome
    """"unknown" where it was interrupted, and may have taken effect."""
    result: str


def verify(journal: Journal, head: tuple[int, str] | None = None) -> Chain:
    """Recompute every hash, and compare the list of runs with what the entries say.

    `head` is what `Journal.head` gave earlier and was kept elsewhere: it has to be among the entries.
    """
    faults: list[str] = []
    previous, expected = GENESIS, 1
    seen = head is None or head == (0, GENESIS)
    for sequence, run, kind, body, at, before, digest in journal.raw():
        if sequence > expected:
            faults.append(f"{_span(expected, sequence - 1)} missing")
        if before != previous:
            faults.append(f"entry {sequence}: it does not follow the entry before it")
        if entry_hash(sequence, run, kind, body, at, before) != digest:
            faults.append(f"entry {sequence} ({kind} of run {run}): it was changed after it was written")
        seen = seen or (sequence, digest) == head
        previous, expected = digest, sequence + 1
    if journal.written() >= expected:
        faults.append(f"{_span(expected, journal.written())} missing at the end")
    if not seen:
        assert head is not None
        faults.append(f"entry {head[0]} with hash {head[1][:12]}..., which was kept, is not there")
    if not faults:
        faults += _unlike(journal)
    return Chain(expected - 1, previous, tuple(faults))


def _span(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"


def _unlike(journal: Journal) -> Iterator[str]:
    """Runs whose line in the list is not what their entries say."""
    tasks: dict[str, tuple[str, str]] = {}
    ends: dict[str, Mapping[str, Any] | None] = {}
    for entry in journal.entries():
        if entry.kind == "task":
            tasks[entry.run] = (entry.body["task"], entry.body["agent"])
        ends[entry.run] = entry.body if entry.kind == "end" else None if entry.kind == "resume" else ends.get(entry.run)
    listed = {run.id: run for run in journal.runs()}
    for run in sorted(tasks.keys() | listed.keys()):
        info = listed.get(run)
        if info is None:
            yield f"run {run}: it was taken out of the list of runs"
        elif run not in tasks or (info.task, info.agent) != tasks[run] or info.end != ends[run]:
            yield f"run {run}: its line in the list of runs was changed"


def actions(journal: Journal, run: str | None = None) -> Iterator[Action]:
    """Every call that was wanted, in the order in which they were; of one run, or of all."""
    agents = {each.id: each.agent for each in journal.runs()}
    said: dict[str, str] = {}
    calls: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in journal.entries(run):
        body = entry.body
        if entry.kind == "reply":
            said[entry.run] = body["text"]
        elif entry.kind == "call":
            calls[entry.run, body["call"]] = {**body, "time": entry.time, "said": said.get(entry.run, "")}
        elif entry.kind in ("edit", "decision", "intent", "result") and (entry.run, body["call"]) in calls:
            call = calls[entry.run, body["call"]]
            call[entry.kind] = body
            if entry.kind in ("edit", "decision"):
                call |= {key: body[key] for key in ("arguments", "digest") if key in body}
    for (of, name), call in calls.items():
        yield Action(
            run=of,
            agent=agents.get(of, ""),
            call=name,
            tool=call["tool"],
            effects=tuple(call["effects"]),
            arguments=call["arguments"],
            digest=call["digest"],
            time=call["time"],
            said=call["said"],
            why=_why(call),
            tainted=tuple(call["tainted"]),
            outcome=_outcome(call),
            result=call.get("result", {}).get("content", ""),
        )


def _why(call: Mapping[str, Any]) -> str:
    edited = "; the caller changed its arguments" if "edit" in call else ""
    decision = call.get("decision")
    if decision is None:
        return f"the policy says {call['rule']}{edited}"
    who = f" by {decision['by']}" if decision["by"] else ""
    other = " with other arguments" if "arguments" in decision else ""
    why = f": {decision['reason']}" if decision["reason"] else ""
    return f"{'allowed' if decision['allow'] else 'refused'}{who}{other}{why}{edited}"


def _outcome(call: Mapping[str, Any]) -> Outcome:
    result = call.get("result")
    if "intent" not in call:
        return "refused" if result else "not made"
    if result is None or result["unknown"]:
        return "unknown"
    return "failed" if result["error"] else "done"
