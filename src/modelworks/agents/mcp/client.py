"""Servers whose tools an agent uses: each tool of a server becomes a `Tool`, under the server's name.

with McpServer(Server("files", command=("uvx", "some-server")), Pins(path)) as server:
    agent = Agent(model, server.tools())

What a server says of its tools is pinned at its first use, and looked at again before each call: a definition that
changed is refused by name until somebody approves it. Its hints raise the effects that the user configured and never
lower them. A server that dies, hangs or floods makes its call an error, and the next call starts it anew.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, TypeVar

import anyio
import httpx2
import mcp_types
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client, MCPError
from pydantic import ValidationError

from modelworks.agents.mcp import definition, transport
from modelworks.agents.mcp.pins import Pins
from modelworks.agents.tool import EFFECTS, Effect, Tool
from modelworks.core.errors import ConfigError, ModelworksError

Admit = Callable[[str, Mapping[str, Any]], bool]
"""Whether a tool that was never seen may be used: its server's name, and its definition as the server told it."""
Definition = Mapping[str, Any]
Value = TypeVar("Value")

_CHANGED: Final = "its definition is another one than was approved; approve it anew to use it"
_PAGES: Final = 100
_STEP: Final = 0.1
"""Seconds between looks at a call that waits: an exception thrown into the thread, as a halt is, arrives at one."""
_END: Final = 10.0
"""Seconds that a connection has to end."""
_BROKEN: Final = (
    MCPError,
    OSError,
    RuntimeError,
    ValueError,
    httpx2.HTTPError,
    ValidationError,
    anyio.ClosedResourceError,
    anyio.BrokenResourceError,
    anyio.EndOfStream,
)


_OVER: Final = (mcp_types.CONNECTION_CLOSED, mcp_types.INVALID_REQUEST)
"""Codes of a connection that has ended, the second of an HTTP session that the server knows no more."""


class McpError(ModelworksError):
    """A server cannot be reached, does not answer, refuses, or is refused; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server as the user configures it: how it is reached, and what its tools may do. Raises `ConfigError`."""

    name: str
    """What its tools' names begin with."""
    command: tuple[str, ...] = ()
    """The program and its arguments, spoken to over its standard streams."""
    url: str = ""
    """Or where it is, spoken to by streamable HTTP."""
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    effects: tuple[Effect, ...] = ("writes", "network")
    """What its tools count as, at the least."""
    tools: Mapping[str, tuple[Effect, ...]] = field(default_factory=dict)
    """The same of single tools, by the server's names for them, in place of `effects`."""
    seconds: float = 60.0
    """For a call, and for the start."""

    def __post_init__(self) -> None:
        definition.check_server_name(self.name)
        if bool(self.command) == bool(self.url):
            raise ConfigError(f"MCP server {self.name}: give either a command or a URL")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"MCP server {self.name}: {self.url!r} is no URL; it begins with http:// or https://")
        for each in (self.effects, *self.tools.values()):
            if unknown := set(each) - set(EFFECTS):
                raise ConfigError(f"MCP server {self.name}: no effect is called {min(unknown)!r}")


@dataclass(frozen=True, slots=True)
class Seen:
    """A tool as a server tells of it now, and what is made of that."""

    name: str
    """The server's for it."""
    told: Definition
    digest: str
    state: Literal["approved", "new", "changed", "unusable"]
    tool: Tool | None
    """None where it is unusable."""
    why: str = ""
    """Why it may not be used, where it may not."""


class McpServer:
    """A server in use, as a context manager. `tools` and calls may come from any threads."""

    def __init__(
        self,
        server: Server,
        pins: Pins | None = None,
        *,
        admit: Admit | None = None,
        auth: httpx2.Auth | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Without `admit`, a tool that was never seen is pinned and used; with it, only where it says so.

        `options` go to the SDK's `Client`, such as callbacks for what a server may ask of its client; without any, it
        may ask for nothing.
        """
        self.server = server
        self.refused: dict[str, str] = {}
        """Why tools are not used, by the server's names for them; as `tools` and calls find it."""
        self._pins = pins or Pins()
        self._admit = admit
        self._auth = auth
        self._options = dict(options or {})
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._live: _Live | None = None

    def __enter__(self) -> McpServer:
        self._portal = self._stack.enter_context(start_blocking_portal())
        try:
            self._connected()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and the server's process where it is ours."""
        with self._lock:
            live, self._live, self._portal = self._live, None, None
        if live is not None:
            live.end()
        self._stack.close()

    def look(self) -> list[Seen]:
        """All tools that the server tells of now, taken or not; nothing is pinned by looking. Raises `McpError`."""
        live = self._connected()
        listed = live.wait(live.definitions, self.server.seconds)
        return [self._seen(name, told) for name, told in listed.items()]

    def tools(self) -> list[Tool]:
        """The server's tools that may be used; `refused` says why others may not. Raises `McpError`."""
        new: dict[str, str] = {}
        made: dict[str, Tool] = {}
        for seen in self.look():
            why = seen.why
            if seen.state == "new" and self._admit is not None and not self._admit(self.server.name, seen.told):
                why = "it is new and was not admitted"
            if seen.tool is not None and seen.tool.name in made:
                why = f"it would be called {seen.tool.name}, as another tool is"
            if why or seen.tool is None:
                self.refused[seen.name] = why
                continue
            self.refused.pop(seen.name, None)
            made[seen.tool.name] = seen.tool
            if seen.state == "new":
                new[seen.name] = seen.digest
        self._pins.put(self.server.name, new)
        return list(made.values())

    def approve(self, *names: str) -> None:
        """Take the definitions that tools, by the server's names, have now; of all tools where none is named."""
        live = self._connected()
        listed = live.wait(live.definitions, self.server.seconds)
        if unknown := set(names) - set(listed):
            raise McpError(f"MCP server {self.server.name} has no tool {min(unknown)!r}")
        chosen = names or tuple(listed)
        self._pins.put(self.server.name, {name: definition.digest(listed[name]) for name in chosen})
        for name in chosen:
            self.refused.pop(name, None)

    # --- what is believed ---------------------------------------------------------------------------------------------

    def _seen(self, name: str, told: Definition) -> Seen:
        try:
            hashed = definition.digest(told)
            tool = self._tool(name, told)
        except (ConfigError, ValueError) as error:
            return Seen(name, told, "", "unusable", None, str(error))
        pinned = self._pins.get(self.server.name, name)
        if pinned is None:
            return Seen(name, told, hashed, "new", tool)
        if pinned != hashed:
            return Seen(name, told, hashed, "changed", tool, _CHANGED)
        return Seen(name, told, hashed, "approved", tool)

    def _tool(self, name: str, told: Definition) -> Tool:
        configured = self.server.tools.get(name, self.server.effects)
        annotations = told.get("annotations") or {}
        return Tool(
            name=definition.tool_name(self.server.name, name),
            description=definition.visible(str(told.get("description") or told.get("title") or name)),
            parameters=definition.shown_schema(told.get("inputSchema")),
            run=partial(self._run, name),
            effects=definition.effects(configured, annotations if isinstance(annotations, Mapping) else {}),
            isolated=False,  # the connection is this process's
            timeout=2 * self.server.seconds + 5,  # a start and a call, which end by themselves
            source=f"mcp:{self.server.name}",
        )

    # --- calls --------------------------------------------------------------------------------------------------------

    def _run(self, _name: str, /, **arguments: Any) -> str:
        live = self._connected()
        result = live.wait(partial(self._call, live, _name, arguments), self.server.seconds)
        text = content_text(result)
        if result.is_error:
            raise McpError(text or "the tool failed and does not say why")
        return text

    async def _call(self, live: _Live, name: str, arguments: dict[str, Any]) -> mcp_types.CallToolResult:
        if name in self.refused:  # whatever it says now: what changes back is no better
            raise McpError(f"{name} is refused: {self.refused[name]}")
        listed = await live.definitions()
        if name not in listed:
            raise McpError(f"MCP server {self.server.name} has no tool {name!r} any more")
        if self._pins.get(self.server.name, name) != definition.digest(listed[name]):
            self.refused[name] = _CHANGED
            raise McpError(f"{name} is refused: {self.refused[name]}")
        return await live.client.call_tool(name, arguments)

    def _connected(self) -> _Live:
        with self._lock:
            if self._portal is None:
                raise McpError(f"MCP server {self.server.name} is not in use: it is a context manager")
            if self._live is not None and self._live.is_over:
                over = self._live
                self._live = None
                over.end()
            if self._live is None:
                self._live = _Live(self._portal, self.server, self._auth, self._options)
            return self._live


class _Live:
    """One connection, kept by a task in the portal's event loop."""

    def __init__(
        self, portal: BlockingPortal, server: Server, auth: httpx2.Auth | None, options: Mapping[str, Any]
    ) -> None:
        self._portal = portal
        self._server = server
        self._allowance = transport.Allowance()
        self._failed = False
        self._stop = portal.call(anyio.Event)
        self._ready: Future[Client] = Future()
        self._task = portal.start_task_soon(self._keep, auth, options)
        self._task.add_done_callback(lambda _: self._ready.cancel())
        try:
            self.client = self._waited(self._ready, server.seconds, "start")
        except BaseException:
            self.end()
            raise

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come of it: the server is gone, or gave no answer when one was due."""
        return self._failed or self._task.done()

    def end(self) -> None:
        if self._ready.done() and not self._ready.cancelled():
            with suppress(RuntimeError):  # the loop has ended before us
                self._portal.call(self._stop.set)
            wait([self._task], _END)
        self._task.cancel()

    def wait(self, work: Callable[[], Any], seconds: float) -> Any:
        """What comes of a coroutine function in the event loop. Raises `McpError`, also after so many seconds."""
        self._allowance.renew()
        return self._waited(self._portal.start_task_soon(work), seconds, "answer")

    async def definitions(self) -> dict[str, Definition]:
        """What the server tells of its tools now, by name."""
        found: dict[str, Definition] = {}
        cursor: str | None = None
        for _ in range(_PAGES):
            page = await self.client.list_tools(cursor=cursor)
            for each in page.tools:
                told = each.model_dump(by_alias=True, exclude_none=True, mode="json")
                if each.name in found and found[each.name] != told:
                    raise McpError(f"MCP server {self._server.name} tells two things of its tool {each.name!r}")
                found[each.name] = told
            if (cursor := page.next_cursor) is None:
                return found
        raise McpError(f"MCP server {self._server.name} lists tools on more than {_PAGES} pages")

    async def _keep(self, auth: httpx2.Auth | None, options: Mapping[str, Any]) -> None:
        server = self._server
        if server.command:
            way = transport.stdio(server.command, server.environment, self._allowance)
        else:
            way = transport.http(server.url, server.headers, self._allowance, auth)
        info = mcp_types.Implementation(name="modelworks", version="1")
        # What a server's answers may be kept for is not its to say: definitions are looked at before each call.
        async with Client(way, cache=None, client_info=info, **options) as client:
            self._ready.set_result(client)
            await self._stop.wait()

    def _waited(self, future: Future[Value], seconds: float, what: str) -> Value:
        until = time.monotonic() + seconds
        try:
            while True:
                try:
                    return future.result(_STEP)
                except TimeoutError:
                    if future.done() or time.monotonic() > until:
                        self._failed = True
                        raise McpError(f"{self._told()} gave no {what} within {seconds:g} seconds") from None
        except CancelledError:  # the task that was to make it ready has ended
            raise McpError(f"{self._told()} cannot be used: {self._why()}") from None
        except _BROKEN as error:
            if not isinstance(error, MCPError):
                self._failed = True
            elif error.code in _OVER:
                self._failed = True
                raise McpError(f"{self._told()}: {_reason(error)}{self._words()}") from error
            raise McpError(f"{self._told()}: {_reason(error)}") from error
        finally:
            future.cancel()

    def _told(self) -> str:
        return f"MCP server {self._server.name}"

    def _why(self) -> str:
        try:
            self._task.result(0)
        except (CancelledError, TimeoutError):
            return "its connection was ended"
        except (BaseExceptionGroup, *_BROKEN) as error:
            return _reason(error) + self._words()
        return f"its connection was ended{self._words()}"

    def _words(self) -> str:
        last = next((line for line in reversed(self._allowance.said.splitlines()) if line.strip()), "")
        return f"; its last words: {definition.visible(last.strip(), 200)}" if last else ""


def content_text(result: mcp_types.CallToolResult) -> str:
    """A result as a model reads it: texts as they are, anything else by its kind."""
    parts = [_block_text(block) for block in result.content]
    if not parts and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(parts)


def _block_text(block: mcp_types.ContentBlock) -> str:
    match block:
        case mcp_types.TextContent():
            return block.text
        case mcp_types.ImageContent() | mcp_types.AudioContent():
            return f"[{block.mime_type}, {len(block.data) * 3 // 4} bytes]"
        case mcp_types.ResourceLink():
            return f"[{block.name}: {block.uri}]"
        case mcp_types.EmbeddedResource(resource=mcp_types.TextResourceContents() as resource):
            return f"[{resource.uri}]\n{resource.text}"
        case _:
            return f"[{block.type}]"


def _reason(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_reason(each) for each in error.exceptions)
    if isinstance(error, ValidationError):
        return f"it answers with what is no {error.title}"
    if isinstance(error, anyio.ClosedResourceError | anyio.BrokenResourceError | anyio.EndOfStream):
        return "its connection was ended"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error).strip() or type(error).__name__
