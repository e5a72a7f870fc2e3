"""Freed memory is taken again without the kernel, and given back at the end."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# In a process of its own, where no test before it has left free memory behind.
SCRIPT = """
import resource, sys
import torch
from platform_assets.vision.allocator import freed_memory_kept

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def used():
    before = faults()
    for _ in range(20):
        torch.ones(48 << 20, dtype=torch.uint8)
    return faults() - before

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

plain = used()
with freed_memory_kept():
    kept = used()
    held = resident_mb()
print(plain, kept, used(), held - resident_mb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives blocks back at once")
def test_freed_memory_kept__pages_are_touched_once_and_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    plain, kept, after, given_back_mb = (float(number) for number in done.stdout.split())
    assert plain > 20 * 10_000  # 48 MB in pages of 4 kB, twenty times
    assert kept < plain / 5  # the first touches, and what the first blocks left between them
    assert after > plain / 2
    assert given_back_mb > 40
