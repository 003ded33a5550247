"""A sandbox: which folders are seen, and what may be used up; commands are run in it one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from modelworks.agents.halt import Halt
from modelworks.agents.sandbox.kinds import Bounds, Kind, Launch, SandboxError, start
from modelworks.agents.sandbox.probe import probe
from modelworks.agents.sandbox.watch import Result, watch

_NEVER: Final = ("/", "/proc", "/sys", "/dev", "/etc")  # to be named as they are: too much is in them


class Sandbox:
    """Runs commands confined: no network, no environment, no files but the system's programs and the named folders."""

    def __init__(
        self,
        *,
        read: Iterable[str | os.PathLike[str]] = (),
        write: Iterable[str | os.PathLike[str]] = (),
        bounds: Bounds | None = None,
        kind: Kind | None = None,
    ) -> None:
        """`read` and `write` are folders (or files) that commands see under their own paths, links resolved. What is in
        one that may be written may be written.

        Raises `SandboxError` where no kind of confinement works here (or not the one asked for), with the reasons, and
        for a folder that does not exist or would show too much.
        """
        found = probe()
        if kind is None and found.kind is None:
            why = "; ".join(f"{name}: {reason}" for name, reason in found.reasons.items())
            raise SandboxError(f"nothing can be confined on this machine, so nothing is run: {why}")
        if kind is not None and found.reasons[kind]:
            raise SandboxError(f"{kind} does not work here: {found.reasons[kind]}")
        self.kind: Kind = kind or found.kind or "bubblewrap"
        self.write = [_folder(path) for path in write]
        self.read = [folder for path in read if not _is_within(folder := _folder(path), self.write)]
        self.bounds = bounds or Bounds()

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        halt: Halt | None = None,
    ) -> Result:
        """Run a program with its arguments; no shell. Every process of it has ended when this returns.

        `cwd` is the first folder that may be written, or the temporary one, unless said otherwise. Raises
        `SandboxError` where it cannot be started confined as asked; it was not run then.
        """
        if not argv or any("\0" in each for each in argv):
            raise SandboxError("a command is a program and its arguments, without null characters")
        if halt is not None and halt.is_set():
            return Result(status=137, stdout="", stderr="", truncated=False, seconds=0.0, killed="halt")
        place = str(cwd) if cwd is not None else next((path for path in self.write if Path(path).is_dir()), None)
        what = Launch(list(argv), self.read, self.write, place, env, stdin, self.bounds)
        result = watch(start(self.kind, what), self.bounds, halt)
        said = result.stderr
        if self.kind == "bubblewrap" and result.status == 1 and said.startswith("bwrap: ") and "execvp" not in said:
            raise SandboxError(" ".join(said.split())[:500])  # it never came to the command
        return result


def _is_within(path: str, folders: Iterable[str]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)


def _folder(path: str | os.PathLike[str]) -> str:
    try:
        resolved = str(Path(path).resolve(strict=True))
    except (OSError, RuntimeError) as error:
        raise SandboxError(f"{path}: there is no such folder to be seen in the sandbox") from error
    if resolved in _NEVER or resolved.startswith(("/proc/", "/sys/", "/dev/")):
        raise SandboxError(f"{path}: shows too much of the machine; name a folder in it")
    return resolved
