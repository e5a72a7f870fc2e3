"""Memory that a training frees in one step and takes again in the next, kept from going back and forth to the kernel."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# mallopt's parameters, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = 2**31 - 1
# By default the thresholds grow with what is freed, until one is set; these are what they grow to.
_AFTERWARDS = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """glibc gives large blocks back at once, and the kernel zeroes every page again when it is next touched.

    Activations are such blocks. 2026-11, two cores, lite0 at 160 px: 37 images a second became 47, a fifth of the CPU was
    the kernel's. What was kept is given back at the end. Elsewhere than on glibc nothing is done.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        for parameter, value in _AFTERWARDS.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


def give_back_freed_memory() -> None:
    """To the kernel, at once: before work whose blocks have other sizes, which would lie beside the kept ones."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
