"""What confines itself and then becomes the command: run by `run.Sandbox` as a program of its own, never imported.

It needs nothing but the standard library, and imports little of that, since its start is a part of every command's. Its
one argument is what `kinds` gives it, marshalled. What goes wrong before the command starts goes into the file
descriptor `report`, one line; that the command cannot be executed goes to its standard error.

Sources: landlock(7), mount_setattr(2), prctl(2), seccomp(2).
"""

# Importing pathlib would take as long as all the rest.
# ruff: noqa: PTH106, PTH110, PTH112, PTH116, PTH123, PTH208
from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

# Numbers of system calls that are the same on every architecture.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446

_CLONE_NEWNS, _CLONE_NEWUSER = 0x0002_0000, 0x1000_0000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE, _MOVE_EMPTY_PATH, _ATTR_IDMAP = 1, 4, 0x0010_0000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER = 38, 22, 36
_SECCOMP_MODE_FILTER = 2
_SIGKILL = 9

# Rights of Landlock, and the version of its interface that brought each kind.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_TRUNCATE = 1 << 14
_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: _TRUNCATE, 5: 1 << 15}
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_TCP, _SCOPES = 3, 3  # bind and connect; abstract sockets and signals
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


class Failed(Exception):
    """The command cannot be confined as asked; the message is for the user."""


def main() -> None:
    spec = marshal.loads(bytes.fromhex(sys.argv[1]))
    os.set_inheritable(spec["report"], False)
    try:
        {"bubblewrap": bubblewrap, "landlock": landlock}[spec["kind"]](spec)
    except (Failed, OSError) as error:
        os.write(spec["report"], " ".join(str(error).split()).encode())
        os._exit(1)


def checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


# --- bubblewrap, started by root: the command's user is another one, which owns what is root's in the named folders ---


def bubblewrap(spec: Mapping[str, Any]) -> None:
    checked(_LIBC.unshare(_CLONE_NEWNS), "cannot have mounts of its own")
    checked(_LIBC.mount(b"none", b"/", None, _MS_REC_PRIVATE, None), "cannot make its mounts private")
    namespace: int | None = None
    owned: list[str] = []
    for folder in sorted(spec["folders"]):
        if os.stat(folder).st_uid != spec["uid"] and not folder.startswith(tuple(owned)):
            namespace = namespace or owners(spec["uid"])
            own(folder, namespace)
            owned.append(folder + "/")
    os.execve(spec["argv"][0], spec["argv"], spec["env"])


def owners(uid: int) -> int:
    """A user namespace in which root's files are those of `uid`, and everybody else's their own."""
    release, ready = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(release[1])
        os.write(ready[1], b"1" if _LIBC.unshare(_CLONE_NEWUSER) == 0 else b"0")
        os.read(release[0], 1)
        os._exit(0)
    try:
        if os.read(ready[0], 1) != b"1":
            raise Failed("no user namespace can be made")
        with open("/proc/self/uid_map") as file:
            total = sum(int(line.split()[2]) for line in file)
        lines = f"0 {uid} 1\n1 1 {uid - 1}\n{uid + 1} {uid + 1} {total - uid - 1}\n"
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write(lines)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
    finally:
        for end in (*release, *ready):
            os.close(end)
        os.waitpid(child, 0)


def own(folder: str, namespace: int) -> None:
    """Mount a folder over itself with its owners mapped."""
    path = os.fsencode(folder)
    tree = checked(_LIBC.syscall(_OPEN_TREE, _AT_FDCWD, path, _OPEN_TREE_CLONE), f"{folder}: cannot be mounted")
    attributes = struct.pack("=QQQQ", _ATTR_IDMAP, 0, 0, namespace)
    if _LIBC.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, len(attributes)) < 0:
        raise Failed(
            f"{folder}: its file system cannot map owners, and root's commands run as another user: "
            "chown it to 50000, or run as an ordinary user"
        )
    moved = _LIBC.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, path, _MOVE_EMPTY_PATH)
    checked(moved, f"{folder}: cannot be mounted over itself")
    os.close(tree)


# --- Landlock: a supervisor, which ends with whoever started it, and a child that is confined -------------------------


def landlock(spec: Mapping[str, Any]) -> None:
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what the command leaves behind stays in sight
    child = os.fork()
    if child == 0:
        try:
            confine(spec)
        except (Failed, OSError) as error:
            os.write(spec["report"], " ".join(str(error).split()).encode())
        finally:
            os._exit(127)
    for descriptor in (0, 1, 2, spec["report"]):  # they end when the command's own do
        os.close(descriptor)
    ended = os.pidfd_open(child)
    select.select([ended, spec["alive"]], [], [])
    # The command cannot leave its process group, so that this reaches all of it; its number is kept by the zombie.
    os.killpg(child, _SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass
    try:
        os.rmdir(spec["scratch"])
    except OSError:  # there is something in it
        import shutil

        shutil.rmtree(spec["scratch"], ignore_errors=True)
    os._exit(128 - status if status < 0 else status)


def confine(spec: Mapping[str, Any]) -> NoReturn:
    os.set_inheritable(spec["alive"], False)
    os.setsid()
    others = 0
    if spec["uid"] is None:
        others = tasks_of(os.getuid())
    else:
        os.setgroups([])
        os.setresgid(spec["uid"], spec["uid"], spec["uid"])
        os.setresuid(spec["uid"], spec["uid"], spec["uid"])
    for name, value in spec["limits"].items():
        limit(getattr(resource, name), value + others if name == "RLIMIT_NPROC" else value)
    for mode, folders in ((os.R_OK | os.X_OK, spec["read"]), (os.R_OK | os.W_OK | os.X_OK, spec["write"])):
        for folder in folders:
            needed = mode if os.path.isdir(folder) else mode & ~os.X_OK
            if not os.access(folder, needed):
                told = "written" if mode & os.W_OK else "read"
                if spec["uid"] is None:
                    raise Failed(f"{folder}: cannot be {told} by this user; change its permissions")
                raise Failed(
                    f"{folder}: cannot be {told} by other users than root, and root's commands run as another: "
                    "chown it to 50000 and make what is above it accessible, or run as an ordinary user"
                )
    checked(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    restrict(spec)
    os.chdir(spec["cwd"])
    program = spec["seccomp"]
    filters = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filters", ctypes.c_void_p)]

    loaded = Program(len(program) // 8, ctypes.cast(filters, ctypes.c_void_p))
    checked(_LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0), "seccomp")
    try:
        os.execve(spec["argv"][0], spec["argv"], spec["env"])
    except OSError as error:
        os.write(2, f"{spec['argv'][0]}: {error.strerror}\n".encode())
        os._exit(127)


def limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def tasks_of(uid: int) -> int:
    """Threads that a user has: without a namespace, the limit of processes counts them all."""
    found = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    found += len(os.listdir(f"/proc/{name}/task"))
            except OSError:  # it ended
                continue
    return found


def restrict(spec: Mapping[str, Any]) -> None:
    abi = spec["abi"]
    handled = sum(rights for since, rights in _RIGHTS.items() if since <= abi)
    fields = [handled, *([_TCP] if abi >= 4 else []), *([_SCOPES] if abi >= 6 else [])]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = checked(_LIBC.syscall(_CREATE_RULESET, attributes, len(attributes), 0), "Landlock")
    read = _EXECUTE | _READ_FILE | _READ_DIR
    write = handled & ~(_MAKE_CHAR | _MAKE_BLOCK)
    granted = dict.fromkeys((*spec["system"], *spec["read"]), read)
    granted |= {path: _READ_FILE | _WRITE_FILE for path in _DEVICES if os.path.exists(path)}
    granted |= dict.fromkeys((*spec["write"], spec["scratch"]), write)
    for path, rights in granted.items():
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not os.path.isdir(path):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights & handled, descriptor)
        checked(_LIBC.syscall(_ADD_RULE, ruleset, 1, rule, 0), f"Landlock: {path}")
        os.close(descriptor)
    checked(_LIBC.syscall(_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


if __name__ == "__main__":
    main()
