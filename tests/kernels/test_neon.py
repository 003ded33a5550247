"""The ARM kernels beside the portable ones, under emulation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "modelworks" / "kernels" / "cpp"
COMPILER = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no cross compiler for ARM (Debian: g++-aarch64-linux-gnu)")
@pytest.mark.skipif(EMULATOR is None, reason="no emulator of ARM (Debian: qemu-user-static)")
def test_they_give_what_the_portable_ones_give(tmp_path: Path) -> None:
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi", f"-I{SOURCE}"]
    sources = {
        SOURCE / "neon.cpp": ["-march=armv8.2-a+dotprod"],
        SOURCE / "portable.cpp": [],
        Path(__file__).with_name("compare_kernels.cpp"): ["-DKERNELS=kNeon"],
    }
    for source, more in sources.items():
        made = str(tmp_path / source.stem) + ".o"
        subprocess.run([str(COMPILER), *options, *more, "-c", str(source), "-o", made], check=True, timeout=300)
    program = str(tmp_path / "compare")
    objects = [str(each) for each in tmp_path.glob("*.o")]
    subprocess.run([str(COMPILER), "-static", *objects, "-o", program], check=True, timeout=300)
    found = subprocess.run([str(EMULATOR), program], capture_output=True, text=True, check=False, timeout=300)
    assert (found.stdout, found.returncode) == ("equal\n", 0), found.stderr
