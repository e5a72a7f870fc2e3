"""Calls in other processes: their results and errors come back, and no process stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from operator import floordiv
from pathlib import Path

import pytest

from platform_assets.vision.processes import ProcessEnded, Processes


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def test_call__one_process_a_thread_until_the_end() -> None:
    with Processes() as processes:
        pids = {processes.call(os.getpid) for _ in range(3)}
        assert len(pids) == 1
        assert pids != {os.getpid()}
    with pytest.raises(ProcessLookupError):
        os.kill(pids.pop(), 0)


def test_call__error_is_raised_here_and_the_next_call_answered() -> None:
    with Processes() as processes:
        with pytest.raises(ZeroDivisionError):
            processes.call(floordiv, 1, 0)
        assert processes.call(floordiv, 7, 2) == 3


def test_call__what_is_printed_does_not_stand_among_the_answers(capfd: pytest.CaptureFixture[str]) -> None:
    with Processes() as processes:
        assert processes.call(os.write, 1, b"loud") == 4
    assert capfd.readouterr() == ("", "loud")


def test_call__of_a_process_that_was_killed_says_so() -> None:
    with Processes() as processes:
        pid = processes.call(os.getpid)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ProcessEnded, match="process of getpid ended with code -9"):
            processes.call(os.getpid)


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
def test_processes__end_with_a_killed_parent_whose_script_is_not_made_for_import() -> None:
    script = "import os, time; from platform_assets.vision.processes import Processes\n"
    script += "print(Processes().call(os.getpid), flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    until = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_alive(pid)
