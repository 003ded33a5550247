"""`modelworks mcp`: tools of ours served to others, and others' looked at before they are used."""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from modelworks.cli.documents import documents_tool
from modelworks.cli.serve import KEY_VARIABLE, Port, Several
from modelworks.cli.terminal import Flag, note, stdout
from modelworks.core.errors import ConfigError
from modelworks.core.log import escaped

if TYPE_CHECKING:
    from collections.abc import Sequence
    from socket import socket

    from starlette.applications import Starlette

    from modelworks.agents.mcp.client import Server
    from modelworks.agents.tool import Tool

mcp = App(name="mcp", help="Serve tools over the Model Context Protocol, and look at the tools of other servers.")
Names = Annotated[tuple[str, ...], Parameter(show_default=False, consume_multiple=True)]


@mcp.default
def serve(
    *,
    tools: Names = (),
    docs: Path | None = None,
    store: Path | None = None,
    workspace: Path | None = None,
    data: Path | None = None,
    search: str = "",
    allow: Names = (),
    http: Flag = False,
    host: str = "127.0.0.1",
    port: Port = 8900,
    api_key: Several = (),
    allow_host: Several = (),
) -> None:
    """Serve tools to a client, over standard input and output or with --http at an address.

    Tools that only read are offered; --allow adds others by their effects.

    Parameters
    ----------
    tools
        Which of modelworks' tools.
    docs
        A folder of documents, served as a tool that searches it.
    store
        The folder of the documents' index, where it is not to be in the cache.
    workspace
        The folder of the tools files, python and command.
    data
        What the tool sql reads: an SQLite database, a CSV file, or a folder of them.
    search
        The engine of the tool web_search: searxng:URL or brave.
    allow
        Effects that tools may have beside reading: writes, network, money.
    http
        Serve at an address, which is printed, until Ctrl-C.
    host
        The address to serve at. Beyond this machine it takes an API key.
    port
        The port to serve at; 0 takes a free one.
    api_key
        A key that requests must bring; several may be given. MODELWORKS_API_KEY sets one out of others' sight.
    allow_host
        A name that requests may call this server by, beside localhost and its address.
    """
    _check_installed()
    import anyio

    from modelworks.agents.mcp.server import READING, make_server, offered, serve_stdio
    from modelworks.agents.tools import Place, make

    effects: Any = (*READING, *allow)
    with ExitStack() as stack:
        given = make(tools, Place(workspace, "writes" in allow, data, search))
        if docs is not None:
            given.append(stack.enter_context(documents_tool(docs, store)))
        if not given:
            raise ConfigError("there is nothing to serve: name --tools, or a folder of documents with --docs")
        server = make_server(given, effects)
        withheld = [tool for tool in given if tool not in offered([tool], effects)]
        if not http:
            _note_withheld(withheld, effects)
            anyio.run(serve_stdio, server)
            return
        bound, app = _http(server, host, port, api_key, allow_host)
        from modelworks.serve import server as serving

        _note_withheld(withheld, effects)
        try:
            told = f"serving tools at {serving.url(bound)}/mcp"
            serving.make_server(app, shutdown_seconds=1, on_start=lambda: print(told, flush=True)).run([bound])
        except KeyboardInterrupt:  # uvicorn raises the signal again after a graceful end
            return


@mcp.command
def tools(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    name: str,
    pins: Path | None = None,
    approve: Flag = False,
) -> None:
    """Show the tools of a server as a model would be told of them, and whether they are the ones that were approved.

    Parameters
    ----------
    command
        The server's program with its arguments, or its URL.
    name
        What the server is called; its tools' names begin with it.
    pins
        The file of approved definitions, where it is not the user's own.
    approve
        Take the definitions as they are now.
    """
    _check_installed()
    from modelworks.agents.mcp.client import McpServer
    from modelworks.agents.mcp.definition import visible
    from modelworks.agents.mcp.pins import Pins, default_path
    from modelworks.agents.tool import canonical

    out = stdout()
    with McpServer(_server(name, command), Pins(pins or default_path())) as server:
        if approve:
            server.approve()
        found = server.look()
        for seen in found:
            called = seen.tool.name if seen.tool is not None else seen.name
            out.print(f"{escaped(called)}  {seen.state}", style="bold", soft_wrap=True)
            if seen.tool is None:
                out.print(f"    {escaped(seen.why)}", soft_wrap=True)
                continue
            out.print(f"    effects: {', '.join(sorted(seen.tool.effects)) or 'none'}", soft_wrap=True)
            out.print(f"    arguments: {visible(canonical(seen.tool.parameters))}", soft_wrap=True)
            for line in seen.tool.description.splitlines():
                out.print(f"    {escaped(line)}", soft_wrap=True)
    if any(seen.state in ("new", "changed") for seen in found):
        note(f"to take them as they are: modelworks mcp tools --name {name} --approve -- {shlex.join(command)}")


def opened(name: str, where: str, stack: ExitStack) -> list[Tool]:
    """The tools of a server that may be used, until the stack is closed; others are told of. Raises `McpError`."""
    _check_installed()
    from modelworks.agents.mcp.client import McpServer
    from modelworks.agents.mcp.pins import Pins, default_path

    server = stack.enter_context(McpServer(_server(name, tuple(shlex.split(where))), Pins(default_path())))
    found = server.tools()
    for tool, why in server.refused.items():
        note(f"{name}: {tool} is not used: {why}")
    return found


def _server(name: str, command: tuple[str, ...]) -> Server:
    from modelworks.agents.mcp.client import Server

    if len(command) == 1 and command[0].startswith(("http://", "https://")):
        return Server(name, url=command[0])
    return Server(name, command)


def _check_installed() -> None:
    try:
        import mcp  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "mcp":
            raise
        raise ConfigError("the Model Context Protocol needs mcp: pip install 'modelworks[agents]'") from error


def _note_withheld(tools: Sequence[Tool], effects: Sequence[str]) -> None:
    for tool in tools:
        missing = sorted(tool.effects - set(effects))
        note(f"{tool.name} is not offered: it has {', '.join(missing)}; --allow {' '.join(missing)} offers it")


def _http(
    server: Any, host: str, port: int, api_key: tuple[str, ...], allow_host: tuple[str, ...]
) -> tuple[socket, Starlette]:
    """A bound socket, and the application for it."""
    try:
        from modelworks.serve import server as serving
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette"):
            raise
        raise ConfigError(f"serving needs {error.name}: pip install 'modelworks[serve]'") from error
    from modelworks.serve.mcp import Offering, create_mcp_app
    from modelworks.serve.service import LOOPBACK

    keys = [key.strip() for key in (*api_key, os.environ.get(KEY_VARIABLE, "")) if key.strip()]
    serving.check_exposure(host, has_key=bool(keys))
    hosts = (*LOOPBACK, host.lower(), *(each.lower() for each in allow_host))
    offering = Offering(server, api_keys=keys, hosts=hosts, any_address=not serving.is_loopback(host))
    return serving.bind(host, port), create_mcp_app(offering)
