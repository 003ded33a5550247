"""`modelworks mcp`: tools of ours served to others, and others' looked at before they are used."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from modelworks.cli.documents import documents_tool
from modelworks.cli.serve import ToolsAddress, run_page
from modelworks.cli.terminal import Flag, note, stdout
from modelworks.core.errors import ConfigError
from modelworks.core.log import escaped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelworks.agents.mcp.client import Server
    from modelworks.agents.tool import Tool

mcp = App(name="mcp", help="Serve tools over the Model Context Protocol, and look at the tools of other servers.")
Names = Annotated[tuple[str, ...], Parameter(show_default=False, consume_multiple=True)]

_ADDRESS = ToolsAddress()


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
    address: ToolsAddress = _ADDRESS,
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
        bound, told = address.opened()
        from modelworks.serve.mcp import Offering, create_mcp_app

        _note_withheld(withheld, effects)
        run_page(bound, create_mcp_app(Offering(server, **told)), "serving tools at {url}/mcp", shutdown_seconds=1)


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
