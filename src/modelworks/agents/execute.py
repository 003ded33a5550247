"""One call of a tool, carried out so that a halt, a time limit or a flood of output cannot hurt the run.

A tool runs in a process of its own, forked from this one, which dies with a halt, with its time limit, and with this
process. A tool that needs this process's memory (`isolated=False`) runs in a thread, where an exception stops it at its
next step of Python; one that blocks in C until long after cannot be stopped so, and its observation says that.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import selectors
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from modelworks.agents.halt import Halt
from modelworks.agents.tool import Result, Tool
from modelworks.core.errors import ModelworksError

MOST_CHARACTERS: Final = 20_000
"""Of one result; what is longer loses its middle."""
_MOST_BYTES: Final = 4 << 20  # of what a process may send, whose text is cut to the above in any case
_GRACE: Final = 0.5  # seconds for a thread to end once it was told to
_PR_SET_PDEATHSIG: Final = 1

under: ContextVar[Halt | None] = ContextVar("under", default=None)
"""The halt that a tool which is not isolated runs under, for those that work on at length or run others."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call."""

    content: str
    error: bool
    seconds: float
    origins: frozenset[str] = frozenset()
    unknown: bool = False
    """Whether it was stopped while it ran, so that its effects may have happened or not."""


def execute(
    tool: Tool,
    arguments: Mapping[str, Any],
    halt: Halt,
    *,
    timeout: float | None = None,
    most: int = MOST_CHARACTERS,
) -> Outcome:
    """Run a tool with arguments that satisfy its schema, for at most `timeout` seconds and the tool's own limit.

    Never raises for what the tool does: an exception, a process that dies, a halt, a limit are outcomes with `error`.
    """
    seconds = tool.timeout if timeout is None else min(timeout, tool.timeout)
    begun = time.monotonic()
    carry_out = _in_process if tool.isolated and hasattr(os, "fork") else _in_thread
    result, unknown = carry_out(tool, arguments, halt, max(seconds, 0.0))
    return Outcome(shortened(result.content, most), result.error, time.monotonic() - begun, result.origins, unknown)


def shortened(text: str, most: int) -> str:
    """Text of at most about `most` characters: what is longer keeps its beginning and its end."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    tail = most - head
    return f"{text[:head]}\n[... {len(text) - most} characters left out ...]\n{text[len(text) - tail :]}"


# --- what a tool returns, as text -------------------------------------------------------------------------------------


def _result(returned: Any, printed: str) -> Result:
    if isinstance(returned, Result):
        return returned
    if returned is None:
        return Result(printed or "done")
    if isinstance(returned, str):
        return Result(returned)
    if isinstance(returned, bytes | bytearray | memoryview):
        return Result(f"{len(bytes(returned))} bytes, which are no text", error=True)
    try:
        return Result(json.dumps(returned, ensure_ascii=False, default=str))
    except (TypeError, ValueError, RecursionError):
        return Result(str(returned))


def _failure(error: BaseException) -> Result:
    """What a tool raised, in one line for the model; the trace is for people, on the last line's place."""
    where = traceback.extract_tb(error.__traceback__)
    said = str(error) or type(error).__name__
    if isinstance(error, ModelworksError):
        return Result(f"error: {said}", error=True)
    at = f" (line {where[-1].lineno} of {where[-1].name})" if where else ""
    return Result(f"error: {type(error).__name__}: {said}{at}", error=True)


def _call(tool: Tool, arguments: Mapping[str, Any], out: io.StringIO) -> Result:
    try:
        return _result(tool.run(**arguments), out.getvalue())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a tool raises is the model's to read
        return _failure(error)


# --- in a process of its own ------------------------------------------------------------------------------------------


def _in_process(tool: Tool, arguments: Mapping[str, Any], halt: Halt, seconds: float) -> tuple[Result, bool]:
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child only runs the tool
        parent = os.getpid()
        pid = os.fork()
    if pid == 0:
        _be_child(tool, arguments, read, write, parent)
    os.close(write)
    ended = threading.Event()

    def kill() -> None:
        if not ended.is_set():
            _kill(pid)

    unhook = halt.on_set(kill)
    try:
        data, whole = _drain(read, time.monotonic() + seconds, halt)
    finally:
        os.close(read)
        _kill(pid)  # and with it what it may have started
        ended.set()
        unhook()
        _, status = os.waitpid(pid, 0)
    if whole and data:
        with suppress(ValueError, TypeError):  # cut short, by a child that died as it wrote
            content, origins, error = json.loads(data)
            return Result(content, frozenset(origins), error), False
    if halt.is_set():
        return Result("stopped: the run was halted", error=True), True
    if not whole:
        return Result(f"error: stopped after {seconds:g} seconds, its limit", error=True), True
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
    return Result(f"error: the tool's process ended with {how} before it returned anything", error=True), True


def _be_child(tool: Tool, arguments: Mapping[str, Any], read: int, write: int, parent: int) -> NoReturn:
    status = 1
    try:
        os.close(read)
        os.setsid()  # a group of its own, which is killed as one
        for caught in (signal.SIGINT, signal.SIGTERM):
            signal.signal(caught, signal.SIG_DFL)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before this could tell
                os._exit(status)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        printed = _Printed()
        with redirect_stdout(printed), redirect_stderr(printed):
            result = _call(tool, arguments, printed)
        content = shortened(result.content, _MOST_BYTES // 8)
        with os.fdopen(write, "wb") as pipe:
            pipe.write(json.dumps((content, sorted(result.origins), result.error)).encode())
        status = 0
    finally:
        os._exit(status)


def _drain(read: int, deadline: float, halt: Halt) -> tuple[bytes, bool]:
    """What comes through a pipe until its end, and whether the end came before the deadline and the halt."""
    pieces: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(read, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0 and not halt.is_set():
            if not selector.select(min(left, 0.25)):
                continue
            piece = os.read(read, 1 << 16)
            if not piece:
                return b"".join(pieces), True
            pieces.append(piece)
    return b"".join(pieces), False


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # before it is a group's leader, it is only itself
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


class _Printed(io.StringIO):
    """What a tool prints, as much of it as may be of use."""

    def write(self, text: str) -> int:
        if self.tell() < MOST_CHARACTERS:
            super().write(text[:MOST_CHARACTERS])
        return len(text)


# --- in a thread ------------------------------------------------------------------------------------------------------


class _Stopped(BaseException):
    """Raised within a thread that is to end: no `except Exception` of a tool keeps it."""


def _in_thread(tool: Tool, arguments: Mapping[str, Any], halt: Halt, seconds: float) -> tuple[Result, bool]:
    found: list[Result] = []
    done = threading.Event()

    def work() -> None:
        try:
            under.set(halt)
            found.append(_call(tool, arguments, io.StringIO()))
        except _Stopped:
            pass
        finally:
            done.set()

    context = copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name=f"tool {tool.name}", daemon=True)
    unhook = halt.on_set(lambda: _interrupt(thread))
    thread.start()
    try:
        ended = done.wait(seconds) if not halt.is_set() else done.wait(_GRACE)
    finally:
        unhook()
    if not ended or halt.is_set():
        until = time.monotonic() + _GRACE
        while not done.wait(0.05) and time.monotonic() < until:
            _interrupt(thread)  # again: the first may have hit a handler
    if found:
        return found[0], False
    why = "stopped: the run was halted" if halt.is_set() else f"error: stopped after {seconds:g} seconds, its limit"
    still = "" if done.is_set() else "; it blocks, and may still be running"
    return Result(f"{why}{still}", error=True), True


def _interrupt(thread: threading.Thread) -> None:
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Stopped))
