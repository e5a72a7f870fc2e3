"""Things made ahead: in order, few at a time, and none any more once nobody waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch

from platform_assets.vision.images.prefetch import made_ahead


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_made_ahead__in_order_and_few_at_a_time(workers: int) -> None:
    begun, lock = [], threading.Lock()

    def make(task: int, unwanted: Callable[[], bool]) -> int:
        with lock:
            begun.append(task)
        time.sleep(0.002 * (task % 3))
        return task * task

    for handed_out, made in enumerate(made_ahead(make, range(20), workers=workers)):
        assert made == handed_out * handed_out
        time.sleep(0.002)
        with lock:
            assert len(begun) <= handed_out + 1 + (workers + 1 if workers else 0)
    assert sorted(begun) == list(range(20))


def test_made_ahead__workers_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3)
    made = made_ahead(lambda task, unwanted: meeting.wait(timeout=10), range(3), workers=3)
    assert sorted(made) == [0, 1, 2]


def test_made_ahead__makes_ahead_of_the_caller() -> None:
    second = threading.Event()
    made = made_ahead(lambda task, unwanted: second.set() if task == 1 else None, range(9), workers=1)
    next(made)
    assert second.wait(timeout=10)
    made.close()


def test_made_ahead__an_error_comes_at_its_place() -> None:
    def make(task: int, unwanted: Callable[[], bool]) -> int:
        return 6 // (3 - task)

    for workers in (0, 2):
        made, seen = made_ahead(make, range(9), workers=workers), []
        with pytest.raises(ZeroDivisionError):
            seen.extend(made)
        assert seen == [2, 3, 6]


def test_made_ahead__closed_while_making_does_not_wait_for_the_end() -> None:
    begun, seen = threading.Event(), []

    def make(task: int, unwanted: Callable[[], bool]) -> int:
        if task == 0:
            return 0
        begun.set()
        until = time.monotonic() + 20
        while not unwanted() and time.monotonic() < until:
            time.sleep(0.001)
        seen.append(unwanted())
        return task

    made = made_ahead(make, range(9), workers=1)
    next(made)
    assert begun.wait(timeout=10)
    made.close()
    assert seen == [True]
    assert [thread for thread in threading.enumerate() if thread.name.startswith("made_ahead")] == []


def test_made_ahead__each_on_one_core_and_the_caller_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for workers in (0, 2):
            found = []
            for cores in made_ahead(lambda task, unwanted: torch.get_num_threads(), range(4), workers=workers):
                found.append((cores, torch.get_num_threads()))
            assert found == [(1, 4)] * 4
    finally:
        torch.set_num_threads(before)
