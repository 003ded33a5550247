"""How a command is started under each kind of confinement. What is started here is watched by `watch`.

bubblewrap: the command has processes, network, IPC, host name and a root of its own, in which there are the system's
programs, the named folders, and a temporary `/tmp`. Where root calls, the command's user is another one, to whom root's
own files in the named folders belong by a mapped mount; so no file changes hands.

Landlock: the command may open nothing else than those; what Landlock does not decide (sockets, signals, modes of files,
other processes) seccomp denies. That other processes and files exist can be seen.
"""

from __future__ import annotations

import ctypes
import json
import marshal
import os
import platform
import pwd
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from modelworks.agents.sandbox import launch, seccomp
from modelworks.core.errors import ModelworksError

Kind: TypeAlias = Literal["bubblewrap", "landlock"]
KINDS: Final[tuple[Kind, ...]] = ("bubblewrap", "landlock")
UIDS: Final = range(50_000, 60_000)
"""Root's commands run as one of these users: one nobody has, or the owner of the folder that may be written."""
PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
_SETTINGS: Final = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime")
_GONE: Final = 10_000  # milliseconds
_COUNTS_BY_NAMESPACE: Final = (5, 14)  # the first kernel whose RLIMIT_NPROC does


class SandboxError(ModelworksError):
    """A command cannot be confined here, or not as asked; it was not run."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a command may use up, with all that it starts; what goes beyond is killed, or fails."""

    seconds: float = 30.0
    cpu_seconds: int = 60
    """Of each process."""
    memory: int = 1 << 30
    """Bytes of all its processes together; each may also reserve no more."""
    processes: int = 64
    """Processes and threads at once."""
    file_bytes: int = 64 << 20
    """Of each file that it writes."""
    disk: int = 256 << 20
    """Bytes of all files that it writes; its /tmp holds no more."""
    open_files: int = 256
    """Of each process."""
    output: int = 64 << 10
    """Bytes that are kept of each of standard output and error: the first and the last; what is between is dropped."""

    def rlimits(self) -> dict[str, int]:
        return {
            "RLIMIT_AS": self.memory,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_CORE": 0,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
        }


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, and what of the machine it gets."""

    argv: Sequence[str]
    read: Sequence[str] = ()
    write: Sequence[str] = ()
    cwd: str | None = None
    env: Mapping[str, str] | None = None
    stdin: bytes = b""
    bounds: Bounds = Bounds()


class Started:
    """A command under way."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        root: int,
        folders: Sequence[str],
        *,
        alive: int | None = None,
        namespace: int | None = None,
    ) -> None:
        """`alive` is a pipe to a supervisor; `namespace` a descriptor of the first process of a process namespace."""
        self.process = process
        self.root = root
        """The process that all others of the command descend from."""
        self.folders = folders
        """Where it can write on the disk."""
        self._alive, self._namespace = alive, namespace

    def kill(self) -> None:
        """End all of it, at once: a process namespace goes with its first process, a process group with its supervisor.

        A command of neither is killed alone.
        """
        if self._alive is not None:
            with suppress(OSError):
                os.write(self._alive, b"x")
            return
        if self._namespace is not None:
            with suppress(OSError):
                signal.pidfd_send_signal(self._namespace, signal.SIGKILL)
        self.process.kill()

    def close(self) -> None:
        """Make sure that nothing is left of it."""
        self.kill()
        if self._alive is not None:
            alive, self._alive = self._alive, None
            os.close(alive)
        self.process.wait()
        if self._namespace is not None:
            # bubblewrap ends when the command does, before what that left behind. The first process of the namespace
            # has ended when all others have; one that the kernel itself holds up is not waited for without end.
            namespace, self._namespace = self._namespace, None
            if _may_have_children(self.root):  # else it is not waited for: the kernel takes its namespaces down first
                gone = select.poll()
                gone.register(namespace, select.POLLIN)
                gone.poll(_GONE)
            os.close(namespace)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def _may_have_children(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/task/{process}/children").read_text().strip() != ""
    except FileNotFoundError:
        return Path(f"/proc/{process}").exists()  # a kernel that does not tell
    except OSError:
        return False


def start(kind: Kind, what: Launch) -> Started:
    """Start a command; raises `SandboxError` where it cannot be confined."""
    if sys.platform != "linux":
        raise SandboxError("only Linux has what confines here")
    if not seccomp.is_supported():
        raise SandboxError(f"there is no table of system calls for {platform.machine()}")
    for path in (*what.read, *what.write):
        if not Path(path).exists():
            raise SandboxError(f"{path}: is not there any more")
    uid = _uid(what.write) if os.geteuid() == 0 else None
    stdin = _sealed(what.stdin)
    try:
        return (_bubblewrap if kind == "bubblewrap" else _landlock)(what, uid, stdin)
    finally:
        os.close(stdin)


def _uid(write: Sequence[str]) -> int:
    for folder in write:
        if (owner := Path(folder).stat().st_uid) in UIDS:
            return owner
    while True:
        uid = random.SystemRandom().choice(UIDS)
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid


def _sealed(data: bytes) -> int:
    """A file in memory that nobody can write to any more."""
    import fcntl

    file = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(file), "wb") as writer:
        writer.write(data)
    os.lseek(file, 0, os.SEEK_SET)
    fcntl.fcntl(
        file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    )
    return file


def _environment(what: Launch, home: str) -> dict[str, str]:
    plain = {"PATH": PATH, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8"}
    return plain | dict(what.env or {})


# --- bubblewrap -------------------------------------------------------------------------------------------------------


def _bubblewrap(what: Launch, uid: int | None, stdin: int) -> Started:
    program = shutil.which("bwrap", path=PATH)
    if program is None:
        raise SandboxError("bubblewrap is not installed (on Debian: apt-get install bubblewrap)")
    argv = list(what.argv)
    if uid is not None:
        setpriv = shutil.which("setpriv", path=PATH)
        if setpriv is None:
            raise SandboxError("setpriv of util-linux is not installed, by which root's commands become another user's")
        dropped = ("--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
        argv = [setpriv, *dropped, "--", *argv]
    info, block, filters = os.pipe(), os.pipe(), _pipe_of(seccomp.program(namespaces=True))
    report = os.pipe()
    passed = [info[1], block[0], filters]
    command = [program, *_arguments(what, uid), "--info-fd", str(info[1]), "--block-fd", str(block[0])]
    command += ["--seccomp", str(filters), "--", *argv]
    env = _environment(what, "/tmp")
    folders = [*what.read, *what.write]
    if uid is not None and folders:
        spec = {"kind": "bubblewrap", "argv": command, "env": env, "uid": uid, "folders": folders, "report": report[1]}
        command, passed = _launcher(spec), [*passed, report[1]]
    try:
        process = _popen(command, env, stdin, passed)
        for descriptor in (info[1], block[0], filters, report[1]):
            os.close(descriptor)
        try:
            root = _child_of(process, info[0], report[0])
            counted = uid is not None or _kernel() >= _COUNTS_BY_NAMESPACE
            _limit(root, what.bounds, others=0 if counted else launch.tasks_of(os.getuid()))
            namespace = os.pidfd_open(root)  # it waits to be let go, so that the number is still its own
            os.write(block[1], b"x")
        except BaseException:
            process.kill()
            process.communicate()
            raise
    finally:
        for descriptor in (info[0], block[1], report[0]):
            os.close(descriptor)
    return Started(process, root, what.write, namespace=namespace)


def _limit(process: int, bounds: Bounds, *, others: int) -> None:
    """Set a process's limits; `others` are processes that count, too."""
    for name, value in bounds.rlimits().items():
        kind = getattr(resource, name)
        value += others if name == "RLIMIT_NPROC" else 0
        hard = resource.prlimit(process, kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.prlimit(process, kind, (value, value))


def _arguments(what: Launch, uid: int | None) -> list[str]:
    own = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    if uid is None:
        own.append("--unshare-user")
    else:  # to become another user, which takes the capabilities away
        own += ["--cap-drop", "ALL"]
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_DAC_READ_SEARCH"):  # the last to chdir
            own += ["--cap-add", capability]
    arguments = [*own, "--hostname", "sandbox", "--die-with-parent", "--new-session", "--proc", "/proc"]
    arguments += ["--dev", "/dev", "--perms", "1777", "--size", str(what.bounds.disk // 4), "--tmpfs", "/dev/shm"]
    arguments += ["--remount-ro", "/dev", "--perms", "1777", "--size", str(what.bounds.disk), "--tmpfs", "/tmp"]
    for path in _SYSTEM:
        if Path(path).is_symlink():
            arguments += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            arguments += ["--ro-bind", path, path]
    for option, paths in (("--ro-bind-try", _SETTINGS), ("--ro-bind", what.read), ("--bind", what.write)):
        for path in paths:
            for above in reversed(Path(path).parents):  # made by root, they would be closed to others
                arguments += ["--perms", "0755", "--dir", str(above)]
            arguments += [option, path, path]
    return [*arguments, "--remount-ro", "/", "--chdir", what.cwd or "/tmp"]


def _pipe_of(data: bytes) -> int:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(data)
    return reader


def _child_of(process: subprocess.Popen[bytes], info: int, report: int) -> int:
    told = b""
    while b"}" not in told:
        piece = os.read(info, 4096)
        if not piece:
            said = os.read(report, 4096) or process.communicate()[1] or b"bubblewrap ended without a word"
            raise SandboxError(_line(said))
        told += piece
    return int(json.loads(told)["child-pid"])


def _line(said: bytes) -> str:
    return " ".join(said.decode(errors="replace").split())[:500]


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdigit())


# --- Landlock ---------------------------------------------------------------------------------------------------------


def landlock_version() -> int:
    """The version of Landlock's interface that the kernel has; 0 where it has none."""
    return max(0, ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))


def _landlock(what: Launch, uid: int | None, stdin: int) -> Started:
    version = landlock_version()
    if not version:
        raise SandboxError("the kernel has no Landlock, or it is not enabled at boot (lsm=landlock,...)")
    scratch = tempfile.mkdtemp(prefix="modelworks-")
    if uid is not None:
        os.chown(scratch, uid, uid)
    report, alive = os.pipe(), os.pipe()
    env = _environment(what, scratch)
    argv = list(what.argv)
    argv[0] = shutil.which(argv[0], path=env["PATH"]) or argv[0]
    spec = {
        "kind": "landlock",
        "argv": argv,
        "env": env,
        "cwd": what.cwd or scratch,
        "uid": uid,
        "limits": what.bounds.rlimits(),
        "system": [path for path in (*_SYSTEM, *_SETTINGS) if Path(path).exists()],
        "read": list(what.read),
        "write": list(what.write),
        "scratch": scratch,
        "abi": version,
        "seccomp": seccomp.program(namespaces=False, scoped_signals=version >= 6),
        "report": report[1],
        "alive": alive[0],
    }
    try:
        process = _popen(_launcher(spec), env, stdin, [report[1], alive[0]])
    except BaseException:
        for descriptor in (report[0], alive[1]):
            os.close(descriptor)
        Path(scratch).rmdir()
        raise
    finally:
        for descriptor in (report[1], alive[0]):
            os.close(descriptor)
    started = Started(process, process.pid, [*what.write, scratch], alive=alive[1])
    with os.fdopen(report[0], "rb") as file:  # ends when the command begins
        said = file.read()
    if said:
        started.close()
        raise SandboxError(_line(said))
    return started


def _launcher(spec: dict[str, Any]) -> list[str]:
    return [sys.executable, "-I", "-S", "-B", launch.__file__, marshal.dumps(spec).hex()]


def _popen(
    command: Sequence[str], env: Mapping[str, str], stdin: int, passed: Sequence[int]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd="/",
            pass_fds=tuple(passed),
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxError(f"{command[0]}: {error.strerror}") from error
