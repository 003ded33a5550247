"""Attempts to get out of the sandbox or to harm the machine: under each kind of confinement, as root and as a user.

Each attempt of `support/escapes.py` runs in a fresh workspace, beside a host that has what is to be stolen or broken: a
secret file, word and variable, a victim of a file and of a process, sockets, shared memory. What an attempt says is one
judge, the host's state after it is the other. Two more attempts use the sandbox's workspace against the tools for
files, which run outside of it. The peer is the same programs as plain processes: those that do not succeed then, on
this machine, show nothing, and are named. As root, a second run in the same process is an ordinary user's.

    python benchmarks/sandbox.py [--only NAME ...] [--kinds bubblewrap landlock]

`start_ms` is the median time of `true`, from call to result; `start_cpu_ms` is what of it processors were busy, the
same on a machine that has other work.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import pickle
import pty
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from modelworks.agents.sandbox.kinds import KINDS, UIDS, Bounds, Kind
from modelworks.agents.sandbox.probe import probe
from modelworks.agents.sandbox.run import Sandbox
from modelworks.agents.sandbox.watch import Result
from modelworks.agents.tools.rooted import FileError, Rooted
from support import escapes

MIB: Final = 1 << 20
BOUNDS: Final = Bounds(
    seconds=5.0, cpu_seconds=10, memory=160 * MIB, processes=24, file_bytes=16 * MIB, disk=48 * MIB, output=16 << 10
)
WORD: Final = "swordfish-4711"
SYSTEM_PYTHON: Final = "/usr/bin/python3"
SOURCE: Final = Path(escapes.__file__).read_text(encoding="utf-8")
STARTS: Final = 40


@dataclass
class Row:
    """One attempt somewhere: what it got, "" for nothing, and what was seen at the host."""

    attempt: str
    got: str
    said: str
    seconds: float


@dataclass
class Run:
    """All attempts under one confinement, or none, as one user."""

    who: str
    kind: str
    rows: list[Row] = field(default_factory=list)
    start_ms: float | None = None
    start_cpu_ms: float | None = None

    @property
    def escaped(self) -> list[str]:
        return [f"{row.attempt}: {row.got}" for row in self.rows if row.got]


# --- the host ---------------------------------------------------------------------------------------------------------


@dataclass
class Host:
    """What there is to be stolen and broken."""

    folder: Path
    workspace: Path
    victim: Path
    process: subprocess.Popen[str]
    told: dict[str, Any]
    heard: list[str]
    """What came to sockets."""

    def harm(self) -> str:
        """What is not as it was."""
        found = []
        if not self.victim.exists() or self.victim.read_text() != "whole":
            found.append("the victim's content")
        elif self.victim.stat().st_mode & 0o777 != 0o640 or self.victim.stat().st_mtime < 1000:
            found.append("the victim's mode or time")
        if self.process.poll() is not None:
            found.append("the process is dead")
        elif resource.prlimit(self.process.pid, resource.RLIMIT_CORE) != resource.getrlimit(resource.RLIMIT_CORE):
            found.append("the process's limits")
        if self.heard:
            found.append("something came to a socket")
        for path in self.workspace.rglob("*"):
            if path.is_symlink() or not path.is_file():
                continue
            if path.stat().st_mode & 0o6000:
                found.append("a setuid file")
            if path.stat().st_nlink > 1:
                found.append("a hard link")
        return "; ".join(found)


@contextmanager
def hosting() -> Iterator[Host]:
    folder = Path(tempfile.mkdtemp(prefix="sandbox-bench-"))
    folder.chmod(0o755)
    private, workspace = folder / "private", folder / "workspace"
    private.mkdir(mode=0o700)
    workspace.mkdir()
    (private / "secret").write_text(WORD)
    victim = folder / "victim"
    victim.write_text("whole")
    victim.chmod(0o640)
    code = f"import ctypes, time; b = ctypes.create_string_buffer({WORD.encode()!r}); print(ctypes.addressof(b), flush=True); time.sleep(600)"  # noqa: E501
    process = subprocess.Popen(
        [program(), "-I", "-S", "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=private,
        env={"WORD": WORD},
        start_new_session=True,
    )
    assert process.stdout is not None
    address = int(process.stdout.readline())
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    shared = libc.shmget(0, 4096, 0o1600)
    at = libc.shmat(shared, None, 0)
    ctypes.memmove(at, WORD.encode(), len(WORD))
    shared_file = Path(f"/dev/shm/{folder.name}")
    shared_file.write_text(WORD)
    heard: list[str] = []
    with listening(folder, heard) as sockets:
        told = sockets | {
            "secret": str(private / "secret"),
            "victim": str(victim),
            "workspace": str(workspace),
            "pid": process.pid,
            "address": address,
            "word": WORD,
            "shared": shared,
            "shared_file": str(shared_file),
            "memory": BOUNDS.memory,
            "processes": BOUNDS.processes,
            "disk": BOUNDS.disk,
            "seconds": BOUNDS.seconds,
        }
        try:
            yield Host(folder, workspace, victim, process, told, heard)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            libc.shmdt(ctypes.c_void_p(at))
            libc.shmctl(shared, 0, None)
            shared_file.unlink()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def listening(folder: Path, heard: list[str]) -> Iterator[dict[str, Any]]:
    """Sockets that tell the word to who comes."""
    tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    abstract, named = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    tcp.bind(("127.0.0.1", 0))
    udp.bind(("127.0.0.1", 0))
    abstract.bind(f"\0{folder.name}")
    named.bind(str(folder / "socket"))
    Path(folder / "socket").chmod(0o666)

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection = listener.accept()[0]
                heard.append("connection")
                with connection:
                    connection.sendall(WORD.encode())

    def reply() -> None:
        with suppress(OSError):
            while True:
                sender = udp.recvfrom(100)[1]
                if sender is None:  # it was shut down
                    return
                heard.append("datagram")
                udp.sendto(WORD.encode(), sender)

    for listener in (tcp, abstract, named):
        listener.listen()
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
    threading.Thread(target=reply, daemon=True).start()
    try:
        yield {
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "abstract": folder.name,
            "socket_file": str(folder / "socket"),
        }
    finally:
        for each in (tcp, udp, abstract, named):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def program() -> str:
    """An interpreter that anybody can run, also confined."""
    return SYSTEM_PYTHON if Path(SYSTEM_PYTHON).exists() else sys.executable


# --- one attempt ------------------------------------------------------------------------------------------------------

Way = Callable[[Host, Sequence[str]], Result]


def confined(kind: Kind) -> Way:
    def run(host: Host, argv: Sequence[str]) -> Result:
        if os.geteuid() == 0 and kind == "landlock":  # which cannot map owners
            os.chown(host.workspace, UIDS[0], UIDS[0])
        libraries = [] if argv[0].startswith(("/usr/", "/bin/")) else [sys.base_prefix]
        return Sandbox(kind=kind, read=libraries, write=[host.workspace], bounds=BOUNDS).run(argv)

    return run


def plain(host: Host, argv: Sequence[str]) -> Result:
    """As a child gets everything of its parent, a terminal included."""
    master, slave = pty.openpty()
    before = time.monotonic()
    process = subprocess.Popen(
        [shutil.which("setsid") or "setsid", "--ctty", *argv],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=host.workspace,
        close_fds=False,
    )
    out, err = process.communicate()
    os.close(master)
    os.close(slave)
    seconds = time.monotonic() - before
    return Result(process.returncode, out, err, len(out) > BOUNDS.output, seconds)


def tried(name: str, way: Way) -> Row:
    with hosting() as host:
        secret = os.open(host.told["secret"], os.O_RDONLY)
        os.set_inheritable(secret, True)
        os.environ["WORD"] = WORD
        try:
            if name in OF_TOOLS:
                got, result = OF_TOOLS[name](host, way)
            else:
                argv = [program(), "-I", "-S", "-c", SOURCE, name, json.dumps(host.told)]
                result = way(host, argv)
                got = judged(name, result, host)
        finally:
            os.close(secret)
            del os.environ["WORD"]
        said = " ".join((result.killed or result.stderr.strip()[-160:] or result.stdout.strip()[-160:]).split())
        return Row(name, got, said, round(result.seconds, 2))


def judged(name: str, result: Result, host: Host) -> str:
    found = []
    if "ESCAPED" in result.stdout:
        found.append(result.stdout[result.stdout.index("ESCAPED") :].strip()[:100])
    if WORD in result.stdout + result.stderr:
        found.append("the secret is known")
    if len(result.stdout) > 2 * BOUNDS.output:
        found.append(f"{len(result.stdout) // MIB} MiB of output")
    if result.seconds > BOUNDS.seconds + 1.0:
        found.append(f"ran for {result.seconds:.1f} s")
    beat = host.workspace / "alive"
    if beat.exists():
        last = beat.stat().st_mtime_ns
        time.sleep(0.4)
        if beat.stat().st_mtime_ns != last:
            found.append("a process stayed behind")
    if left := remaining(host.told["secret"]):
        found.append(f"{len(left)} processes stayed behind")
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    found.append(host.harm())
    return "; ".join(filter(None, found))


def remaining(mark: str) -> list[int]:
    """Processes of the attempt, by what is in their arguments."""
    time.sleep(0.05)
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with suppress(OSError):
                if mark.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found


# --- the workspace against the tools that run outside -----------------------------------------------------------------

_FLIP: Final = """
import os, sys, time
os.chdir(sys.argv[1])
os.symlink(sys.argv[2], "b")
until = time.monotonic() + 2
while time.monotonic() < until:
    os.rename("a", "c"); os.rename("b", "a"); os.rename("a", "b"); os.rename("c", "a")
"""


def race_the_reader(host: Host, way: Way) -> tuple[str, Result]:
    """A folder that is one when it is looked at, and a link to the secret's folder when it is read."""
    (host.workspace / "a").mkdir(mode=0o777)
    (host.workspace / "a" / "secret").write_text("harmless")
    results: list[Result] = []
    argv = [program(), "-I", "-S", "-c", _FLIP, str(host.workspace), str(Path(host.told["secret"]).parent)]
    thread = threading.Thread(target=lambda: results.append(way(host, argv)))
    thread.start()
    read: set[str] = set()
    while thread.is_alive():
        with suppress(OSError, FileError):
            read.add(read_as(way, host.workspace, "a/secret"))
    thread.join()
    assert "harmless" in read
    return ("the secret is known" if WORD in read else ""), results[0]


def read_as(way: Way, workspace: Path, path: str) -> str:
    if way is not plain:
        return Rooted(workspace).read(path, 1000).decode()
    if not (workspace / path).resolve().is_relative_to(workspace.resolve()):  # as it is usually done
        raise FileError("leads out")
    return (workspace / path).read_text()


def redirect_the_writer(host: Host, way: Way) -> tuple[str, Result]:
    """A link under the name that the host is going to write to."""
    result = way(host, ["/bin/ln", "-s", str(host.victim), str(host.workspace / "report")])
    with suppress(OSError, FileError):
        if way is plain:
            (host.workspace / "report").write_text("harm")
        else:
            Rooted(host.workspace).write("report", b"harm")
    return host.harm(), result


OF_TOOLS: Final[dict[str, Callable[[Host, Way], tuple[str, Result]]]] = {
    "race_the_reader": race_the_reader,
    "redirect_the_writer": redirect_the_writer,
}


# --- all of it --------------------------------------------------------------------------------------------------------


def all_of(who: str, kinds: Sequence[Kind], names: Sequence[str]) -> list[Run]:
    """Every attempt plain and under each kind, as whoever this process is."""
    runs = [Run(who, "plain", [shown(who, "plain", tried(name, plain)) for name in names])]
    for kind in kinds:
        if why := probe().reasons[kind]:
            print(f"{who}: {kind} does not work here: {why}", file=sys.stderr)
            continue
        run = Run(who, kind, [shown(who, kind, tried(name, confined(kind))) for name in names])
        sandbox, times, cpu = Sandbox(kind=kind), [], used_cpu()
        for _ in range(STARTS):
            begun = time.perf_counter()
            sandbox.run(["/bin/true"])
            times.append(time.perf_counter() - begun)
        run.start_ms = round(1000 * statistics.median(times), 1)
        run.start_cpu_ms = round(1000 * (used_cpu() - cpu) / STARTS, 1)
        runs.append(run)
    return runs


def used_cpu() -> float:
    """Seconds of this process and of those that it waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def shown(who: str, kind: str, row: Row) -> Row:
    outcome = row.got[:70] or "blocked"
    print(f"{who:5} {kind:11} {row.attempt:30} {row.seconds:5.2f} s  {outcome}  | {row.said[:90]}", flush=True)
    return row


def as_user(work: Callable[[], list[Run]]) -> list[Run]:
    """What some work gives in a child that is an ordinary user, and whose launchers are anybody's interpreter."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            os.setgroups([])
            os.setresgid(65_432, 65_432, 65_432)
            os.setresuid(65_432, 65_432, 65_432)
            os.chdir("/")
            sys.executable = program()
            probe.cache_clear()
            with os.fdopen(writer, "wb") as file:
                pickle.dump(work(), file)
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit("the run as a user failed")
    runs: list[Run] = pickle.loads(data)
    return runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="names of attempts")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    names = options.only or [*escapes.ATTEMPTS, *OF_TOOLS]

    def as_whoever() -> list[Run]:
        return all_of("root" if os.geteuid() == 0 else "user", options.kinds, names)

    runs = as_whoever()
    if os.geteuid() == 0:
        runs += as_user(as_whoever)
    free = [run for run in runs if run.kind == "plain"]
    held = [run for run in runs if run.kind != "plain"]
    succeeded = {row.attempt for run in free for row in run.rows if row.got}
    blocked = sum(not row.got for run in held for row in run.rows)
    total = sum(len(run.rows) for run in held)
    result = {
        "name": "sandbox",
        "ours": blocked,
        "peer": sum(not row.got for run in free for row in run.rows),
        "ratio": round(blocked / total, 3) if total else 0,
        "unit": f"attempts blocked, of {total} ({len(names)} for each confinement and user); "
        f"peer: as plain processes, of {len(names) * len(free)}",
        "bar": "all blocked, the host unharmed, and at least 40 that succeed as a plain process",
        "holds": total > 0 and blocked == total and (bool(options.only) or len(succeeded) >= 40),
        "notes": {
            "attempts": len(names),
            "confinements": [f"{run.kind} as {run.who}" for run in held],
            "escaped": {f"{run.kind} as {run.who}": run.escaped for run in held if run.escaped},
            "succeed_plain": {run.who: sum(bool(row.got) for row in run.rows) for run in free},
            "never_succeed_here": sorted(set(names) - succeeded),
            "start_ms": {f"{run.kind} as {run.who}": run.start_ms for run in held},
            "start_cpu_ms": {f"{run.kind} as {run.who}": run.start_cpu_ms for run in held},
            "sandbox": probe().lines(),
        },
    }
    print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
