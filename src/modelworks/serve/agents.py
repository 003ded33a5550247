"""The page on which agents are watched: runs as the journal has them, step by step, and what waits to be allowed.

A run may be another process's: its steps come from the journal, and its halt goes there. Those that are begun on the
page are carried out here, with tools out of those that the server was started with, and ask on the page.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from modelworks.agents.approval import Decision, Desk
from modelworks.agents.approval import Request as Asked
from modelworks.agents.arguments import checked
from modelworks.agents.journal import Entry, RunInfo
from modelworks.agents.loop import Agent
from modelworks.agents.run import Run
from modelworks.agents.talk import ASK_USER
from modelworks.core.errors import ConfigError
from modelworks.serve.app import http_error
from modelworks.serve.errors import ApiError, Disconnected
from modelworks.serve.events import DONE, EventStream, Json, error_response, event, read_body, told_of
from modelworks.serve.fields import Fields
from modelworks.serve.guard import Guard
from modelworks.serve.metrics import Metrics
from modelworks.serve.service import LOOPBACK, Limits

_LIMITS: Final = Limits(body_bytes=1 << 20, seconds=60.0)
_STREAM_S: Final = 3600.0  # after which a page that still looks on asks again
_POLL_S: Final = 0.15
_LISTED: Final = 200  # runs, the newest
_LONGEST_TASK: Final = 100_000
_log = logging.getLogger("modelworks.serve")


@dataclass(frozen=True)
class Agents:
    """An agent that is served with its journal, and who may come to it."""

    agent: Agent
    """Runs that are begun on the page are its own, with all or some of its tools."""
    most: int = 4
    """Runs that are carried out at the same time; more are refused."""
    api_keys: Sequence[str] = ()
    hosts: Sequence[str] = LOOPBACK
    any_address: bool = False
    limits: Limits = _LIMITS
    metrics: Metrics = field(default_factory=Metrics)
    replicas: None = None


def create_agents_app(agents: Agents) -> Starlette:
    """The ASGI application; its end halts the runs that it carries out, which can be resumed."""
    runs = Runs(agents.agent, agents.most)
    body = agents.limits.body_bytes

    async def about(_: Request) -> Response:
        return Json(runs.about())

    async def listing(_: Request) -> Response:
        return Json({"runs": await asyncio.to_thread(runs.listing)})

    async def start(request: Request) -> Response:
        task, tools = await read_body(request, body, runs.read_start)
        return Json({"id": await asyncio.to_thread(runs.start, task, tools)}, 202)

    async def events(request: Request) -> Response:
        after = request.query_params.get("after", "0")
        if not after.isdecimal() or len(after) > 18:
            raise ApiError(400, f"after is {after[:40]!r}, expected a number", param="after")
        run = await asyncio.to_thread(runs.find, request.path_params["run"])
        until = asyncio.get_running_loop().time() + _STREAM_S
        return EventStream(_events(runs, run, int(after)), until=until)

    async def halt(request: Request) -> Response:
        await asyncio.to_thread(runs.halt, request.path_params["run"])
        return Json({}, 202)

    async def resume(request: Request) -> Response:
        reply = await read_body(request, body, _read_reply)
        await asyncio.to_thread(runs.resume, request.path_params["run"], reply)
        return Json({}, 202)

    async def decide(request: Request) -> Response:
        said = await read_body(request, body, _Said.parse)
        await asyncio.to_thread(runs.decide, said)
        return Json({})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(runs.close)

    told = _told(agents.limits.seconds)
    pages = Path(str(resources.files("modelworks.serve"))) / "pages"
    app = Starlette(
        routes=[
            Route("/api/agents", told(about), methods=["GET"]),
            Route("/api/runs", told(listing), methods=["GET"]),
            Route("/api/runs", told(start), methods=["POST"]),
            Route("/api/runs/{run}/events", told(events), methods=["GET"]),
            Route("/api/runs/{run}/halt", told(halt), methods=["POST"]),
            Route("/api/runs/{run}/resume", told(resume), methods=["POST"]),
            Route("/api/decisions", told(decide), methods=["POST"]),
            Route("/", lambda _: RedirectResponse("agents/")),
            Mount("/", StaticFiles(directory=pages, html=True)),
        ],
        lifespan=lifespan,
        middleware=[
            Middleware(Guard, service=agents, routes=["/api/agents", "/api/runs", "/api/runs/", "/api/decisions"])
        ],
        exception_handlers={HTTPException: http_error},
    )
    app.state.cut = runs.close  # a page that looks on would else hold the server up
    app.state.runs = runs
    return app


def _told(seconds: float) -> Callable[[Callable[[Request], Awaitable[Response]]], Any]:
    """Makes endpoints whose errors are answers."""

    def of(run: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                async with asyncio.timeout(seconds):
                    return await run(request)
            except Disconnected:
                return Response(status_code=499)
            except Exception as error:  # noqa: BLE001 - told to the client, a defect to the log
                return error_response(told_of(error))

        return endpoint

    return of


# --- runs -------------------------------------------------------------------------------------------------------------


class Runs:
    """The runs of a journal, and those of them that this process carries out, each in a thread."""

    def __init__(self, agent: Agent, most: int) -> None:
        self._agent, self._most = agent, most
        self._journal = agent.journal
        self._desk = Desk()
        self._lock = threading.Lock()
        self._live: dict[str, tuple[Run, threading.Thread]] = {}
        self._failed: dict[str, str] = {}
        self.closing = False

    def about(self) -> dict[str, Any]:
        """The agent, and the tools that may be chosen from."""
        agent = self._agent
        tools = [
            {
                "name": tool.name,
                "description": tool.description,
                "effects": sorted(tool.effects),
                "rule": agent.policy.rule(tool),
                "source": tool.source,
            }
            for tool in agent.tools
            if tool.name != ASK_USER.name  # a way to talk, and no tool to choose
        ]
        return {"agent": agent.name, "model": agent.model.name, "tools": tools}

    def read_start(self, fields: Fields) -> tuple[str, list[str] | None]:
        """A task, and the names of the tools for it; None for all."""
        names = [tool.name for tool in self._agent.tools]
        found = (
            fields.needed_text("task", most=_LONGEST_TASK),
            None if fields.get("tools") is None else fields.choices("tools", names),
        )
        fields.close()
        return found

    # Beginning and ending

    def start(self, task: str, tools: Iterable[str] | None) -> str:
        """Begin a task; the run's id. Raises ApiError where too many are under way, ConfigError for an empty task."""
        return self._carry_out(self._with(tools).run(task))

    def resume(self, id: str, reply: str | None) -> None:
        """Go on with a run, with the tools that it had. Raises ApiError (404) for none, ConfigError where it cannot."""
        run = self.find(id)
        begun = next(self._journal.entries(run.id), None)
        tools = None if begun is None else set(begun.body.get("tools", ()))
        self._carry_out(self._with(tools).resume(run.id, reply))

    def _with(self, tools: Iterable[str] | None) -> Agent:
        """The agent with some of its tools, that asks on the page."""
        agent = copy.copy(self._agent)
        chosen = None if tools is None else {*tools, ASK_USER.name}
        agent.tools = [tool for tool in agent.tools if chosen is None or tool.name in chosen]
        agent.approve = self._desk
        return agent

    def _carry_out(self, run: Run) -> str:
        thread = threading.Thread(target=self._work, args=(run,), name=f"run {run.id}", daemon=True)
        with self._lock:
            if self.closing:
                raise ApiError(503, "the server is stopping", code="stopping", retry_after=5)
            if run.id in self._live:
                raise ApiError(409, f"run {run.id} is under way already", code="running")
            if len(self._live) >= self._most:
                said = f"{self._most} runs are under way: wait for one to end, or halt one"
                raise ApiError(429, said, code="too_many_runs", retry_after=5)
            self._failed.pop(run.id, None)
            self._live[run.id] = run, thread
        thread.start()
        return run.id

    def _work(self, run: Run) -> None:
        try:
            for _ in run:
                pass
        except Exception as error:  # noqa: BLE001 - told on the page, a defect to the log
            self._failed[run.id] = told_of(error).message
        finally:
            with self._lock:
                del self._live[run.id]

    def halt(self, id: str) -> None:
        """Halt a run, whichever process carries it out. Raises ApiError (404) where there is none."""
        with self._lock:
            found = self._live.get(id)
        if found is not None:
            found[0].halt()
        else:
            self._journal.ask_to_halt(self.find(id).id)

    def close(self) -> None:
        """Halt what this process carries out, and wait for it; calling it again does nothing."""
        with self._lock:
            self.closing = True
            live = list(self._live.values())
        for run, _ in live:
            run.halt()
        for _, thread in live:
            thread.join(5)

    def decide(self, said: _Said) -> None:
        """Answer a request that waits.

        Raises ApiError (409) where it does not wait any more or is another than was seen, and `ArgumentError` for
        changed arguments that do not satisfy the tool's schema; then it still waits.
        """
        gone = ApiError(409, "this call does not wait any more, or has changed: look at it again", code="changed")
        asked = [each for each in self._desk.open(said.run) if each.call == said.call]
        if not asked:
            raise gone
        if said.arguments is not None:
            checked(asked[0].tool.parameters, said.arguments)
        decision = Decision(said.allow, said.digest, said.reason, said.arguments if said.allow else None, by="page")
        if not self._desk.decide(said.run, said.call, decision):
            raise gone

    # Looking

    def find(self, id: str) -> RunInfo:
        """A run by its whole id. Raises ApiError (404) where there is none."""
        with self._lock:
            live = self._live.get(id)
        try:
            found = self._journal.find(id)
        except ConfigError:
            found = None
        if found is not None and found.id == id:
            return found
        if live is not None:  # its thread has not come so far yet
            return RunInfo(id, None, self._agent.name, live[0].task, "", "running", None)
        raise ApiError(404, f"there is no run {id[:80]!r}", code="unknown_run")

    def listing(self) -> list[dict[str, Any]]:
        """Runs that are no part of others, the newest first."""
        waiting = [request.run for request in self._desk.open()]
        found = [run for run in self._journal.runs() if run.parent is None][:_LISTED]
        return [
            {
                "id": run.id,
                "agent": run.agent,
                "task": run.task,
                "created": run.created,
                "state": self._state(run),
                "end": run.end,
                "waiting": sum(_is_part(each, run.id) for each in waiting),
            }
            for run in found
        ]

    def look(self, id: str, after: int) -> dict[str, Any]:
        """What is new of a run and its parts, what waits, and how it stands; in this order nothing is missed."""
        state = self._state(self.find(id))
        entries = [entry for entry in self._journal.entries(after=after) if _is_part(entry.run, id)]
        asked = [_asked(each) for each in self._desk.open() if _is_part(each.run, id)]
        return {"state": state, "failed": self._failed.get(id, ""), "entries": entries, "asked": asked}

    def first(self, id: str) -> int:
        """The number of a run's first entry; 0 where it has none yet."""
        return next((entry.sequence for entry in self._journal.entries(id)), 0)

    def _state(self, run: RunInfo) -> str:
        with self._lock:
            if run.id in self._live:  # also where it is just being gone on with, and while its end is kept
                return "running"
        return "interrupted" if run.state == "running" and run.id in self._failed else run.state


def _is_part(run: str, whole: str) -> bool:
    return run == whole or run.startswith(f"{whole}.")


def _asked(request: Asked) -> dict[str, Any]:
    return {
        "run": request.run,
        "call": request.call,
        "agent": request.agent,
        "tool": request.tool.name,
        "description": request.tool.description,
        "effects": sorted(request.tool.effects),
        "source": request.tool.source,
        "arguments": request.arguments,
        "digest": request.digest,
        "why": request.why,
        "tainted": [
            {"path": each.path, "value": each.value, "origins": sorted(each.origins), "found": each.found}
            for each in request.tainted
        ],
    }


async def _events(runs: Runs, run: RunInfo, after: int) -> AsyncGenerator[bytes, None]:
    """A run's entries as they are written, what waits whenever that changes, and at last how it ended."""
    asked: list[dict[str, Any]] | None = None
    after = max(after, await asyncio.to_thread(runs.first, run.id) - 1)
    while not runs.closing:
        seen = await asyncio.to_thread(runs.look, run.id, after)
        for entry in seen["entries"]:
            yield event(_entry(entry), "entry")
            after = entry.sequence
        if seen["asked"] != asked:
            asked = seen["asked"]
            yield event(asked, "asked")
        if seen["state"] != "running":
            yield event({"state": seen["state"], "failed": seen["failed"]}, "state")
            yield DONE
            return
        await asyncio.sleep(_POLL_S)


def _entry(entry: Entry) -> dict[str, Any]:
    return {"sequence": entry.sequence, "run": entry.run, "kind": entry.kind, "time": entry.time, "body": entry.body}


# --- requests ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Said:
    """What somebody says to a call that waits, who saw it with this digest."""

    run: str
    call: str
    digest: str
    allow: bool
    reason: str
    arguments: Mapping[str, Any] | None

    @classmethod
    def parse(cls, fields: Fields) -> _Said:
        fields.need("allow")
        said = cls(
            run=fields.needed_text("run", most=400),
            call=fields.needed_text("call", most=100),
            digest=fields.needed_text("digest", most=64, pattern="[0-9a-f]{64}"),
            allow=fields.flag("allow"),
            reason=fields.text("reason", "", most=1000) or "",
            arguments=fields.mapping("arguments"),
        )
        fields.close()
        return said


def _read_reply(fields: Fields) -> str | None:
    reply = fields.text("reply", most=_LONGEST_TASK)
    fields.close()
    return reply or None
