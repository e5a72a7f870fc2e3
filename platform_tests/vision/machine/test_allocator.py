"""Freed memory is taken again without the kernel, and given back at the end."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# In a process of its own, where no test before it has left free memory behind.
SCRIPT = """
import resource
import torch
from platform_assets.vision.machine.allocator import freed_memory_kept

def steps():
    \"\"\"Pages touched by twenty steps of four activations each, that are freed together.\"\"\"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        activations = [torch.ones(size << 20, dtype=torch.uint8) for size in (40, 56, 48, 64)]
        del activations
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

plain = steps()
with freed_memory_kept():
    kept = steps()
    held = resident_mb()
print(plain, kept, held - resident_mb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives blocks back at once")
def test_freed_memory_kept__pages_are_touched_once_and_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    plain, kept, given_back_mb = (float(number) for number in done.stdout.split())
    assert plain > 20 * 208 * 256  # 208 MB in pages of 4 kB, each time
    assert kept < plain / 4
    assert given_back_mb > 150
