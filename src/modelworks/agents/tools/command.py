"""Programs of the system in the sandbox: a list of arguments, no shell, and only programs that were allowed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import Final

from modelworks.agents.sandbox.kinds import PATH, Bounds
from modelworks.agents.sandbox.run import Sandbox
from modelworks.agents.tool import Effect, Result, Tool, tool
from modelworks.agents.tools.python import told
from modelworks.core.errors import ConfigError, ModelworksError

PROGRAMS: Final = tuple(
    "cat cmp comm cp cut diff du file find grep head join ls mkdir mv nl paste rm sed sort stat "
    "tail tac tr uniq wc".split()
)
"""What is allowed unless said otherwise: for text and files. The sandbox is what confines, and not this list."""
_OUTPUT: Final = 16 << 10


class CommandError(ModelworksError):
    """A program that is not allowed or not there; the message is for the model."""


def command(
    workspace: str | os.PathLike[str],
    *,
    write: bool = True,
    programs: Iterable[str] = PROGRAMS,
    bounds: Bounds | None = None,
) -> Tool:
    """A tool that runs a program in a sandbox that sees a workspace, which it may change with `write`.

    Raises `SandboxError` where nothing can be confined, `ConfigError` where none of the programs is installed.
    """
    found = {name: path for name in programs if "/" not in name and (path := shutil.which(name, path=PATH))}
    if not found:
        raise ConfigError("tool command: none of the programs that are allowed is installed")
    sandbox = Sandbox(
        read=[] if write else [workspace],
        write=[workspace] if write else [],
        bounds=bounds or Bounds(seconds=30.0, output=_OUTPUT),
    )

    def run(argv: list[str], input: str = "") -> Result:
        if not argv or argv[0] not in found:
            asked = repr(argv[0]) if argv else "nothing"
            raise CommandError(f"{asked} is not a program that is allowed; there are {', '.join(found)}")
        if any("\0" in each for each in argv):
            raise CommandError("an argument has no null character in it")
        return told(sandbox.run([found[argv[0]], *argv[1:]], stdin=input.encode("utf-8", "replace"), cwd=workspace))

    run.__doc__ = f"""Run a program in the workspace. There is no shell: no pipes, no redirection, no wildcards.

        Programs: {", ".join(found)}.

        Args:
            argv: The program and each of its arguments, such as ["grep", "-n", "total", "report.txt"].
            input: What it reads from standard input.
        """
    effects: list[Effect] = ["reads", "writes"] if write else ["reads"]
    return tool(name="command", effects=effects, timeout=sandbox.bounds.seconds + 10.0)(run)
