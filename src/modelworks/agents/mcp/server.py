"""Tools served to others over MCP: those that only read, unless the user allows more effects.

The client at the other side asks its own user, or does not. What may be called here is decided here: a tool with an
effect that was not allowed is not offered, and a call of one that is runs as an agent's own calls do, in a process that
ends with its time limit, or when the client cancels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

import anyio
import mcp_types
from mcp import MCPError
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from modelworks.agents.arguments import ArgumentError, checked
from modelworks.agents.execute import Outcome, execute
from modelworks.agents.halt import Halt
from modelworks.agents.tool import EFFECTS, Effect, Tool
from modelworks.core.errors import ConfigError

READING: Final[tuple[Effect, ...]] = ("reads",)
_AT_ONCE: Final = 8
"""Calls that run together; more wait."""
_ACTING: Final[frozenset[Effect]] = frozenset(("writes", "money"))


def offered(tools: Iterable[Tool], effects: Iterable[Effect] = READING) -> list[Tool]:
    """The tools that have no other effects than these. Raises `ConfigError` for an effect that there is none of."""
    allowed = frozenset(effects)
    if unknown := allowed - set(EFFECTS):
        raise ConfigError(f"no effect is called {min(unknown)!r}; there are {', '.join(EFFECTS)}")
    return [tool for tool in tools if tool.effects <= allowed]


def make_server(
    tools: Iterable[Tool], effects: Iterable[Effect] = READING, *, name: str = "modelworks", **more: Any
) -> Server[Any]:
    """The SDK's server over the tools that may be offered; `more` is as the SDK's takes it.

    Raises `ConfigError` for two tools of one name, and for an effect that there is none of.
    """
    by_name: dict[str, Tool] = {}
    for tool in offered(tools, effects):
        if tool.name in by_name:
            raise ConfigError(f"two tools are called {tool.name!r}")
        by_name[tool.name] = tool
    limiter: list[anyio.CapacityLimiter] = []  # made in the event loop

    async def list_tools(_: Any, __: mcp_types.PaginatedRequestParams | None) -> mcp_types.ListToolsResult:
        return mcp_types.ListToolsResult(tools=[_described(tool) for tool in by_name.values()])

    async def call_tool(_: Any, params: mcp_types.CallToolRequestParams) -> mcp_types.CallToolResult:
        if params.name not in by_name:
            raise MCPError(mcp_types.INVALID_PARAMS, f"there is no tool {params.name!r}")
        if not limiter:
            limiter.append(anyio.CapacityLimiter(_AT_ONCE))
        outcome = await _run(by_name[params.name], params.arguments or {}, limiter[0])
        return mcp_types.CallToolResult(content=[mcp_types.TextContent(text=outcome.content)], is_error=outcome.error)

    return Server(name, on_list_tools=list_tools, on_call_tool=call_tool, **more)


async def serve_stdio(server: Server[Any]) -> None:
    """Serve over this process's standard streams until the input ends; what tools print goes elsewhere."""
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def _described(tool: Tool) -> mcp_types.Tool:
    acting = bool(tool.effects & _ACTING)
    return mcp_types.Tool(
        name=tool.name,
        description=tool.description,
        input_schema=dict(tool.parameters),
        annotations=mcp_types.ToolAnnotations(
            read_only_hint=not acting, destructive_hint=acting, open_world_hint="network" in tool.effects
        ),
    )


async def _run(tool: Tool, arguments: Mapping[str, Any], limiter: anyio.CapacityLimiter) -> Outcome:
    try:
        made = checked(tool.parameters, arguments)
    except ArgumentError as error:  # for the model at the other side, which can mend it
        return Outcome(f"the arguments do not fit: {error}", True, 0.0)
    halt = Halt()
    try:
        return await anyio.to_thread.run_sync(
            partial(execute, tool, made, halt), abandon_on_cancel=True, limiter=limiter
        )
    finally:
        halt.set()  # the client cancelled or left; of a call that has ended there is nothing left to halt
