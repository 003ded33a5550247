"""The system calls that confined programs may not make, as a seccomp program: BPF, assembled here.

Calls that are denied fail with EPERM, as they do for whoever lacks the right, so that programs go on without. What is
newer than this table does not exist (ENOSYS): a call that nobody here has judged is not let through. So are those of
x32, whose numbers are higher still; calls of another architecture kill. Source: seccomp(2), linux/filter.h.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Collection
from dataclasses import dataclass
from errno import ENOSYS, EPERM
from typing import Final, Literal, TypeAlias

# --- system calls, with their numbers on x86_64 and aarch64 -----------------------------------------------------------

_Numbers: TypeAlias = dict[str, tuple[int | None, int | None]]
_DENIED: Final[_Numbers] = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # mounts and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "mknod": (133, None),
    "mknodat": (259, 33),
    # parts of the kernel that have given attackers the most
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "vmsplice": (278, 75),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "nfsservctl": (180, 42),
    # memory that no limit of a process counts
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    # other programs, also those that listen at a file of a folder that may only be read; pairs are allowed
    "socket": (41, 198),
    # the machine
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "iopl": (172, None),
    "ioperm": (173, None),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
}
_DENIED_BY_ARGUMENT: Final[_Numbers] = {
    "personality": (135, 92),
    "clone": (56, 220),
    "clone3": (435, 435),
    "socketpair": (53, 199),
    "ioctl": (16, 29),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "creat": (85, None),
}
# Without namespaces the sandbox shares these with the user's other programs.
_METADATA: Final[_Numbers] = {
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
_SHARED: Final[_Numbers] = {
    "truncate": (76, 45),
    "inotify_add_watch": (254, 27),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "setsid": (112, 157),
    "setpgid": (109, 154),
}
_SIGNALS: Final[_Numbers] = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "fcntl": (72, 25),
}
_OF_PROCESSES: Final[_Numbers] = {
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
_ALL: Final = _DENIED | _DENIED_BY_ARGUMENT | _METADATA | _SHARED | _SIGNALS | _OF_PROCESSES
_NEWER: Final = 463  # the first number that is not judged here; the same on every architecture
_ARCHITECTURES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# --- what is denied ---------------------------------------------------------------------------------------------------

_NAMESPACES: Final = 0x7E02_0000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_SETUID_SETGID: Final = 0o6000
_O_CREAT: Final = 0o100
_O_TMPFILE: Final = 0o20000000
_AF_UNIX: Final = 1
_F_SETOWN, _F_SETOWN_EX, _FIOSETOWN, _SIOCSPGRP = 8, 15, 0x8901, 0x8902
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # type on the terminal, as if the user had

_Test: TypeAlias = tuple[int, Literal["has", "is", "is not"], int]
"""Of an argument, by its place: of its low 32 bits, which are all that the kernel looks at in those tested here."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """Calls that fail with an errno where all tests hold; with errno 0 they succeed, and do nothing."""

    calls: Collection[str]
    tests: tuple[_Test, ...] = ()
    errno: int = EPERM


_EVERYWHERE: Final = (
    _Rule(_DENIED.keys()),
    _Rule(["clone"], ((0, "has", _NAMESPACES),)),
    # Their flags are behind pointers, which no filter follows: C libraries go on with clone and openat.
    _Rule(["clone3", "openat2"], errno=ENOSYS),
    _Rule(["socketpair"], ((0, "is not", _AF_UNIX),)),
    _Rule(["ioctl"], ((1, "is", _TIOCSTI),)),
    _Rule(["ioctl"], ((1, "is", _TIOCLINUX),)),
    _Rule(["personality"], ((0, "is not", 0), (0, "is not", 0xFFFF_FFFF))),  # the usual one, and asking for it
    # A file that runs as its owner, whoever starts it, would outlive the sandbox.
    _Rule(["chmod", "fchmod", "creat"], ((1, "has", _SETUID_SETGID),)),
    _Rule(["fchmodat", "fchmodat2"], ((2, "has", _SETUID_SETGID),)),
    _Rule(["open"], ((1, "has", _O_CREAT), (2, "has", _SETUID_SETGID))),
    _Rule(["open"], ((1, "has", _O_TMPFILE), (2, "has", _SETUID_SETGID))),
    _Rule(["openat"], ((2, "has", _O_CREAT), (3, "has", _SETUID_SETGID))),
    _Rule(["openat"], ((2, "has", _O_TMPFILE), (3, "has", _SETUID_SETGID))),
)
_WITHOUT_NAMESPACES: Final = (
    # Landlock does not ask who may change modes, owners, attributes and times, even of what may only be read.
    _Rule([*_METADATA, "chmod", "fchmod", "fchmodat", "fchmodat2"], errno=0),
    _Rule(_SHARED.keys()),
    _Rule(["ioprio_set"]),
    _Rule(["prlimit64", "setpriority", "sched_setaffinity", "sched_setscheduler"], ((0, "is not", 0),)),
    _Rule(["sched_setparam", "sched_setattr"], ((0, "is not", 0),)),
    _Rule(["setpriority"], ((1, "is not", 0),)),
)
_WITHOUT_SCOPES: Final = (
    _Rule(["kill"], ((0, "is not", 0),)),  # its own process group is all that it may signal
    _Rule(_SIGNALS.keys() - {"kill", "fcntl"}),
    # Who gets the signals of a descriptor: of any number, and not only when there is something to read.
    _Rule(["fcntl"], ((1, "is", _F_SETOWN),)),
    _Rule(["fcntl"], ((1, "is", _F_SETOWN_EX),)),
    _Rule(["ioctl"], ((1, "is", _FIOSETOWN),)),
    _Rule(["ioctl"], ((1, "is", _SIOCSPGRP),)),
)


def is_supported(machine: str | None = None) -> bool:
    """Whether there is a table for a machine, such as "x86_64"; this one unless said otherwise."""
    return (machine or platform.machine()) in _ARCHITECTURES


def program(*, namespaces: bool, scoped_signals: bool = True, machine: str | None = None) -> bytes:
    """An array of `struct sock_filter`, as bubblewrap's `--seccomp` and seccomp(2) take it.

    `namespaces` says that processes, network, IPC and mounts are the sandbox's own; `scoped_signals`, that signals do
    not leave it anyway. Raises `ValueError` for a machine without a table.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise ValueError(f"there is no table of system calls for {machine}")
    at, audit = _ARCHITECTURES[machine]
    rules = (() if namespaces else _WITHOUT_NAMESPACES) + (() if scoped_signals else _WITHOUT_SCOPES) + _EVERYWHERE
    made = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_IS, 1, 0, audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NR),
        (_JUMP_FROM, 0, 1, _NEWER),
        (_RETURN, 0, 0, _ERRNO | ENOSYS),
    ]
    for rule in rules:
        for name in sorted(rule.calls):
            number = _ALL[name][at]
            if number is not None:
                made += _block(number, rule)
    made.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *each) for each in made)


# --- BPF --------------------------------------------------------------------------------------------------------------

_LOAD, _JUMP_IS, _JUMP_FROM, _JUMP_HAS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # LD|W|ABS, JMP|JEQ|JGE|JSET|K, RET|K
_KILL_PROCESS, _ERRNO, _ALLOW = 0x8000_0000, 0x0005_0000, 0x7FFF_0000
_NR, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument's low half is first on both machines

_Instruction: TypeAlias = tuple[int, int, int, int]
"""Code, how many instructions to jump over where it is true and where it is not, and a constant."""


def _block(number: int, rule: _Rule) -> list[_Instruction]:
    """What returns where the call is this one and all tests hold, and else ends with the number loaded as before."""
    denied: _Instruction = (_RETURN, 0, 0, _ERRNO | rule.errno)
    if not rule.tests:
        return [(_JUMP_IS, 0, 1, number), denied]
    inner: list[_Instruction] = []
    for left, (place, relation, value) in zip(range(len(rule.tests) - 1, -1, -1), rule.tests):
        beyond = 2 * left + 1  # over the tests that are left, and the return
        code = _JUMP_HAS if relation == "has" else _JUMP_IS
        jumps = (beyond, 0) if relation == "is not" else (0, beyond)
        inner += [(_LOAD, 0, 0, _ARGUMENTS + 8 * place), (code, *jumps, value)]
    inner += [denied, (_LOAD, 0, 0, _NR)]
    return [(_JUMP_IS, 0, len(inner), number), *inner]
