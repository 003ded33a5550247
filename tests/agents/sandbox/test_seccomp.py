"""The filter is run in an interpreter of BPF that is written here, on both machines, whatever this one is."""

from __future__ import annotations

import re
import struct
from errno import ENOSYS, EPERM
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agents.sandbox import seccomp

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000


def _decided(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """What a program returns for a call: seccomp_data is number, architecture, instruction pointer, six arguments."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    code = list(struct.iter_unpack("=HBBI", program))
    at = value = 0
    for _ in range(len(code)):
        operation, yes, no, constant = code[at]
        at += 1
        if operation == 0x20:
            value = struct.unpack_from("=I", data, constant)[0]
        elif operation == 0x06:
            return constant
        else:
            holds = {0x15: value == constant, 0x35: value >= constant, 0x45: bool(value & constant)}[operation]
            at += yes if holds else no
    raise AssertionError("the program does not return")


def _call(name: str, *arguments: int, machine: str = "x86_64", namespaces: bool = True, scoped: bool = True) -> int:
    program = seccomp.program(namespaces=namespaces, scoped_signals=scoped, machine=machine)
    number = seccomp._ALL[name][0 if machine == "x86_64" else 1]
    return _decided(program, _AUDIT[machine], number, *arguments)


@pytest.mark.parametrize("machine", _AUDIT)
@pytest.mark.parametrize("name", "ptrace mount keyctl bpf unshare setns io_uring_setup memfd_create mknodat".split())
def test_calls_are_denied_on_each_machine(name: str, machine: str) -> None:
    assert _call(name, machine=machine) == _ERRNO | EPERM


@pytest.mark.parametrize(
    ("name", "arguments", "decision"),
    [
        ("clone", (0x003D_0F00,), _ALLOW),  # as threads are made
        ("clone", (0x1000_0000 | 17,), _ERRNO | EPERM),
        ("clone", (0x0002_0000 | 17,), _ERRNO | EPERM),
        ("clone3", (), _ERRNO | ENOSYS),
        ("socket", (1, 1, 0), _ERRNO | EPERM),
        ("socketpair", (1, 1, 0), _ALLOW),
        ("socketpair", (1 << 32 | 40, 1, 0), _ERRNO | EPERM),
        ("ioctl", (0, 0x5412), _ERRNO | EPERM),
        ("ioctl", (0, 1 << 32 | 0x5412), _ERRNO | EPERM),  # the kernel looks at the low half alone (CVE-2019-10063)
        ("ioctl", (0, 0x541C), _ERRNO | EPERM),
        ("ioctl", (0, 0x5413), _ALLOW),
        ("chmod", (0, 0o755), _ALLOW),
        ("chmod", (0, 0o4755), _ERRNO | EPERM),
        ("fchmodat", (0, 0, 0o2755), _ERRNO | EPERM),
        ("openat", (0, 0, 0o100, 0o644), _ALLOW),
        ("openat", (0, 0, 0o100, 0o4755), _ERRNO | EPERM),
        ("openat", (0, 0, 0, 0o4755), _ALLOW),  # without O_CREAT there is no mode: it may be anything
        ("personality", (0xFFFF_FFFF,), _ALLOW),
        ("personality", (0x0040_0000,), _ERRNO | EPERM),
        ("setsid", (), _ALLOW),
        ("kill", (1, 9), _ALLOW),
    ],
)
def test_arguments_decide(name: str, arguments: tuple[int, ...], decision: int) -> None:
    assert _call(name, *arguments) == decision


def test_without_namespaces_what_is_shared_is_denied_too() -> None:
    def decided(name: str, *arguments: int, scoped: bool = True) -> int:
        return _call(name, *arguments, namespaces=False, scoped=scoped)

    assert decided("chmod", 0, 0o777) == _ERRNO | 0  # "succeeds", and does nothing
    assert decided("setsid") == decided("setpgid", 0, 0) == _ERRNO | EPERM
    assert decided("prlimit64", 0, 7) == _ALLOW
    assert decided("prlimit64", 1234, 7) == _ERRNO | EPERM
    assert decided("setpriority", 0, 1234) == decided("setpriority", 2, 0) == _ERRNO | EPERM
    assert decided("kill", 1234, 9) == _ALLOW  # Landlock confines it
    assert decided("kill", 1234, 9, scoped=False) == _ERRNO | EPERM
    assert decided("kill", 0, 9, scoped=False) == _ALLOW
    assert decided("fcntl", 3, 8, 1234) == _ALLOW
    assert decided("fcntl", 3, 8, 1234, scoped=False) == decided("fcntl", 3, 15, scoped=False) == _ERRNO | EPERM
    assert decided("fcntl", 3, 1, scoped=False) == _ALLOW


@pytest.mark.parametrize("number", [463, 500, 0x4000_0000, 0x4000_0000 | 39, 0xFFFF_FFFF])
def test_calls_that_nobody_has_judged_do_not_exist(number: int) -> None:
    assert _decided(seccomp.program(namespaces=True, machine="x86_64"), _AUDIT["x86_64"], number) == _ERRNO | ENOSYS


def test_calls_of_another_architecture_kill() -> None:
    i386 = 0x40000003
    assert _decided(seccomp.program(namespaces=True, machine="x86_64"), i386, 4) == _KILL


@given(number=st.integers(0, 462), arguments=st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6))
def test_what_is_not_in_the_table_is_allowed_whatever_its_arguments(number: int, arguments: list[int]) -> None:
    for at, machine in enumerate(_AUDIT):
        known = {numbers[at] for numbers in seccomp._ALL.values()}
        decision = _decided(seccomp.program(namespaces=False, machine=machine), _AUDIT[machine], number, *arguments)
        assert decision & 0xFFFF0000 in (_ALLOW, _ERRNO)
        assert number in known or decision == _ALLOW


def test_a_machine_without_a_table_is_refused() -> None:
    assert not seccomp.is_supported("riscv64")
    with pytest.raises(ValueError, match="riscv64"):
        seccomp.program(namespaces=True, machine="riscv64")


@pytest.mark.parametrize(
    ("header", "at"),
    [("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 0), ("/usr/include/asm-generic/unistd.h", 1)],
)
def test_numbers_are_those_of_the_kernels_headers(header: str, at: int) -> None:
    if not Path(header).exists():
        pytest.skip(f"there is no {header}")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text()))
    newest = max(map(int, found.values()))
    for name, numbers in seccomp._ALL.items():
        number = numbers[at]
        if number is None or number <= newest:
            assert found.get(name) == (None if number is None else str(number)), name
