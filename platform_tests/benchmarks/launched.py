"""A command in a process of its own: what it took."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Between pytest and the command: a process starts with the peak of the one that it is forked from.
_LAUNCHER = """
import resource, subprocess, sys, time
started = time.monotonic()
subprocess.run(sys.argv[1:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


class Launched(NamedTuple):
    """Seconds of wall and of CPU, the peak in MB, and what was printed."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    said: str


def launched(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Launched:
    """Raises CalledProcessError where the command fails."""
    done = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, *command],
        env={**os.environ, **(environment or {})},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    *said, measured = done.stdout.splitlines()
    wall_s, cpu_s, peak = map(float, measured.split())
    scale = 1024 if sys.platform == "linux" else 1024 * 1024
    return Launched(wall_s, cpu_s, peak / scale, "\n".join(said))
