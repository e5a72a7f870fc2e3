"""Things made ahead in threads, handed out in the order they were asked for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

Task = TypeVar("Task")
Made = TypeVar("Made")

Make = Callable[[Task, Callable[[], bool]], Made]
"""Makes one thing; asks in between whether nobody waits for it any more, and may then raise anything."""


def made_ahead(make: Make[Task, Made], tasks: Iterable[Task], *, workers: int) -> Generator[Made, None, None]:
    """What `make` gives for each task in turn, with at most `workers` + 1 made or in the making beside the one handed out.

    Without workers the caller's own thread makes each when it is asked for. Each is made on one core. An error comes up
    at the place of its task. Closing the generator ends the threads before it returns.
    """
    if workers == 0:
        for task in tasks:
            yield _on_one_core(make, task, lambda: False)
        return
    closed, waiting, coming = threading.Event(), deque[Future[Made]](), iter(tasks)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="made_ahead")
    try:
        while True:
            for task in coming:
                waiting.append(pool.submit(_on_one_core, make, task, closed.is_set))
                if len(waiting) > workers:
                    break
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        closed.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _on_one_core(make: Make[Task, Made], task: Task, unwanted: Callable[[], bool]) -> Made:
    """The threads of torch's small kernels wait for each other where others use the cores too.

    2026-11, two cores, load 6: RandAugment 15 to 59 images a second, on one core each 392 to 435.
    torch.set_num_threads would reach threads that start later; OpenMP's own setting is the calling thread's alone.
    """
    torch.get_num_threads()  # makes torch set up this thread before, not after
    with _openmp().limit(limits=1, user_api="openmp"):
        return make(task, unwanted)


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController()
