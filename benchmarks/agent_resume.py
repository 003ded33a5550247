"""An agent whose process is killed at random moments does each thing once, or asks before it does it again.

A child process runs an agent through twelve orders, two of each kind of reply: one call, two at once, a call beside a
reading one, and through a sub-agent. A tool carries an order out by adding a line to a file, with a pause before and
after, where a kill leaves an order that was carried out and whose result nobody has. The child is killed (SIGKILL) at a
random moment of each of thirty runs, some of them several times, and started again on the same journal. Whoever is
asked about an interrupted order looks whether the line is there, as a person would. At the end every order has to stand
in the file once, every second try has to have been asked about, the chain has to verify, and each of several ways of
tampering has to be found.

The peer is the same agent without a journal, started again from the beginning as agents without one are.

    python benchmarks/agent_resume.py [--kills 30] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from modelworks.agents.approval import Decision, Policy, Request, allow, deny
from modelworks.agents.audit import actions, verify
from modelworks.agents.journal import Journal
from modelworks.agents.limits import Limits
from modelworks.agents.loop import Agent
from modelworks.agents.model import Reply
from modelworks.agents.tool import tool
from modelworks.text.tool_calls import ToolCall

ORDERS = [f"order-{number:02}" for number in range(12)]
# What each reply of the model calls: numbers of orders; one in brackets goes through the sub-agent.
PLAN: list[list[int | tuple[int]]] = [[0], [1, 2], [3], [(4,)], [5, 6], [(7,)], [8], [9, 10], [(11,)]]
PAUSE = 0.03
RUN = "orders"
POLICY = Policy(effects={"reads": "always", "writes": "always"})
TAMPERING = {
    "a result changed": "UPDATE entries SET body = replace(body, 'carried out', 'cancelled') WHERE kind = 'result'",
    "a time changed": "UPDATE entries SET time = '2020-01-01T00:00:00.000+00:00' WHERE sequence = 7",
    "an entry taken out": "DELETE FROM entries WHERE sequence = 9",
    "the last entries taken out": "DELETE FROM entries WHERE sequence > (SELECT max(sequence) - 2 FROM entries)",
    "an entry in another's place": "UPDATE entries SET body = (SELECT body FROM entries WHERE sequence = 4)"
    " WHERE sequence = 3",
    "the task changed in the list": "UPDATE runs SET task = 'nothing'",
}


class Planned:
    """A model that gives its orders in turn: it depends on the dialogue alone, as with greedy decoding."""

    name = "planned"
    context_length = 100_000

    def count(self, messages: Any, tools: Any = ()) -> int:
        return 0

    def reply(self, messages: Any, tools: Any = (), **_: Any) -> Reply:
        done = sum(message["role"] == "assistant" for message in messages)
        task = messages[-1]["content"] if not done else ""
        if task.startswith("Carry out order-"):  # the sub-agent's
            return Reply("", (ToolCall("carry_out", json.dumps({"order": task.split()[-1]})),))
        if messages[1]["content"].startswith("Carry out order-"):
            return Reply("It is done.")
        if done == len(PLAN):
            return Reply("All orders are carried out.")
        calls = []
        for each in PLAN[done]:
            if isinstance(each, tuple):
                calls.append(ToolCall("helper", json.dumps({"task": f"Carry out {ORDERS[each[0]]}"})))
            else:
                calls.append(ToolCall("carry_out", json.dumps({"order": ORDERS[each]})))
        if done % 3 == 0:
            calls.append(ToolCall("look", json.dumps({"at": done})))
        return Reply("", tuple(calls))


def child(folder: Path, journal: Path | None) -> None:
    """Begin, or go on."""
    effects, asked = folder / "effects", folder / "asked"

    @tool(effects=["writes"], trusted=True)
    def carry_out(order: str) -> str:
        """Carry out an order."""
        time.sleep(PAUSE)
        with effects.open("a") as file:
            file.write(f"{order}\n")
        time.sleep(PAUSE)
        return f"{order} is carried out"

    @tool(effects=["reads"], trusted=True)
    def look(at: int) -> str:
        """Look at how things are."""
        time.sleep(PAUSE)
        return f"all is well at {at}"

    def approve(request: Request) -> Decision:
        with asked.open("a") as file:
            file.write(f"{request.arguments['order']}\n")
        there = effects.exists() and request.arguments["order"] in effects.read_text().split()
        return deny(request, "it was carried out before the interruption") if there else allow(request)

    with Journal(journal or ":memory:") as kept:
        limits = Limits(steps=50, calls=100)
        helper = Agent(Planned(), [carry_out], name="helper", limits=limits)
        tools = [carry_out, look, helper.as_tool("helper", "Carries out an order.")]
        agent = Agent(Planned(), tools, policy=POLICY, approve=approve, journal=kept, limits=limits)
        known = [run for run in kept.runs() if run.id == RUN]
        if known and known[0].state == "answer":
            return
        run = agent.resume(RUN) if known else agent.run("Carry out all orders.", id=RUN)
        print("begun", flush=True)
        for _ in run:
            pass
    print("ended", flush=True)


def start(folder: Path, *, journal: bool) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", str(folder), *(["--journal"] if journal else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed_run(folder: Path, delays: list[float], *, journal: bool) -> None:
    """A run that is killed after each of the delays (from when it has begun), and then left to its end."""
    folder.mkdir()
    for delay in [*delays, None]:
        process = start(folder, journal=journal)
        assert process.stdout is not None
        process.stdout.readline()
        if delay is not None:
            time.sleep(delay)
            process.kill()
        process.wait()


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def tampering_found(journal: Path, head: tuple[int, str]) -> list[str]:
    """The ways of tampering that the audit finds."""
    found = []
    for name, statement in TAMPERING.items():
        with sqlite3.connect(journal) as connection:
            connection.execute("BEGIN")
            assert connection.execute(statement).rowcount > 0, name
            connection.execute("COMMIT")
        with Journal(journal) as opened:
            if not verify(opened, head).holds:
                found.append(name)
        journal.unlink()
        journal.write_bytes(journal.with_suffix(".copy").read_bytes())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--journal", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, options.child / "journal.db" if options.journal else None)
        return 0
    drawn = random.Random(options.seed)
    right = restarted_right = kills = asked_about = unasked = 0
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as home:
        whole = Path(home, "whole")
        whole.mkdir()
        process = start(whole, journal=True)
        assert process.stdout is not None
        process.stdout.readline()
        begun = time.monotonic()
        process.wait()
        seconds = time.monotonic() - begun
        assert sorted(lines(whole / "effects")) == ORDERS
        print(f"  a run that is left alone takes {seconds:.2f} s", flush=True)
        for number in range(options.kills):
            delays = [drawn.random() * seconds / (1 + nth) for nth in range(1 + number % 3)]
            kills += len(delays)
            for journal in (True, False):
                folder = Path(home, f"{number}-{journal}")
                killed_run(folder, delays, journal=journal)
                counts, asked = Counter(lines(folder / "effects")), Counter(lines(folder / "asked"))
                once = [order for order in ORDERS if counts[order] == 1]
                if not journal:
                    restarted_right += len(once)
                    continue
                right += len(once)
                asked_about += sum(asked.values())
                with Journal(folder / "journal.db") as opened:
                    chain = verify(opened)
                    faults += chain.faults
                    state = opened.find(RUN).state
                    begun_calls = Counter(
                        action.arguments["order"] for action in actions(opened) if action.tool == "carry_out"
                    )
                unasked += sum(max(0, counts[order] - 1 - asked[order]) for order in ORDERS)
                faults += [] if state == "answer" else [f"run {number} ended as {state}"]
                faults += [] if set(begun_calls) == set(ORDERS) else [f"run {number}: the journal lacks orders"]
                print(
                    f"  run {number}: killed {len(delays)} times; {len(once)} of {len(ORDERS)} once,"
                    f" {sum(asked.values())} asked about, {chain.entries} entries",
                    flush=True,
                )
        journal_file = Path(home, "0-True", "journal.db")
        with Journal(journal_file) as opened:
            head = opened.head()
        with sqlite3.connect(journal_file) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        journal_file.with_suffix(".copy").write_bytes(journal_file.read_bytes())
        found = tampering_found(journal_file, head)
    total = options.kills * len(ORDERS)
    holds = right == total and not unasked and not faults and len(found) == len(TAMPERING)
    print(
        json.dumps(
            {
                "name": "agent-resume",
                "ours": right,
                "peer": restarted_right,
                "ratio": right / max(restarted_right, 1),
                "unit": "orders carried out exactly once",
                "bar": f"all {total}, each second try asked about, every chain whole, all tampering found",
                "holds": holds,
                "notes": f"{kills} kills in {options.kills} runs; {asked_about} interrupted orders asked about;"
                f" faults: {faults or 'none'}; tampering found: {len(found)} of {len(TAMPERING)};"
                " the peer begins again without a journal",
            }
        )
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
