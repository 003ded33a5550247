"""Python code in the sandbox: what it prints and the value of its last expression come back."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from modelworks.agents.sandbox.kinds import Bounds, SandboxError
from modelworks.agents.sandbox.run import Sandbox
from modelworks.agents.sandbox.watch import Result as Ran
from modelworks.agents.tool import Effect, Result, Tool, tool

_SECONDS: Final = 30.0
_OUTPUT: Final = 16 << 10
# One thread: a thread counts as a process, and each reserves memory.
_ENV: Final[Mapping[str, str]] = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
_SYSTEM_PYTHON: Final = "/usr/bin/python3"

# Given to the interpreter with -c; reads the code from standard input. Errors are told with the code's lines alone.
_RUNNER: Final = """
import ast, linecache, sys, traceback
code = sys.stdin.buffer.read().decode()
sys.stdin = open("/dev/null")
linecache.cache["code"] = (len(code), None, code.splitlines(True), "code")
try:
    tree = ast.parse(code, "code")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(compile(tree, "code", "exec"), space)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "code", "eval"), space)
        if value is not None:
            print(value if isinstance(value, str) else repr(value))
except SystemExit:
    raise
except BaseException as error:
    sys.stdout.flush()
    while error.__traceback__ and error.__traceback__.tb_frame.f_code.co_filename != "code":
        error.__traceback__ = error.__traceback__.tb_next
    traceback.print_exception(error, chain=False, limit=-6)
    sys.exit(1)
"""


def python(
    workspace: str | os.PathLike[str] | None = None, *, write: bool = True, bounds: Bounds | None = None
) -> Tool:
    """A tool that runs Python code, with the packages of this interpreter, in a sandbox that sees a workspace.

    It runs in the workspace, which it may change with `write`; without one, in a folder of which nothing is kept. Each
    call begins anew. Raises `SandboxError` where nothing can be confined, or no interpreter runs confined.
    """
    folders = [] if workspace is None else [workspace]
    interpreter, libraries = _interpreter()
    sandbox = Sandbox(
        read=[*libraries, *([] if write else folders)],
        write=folders if write else [],
        bounds=bounds or Bounds(seconds=_SECONDS, output=_OUTPUT),
    )
    effects: list[Effect] = ["reads", "writes"] if write else ["reads"]
    place = folders[0] if folders else None

    @tool(name="python", effects=effects if folders else (), timeout=sandbox.bounds.seconds + 10.0)
    def run(code: str) -> Result:
        """Run Python code. Returns what it prints, and the value of its last expression.

        There is no network. Variables are not kept from one call to the next; files in the current folder are.

        Args:
            code: A whole script.
        """
        argv = [interpreter, "-I", "-B", "-c", _RUNNER]
        return told(sandbox.run(argv, stdin=code.encode("utf-8", "replace"), cwd=place, env=_ENV))

    return run


def _interpreter() -> tuple[str, list[str]]:
    """An interpreter that runs confined, and the folders that it needs: this one, or the system's."""
    own = sorted({os.path.realpath(prefix) for prefix in (sys.base_prefix, sys.prefix)})
    own = [prefix for prefix in own if not prefix.startswith("/usr")]
    reasons = []
    for program, libraries in ((sys.executable, own), (_SYSTEM_PYTHON, [])):
        if not Path(program).exists():
            continue
        try:
            result = Sandbox(read=libraries).run([program, "-I", "-c", "print(6 * 7)"])
        except SandboxError as error:
            if not libraries:
                raise
            reasons.append(str(error))
            continue
        if result.stdout == "42\n":
            return program, libraries
        reasons.append(f"{program}: {result.stderr.strip()[-200:]}")
    raise SandboxError("no Python interpreter runs confined: " + "; ".join(reasons))


def told(ran: Ran) -> Result:
    """For the model: output, then errors, then how it ended where that was not well."""
    parts = [ran.stdout.rstrip("\n"), ran.stderr.rstrip("\n")]
    if ran.killed:
        why = {
            "time": "it took too long",
            "cpu": "it took too much processor time",
            "memory": "it used too much memory",
            "disk": "it wrote too much to the disk",
            "halt": "it was halted",
        }[ran.killed]
        parts.append(f"[killed after {ran.seconds:.1f} s: {why}]")
    elif ran.status:
        parts.append(f"[ended with status {ran.status}]")
    return Result("\n".join(part for part in parts if part) or "(no output)", error=ran.status != 0)
