"""Freed memory is kept while it is asked to be, and given back afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own: what the C library holds is the process's.
PAGES = """
import resource, torch
from modelworks.kernels.memory import kept_memory

def faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        held = [torch.ones(1_000_000 * size) for size in (4, 16, 8, 16, 2)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

usual = faults(8)
with kept_memory():
    faults(4)
    kept = faults(8)
    held = resident()
print(usual, kept, held - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it speaks to glibc")
def test_pages_are_touched_for_the_first_time_once():
    said = subprocess.run([sys.executable, "-c", PAGES], check=True, capture_output=True, text=True).stdout
    usual, kept, given_back = map(int, said.split())
    assert usual > 5 * kept
    assert given_back > 50_000_000
