"""`modelworks agents`: runs of agents listed, gone on with, shown again, audited and halted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from modelworks.cli.agent import (
    JOURNAL,
    ModelOptions,
    RuleOptions,
    ToolOptions,
    follow,
    made,
    shown_arguments,
)
from modelworks.cli.serve import Address, run_page
from modelworks.cli.terminal import Flag, Json, flowing, note, print_json, print_table, stdout
from modelworks.core.errors import ConfigError
from modelworks.core.log import escaped

if TYPE_CHECKING:
    from modelworks.agents.journal import Entry, Journal

Where = Annotated[Path, Parameter(name="--journal")]
_MODEL, _TOOLS, _RULES, _ADDRESS = ModelOptions(), ToolOptions(), RuleOptions(), Address()
_SHOWN = 60  # characters of a task in a list


def list_runs(*, journal: Where = JOURNAL, parts: Flag = False, as_json: Json = False) -> None:
    """List runs, the newest first, and how each stands.

    Parameters
    ----------
    journal
        The file that keeps them.
    parts
        Also those of sub-agents.
    """
    with _opened(journal) as kept:
        runs = [run for run in kept.runs() if parts or run.parent is None]
    if as_json:
        print_json([{name: getattr(run, name) for name in run.__slots__} for run in runs])
        return
    if not runs:
        note(f"{journal} has no runs yet; `modelworks agent TASK` makes one")
        return
    rows = [(run.id, run.state, run.created[:19].replace("T", " "), _short(run.task)) for run in runs]
    print_table(("run", "state", "begun", "task"), rows)


def resume(
    run: str,
    reply: str | None = None,
    /,
    *,
    use: ModelOptions = _MODEL,
    tools: ToolOptions = _TOOLS,
    rules: RuleOptions = _RULES,
    journal: Where = JOURNAL,
    memory: Path | None = None,
    as_json: Json = False,
) -> None:
    """Go on with a run that was interrupted, stopped, or asked something; tools and model are given as at first.

    A call that was interrupted while it may have changed something is asked about before it is made again.

    Parameters
    ----------
    run
        Its id, or as much of the beginning as only one has.
    reply
        What to say to its question, or after its answer.
    journal
        The file that keeps it.
    memory
        The file that remembers, as at first.
    """
    _check(journal)
    with made(use, tools, rules, journal, memory, as_json=as_json) as agent:
        follow(agent, agent.resume(run, reply), as_json=as_json)


def serve(
    *,
    use: ModelOptions = _MODEL,
    tools: ToolOptions = _TOOLS,
    rules: RuleOptions = _RULES,
    journal: Where = JOURNAL,
    memory: Path | None = None,
    address: Address = _ADDRESS,
) -> None:
    """Serve the web page on which runs are begun, watched, allowed and halted. Ctrl-C stops it.

    Parameters
    ----------
    journal
        The file that keeps runs; those of other processes are shown, too.
    memory
        A file that remembers runs and facts for later ones.
    """
    bound, told = address.opened()
    from modelworks.serve.agents import Agents, create_agents_app

    with made(use, tools, rules, journal, memory, page=True) as agent:
        app = create_agents_app(Agents(agent, **told))
        # A page that looks on never ends by itself.
        run_page(bound, app, f"{escaped(str(journal))}: runs of agents at {{url}}", shutdown_seconds=2)


def replay(run: str, /, *, journal: Where = JOURNAL, as_json: Json = False) -> None:
    """Show again what happened in a run, entry by entry, from the journal alone.

    Parameters
    ----------
    run
        Its id, or as much of the beginning as only one has.
    journal
        The file that keeps it.
    """
    with _opened(journal) as kept:
        for entry in kept.entries(kept.find(run).id):
            if as_json:
                print_json({name: getattr(entry, name) for name in ("sequence", "time", "kind", "body")})
            else:
                stdout().print(f"{entry.sequence:>4}  {entry.time[11:19]}  {entry.kind:<8}  {_told(entry)}")


def audit(
    run: str | None = None, /, *, journal: Where = JOURNAL, head: str | None = None, as_json: Json = False
) -> None:
    """Check that the journal is as it was written, and explain every action: who wanted it, who allowed it, what came.

    It ends with status 1 where anything was changed, taken out or put in.

    Parameters
    ----------
    run
        Only this run's actions; the check is always of all.
    journal
        The file that keeps them.
    head
        What an earlier audit printed as the head, kept elsewhere: "NUMBER:HASH". It has to be among the entries.
    """
    from modelworks.agents.audit import actions, verify

    with _opened(journal) as kept:
        chain = verify(kept, None if head is None else _head(head))
        found = [] if not chain.holds else list(actions(kept, None if run is None else kept.find(run).id))
    if as_json:
        told = [{name: getattr(action, name) for name in action.__slots__} for action in found]
        print_json(
            {"holds": chain.holds, "faults": chain.faults, "head": f"{chain.entries}:{chain.head}", "actions": told}
        )
    else:
        out = stdout()
        for action in found:
            effects = ", ".join(action.effects) or "no effects"
            out.print(f"{action.time[:19].replace('T', ' ')}  {action.run}  {action.tool} ({effects})", style="bold")
            out.print(f"    {shown_arguments(action.arguments)}")
            if action.said:
                out.print(f"    the model said: {flowing(_short(action.said, 200))}")
            for value in action.tainted:
                how = "stands in" if value["found"] else "was written after reading"
                out.print(f"    {escaped(value['path'] or 'the call')} {how} {escaped(', '.join(value['origins']))}")
            out.print(f"    {action.why}; {action.outcome}: {flowing(_short(action.result, 200))}")
        for fault in chain.faults:
            out.print(fault, style="bold red")
        whole = "every entry is as it was written" if chain.holds else "THE JOURNAL WAS CHANGED"
        out.print(f"{chain.entries} entries, {whole}; head {chain.entries}:{chain.head}")
    if not chain.holds:
        raise SystemExit(1)


def halt(run: str, /, *, journal: Where = JOURNAL) -> None:
    """Halt a run that another process carries out; it stops its model and tools within a second.

    Parameters
    ----------
    run
        Its id, or as much of the beginning as only one has.
    journal
        The file that keeps it.
    """
    with _opened(journal) as kept:
        info = kept.find(run)
        if info.state != "running":
            raise ConfigError(f"run {info.id} does not run: its state is {info.state}")
        kept.ask_to_halt(info.id)
        note(f"asked run {info.id} to halt")


def _check(journal: Path) -> None:
    if not journal.exists():
        raise ConfigError(f"{journal}: no such journal; name the one that was written with --journal")


def _opened(path: Path) -> Journal:
    from modelworks.agents.journal import Journal

    _check(path)
    return Journal(path)


def _head(text: str) -> tuple[int, str]:
    number, _, digest = text.partition(":")
    if not number.isdecimal() or len(digest) != 64:
        raise ConfigError(f"{text!r} is no head; it is NUMBER:HASH as an audit prints it")
    return int(number), digest


def _short(text: str, most: int = _SHOWN) -> str:
    text = flowing(text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _told(entry: Entry) -> str:
    body = entry.body
    match entry.kind:
        case "task":
            return flowing(body["task"])
        case "reply":
            called = [f"{call['name']} {flowing(call['arguments'])}" for call in body["calls"]]
            return "; ".join(filter(None, [flowing(body["text"]), *called]))
        case "call" | "edit":
            return f"{body['call']} {body.get('tool', '')} {shown_arguments(body['arguments'])}"
        case "decision":
            return f"{body['call']} {'allowed' if body['allow'] else 'refused'} {flowing(body['reason'])}"
        case "intent":
            return f"{body['call']} {body['tool']} begins"
        case "result":
            return f"{body['call']} {'error: ' if body['error'] else ''}{_short(body['content'], 300)}"
        case "end":
            return f"{body['kind']}: {flowing(body['text'])}"
        case _:
            return flowing(str(body.get("text") or body.get("content") or ""))
