"""The processes of a training on several devices: started, listened to, and ended together."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch

from platform_assets.vision.recipes.train_options import DoesNotTrain
from platform_assets.vision.training.distributed import PeerLost, Ranks
from platform_assets.vision.training.job import Job, Listener, TrainingStopped
from platform_assets.vision.training.loop import run_training
from platform_assets.vision.training.pace import PaceReport
from platform_assets.vision.training.packed_jobs import PackedJob
from platform_assets.vision.training.state import EpochRow

RANKS_FOLDER = "ranks"
_POLL_SECONDS = 0.2
_SAVING_SECONDS = 120.0
_LAST_WORDS_SECONDS = 3.0
# A rank that waits for another is ended by the process that started it, not by a clock.
_COLLECTIVE_TIMEOUT = timedelta(days=7)
_SILENT = (
    "a rank ended without a word, its output may say why; a script that trains on several devices does so under "
    '`if __name__ == "__main__":`'
)


class RankFailed(RuntimeError):
    """One process of a training on several devices failed or was killed; the others were ended."""


def run_ranks(job: Job, listener: Listener) -> None:
    """`run_training` in `devices` processes; the end is the saved state. `listener` is heard here, in this process.

    A rank that fails ends all. What ends this process, even SIGKILL, ends the ranks; what raises here has rank 0 finish
    its step and save. Raises RankFailed, and what `run_training` raises.
    """
    folder = job.work_dir / RANKS_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with _processes(PackedJob.of(job, folder), job.recipe.devices, folder) as family:
            try:
                family.attend(listener)
            except BaseException:
                family.have_saved()
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _End:
    """The error that ended a rank and when, by the clock that all processes share."""

    error: BaseException
    by_peer: bool
    at: float


@dataclass(frozen=True)
class _Family:
    """The rank processes, what they say and the flag that asks them to stop."""

    processes: list[SpawnProcess]
    voices: list[Connection]
    stop: Event

    def attend(self, listener: Listener) -> None:
        """Pass on what rank 0 reports until all are done; raise the error of the one that failed."""
        while alive := [process for process in self.processes if process.is_alive()]:
            wait([self.voices[0], *(process.sentinel for process in alive)], timeout=_POLL_SECONDS)
            if listener.stop_requested():
                self.stop.set()
            self._pass_on(listener)
        self._pass_on(listener)

    def _pass_on(self, listener: Listener) -> None:
        for said in self._heard():
            if isinstance(said, EpochRow):
                listener.on_epoch(said)
            elif isinstance(said, PaceReport):
                listener.on_progress(said)
            else:
                raise self._cause([said])
        if any(process.exitcode for process in self.processes):
            raise self._cause([])

    def have_saved(self) -> None:
        """Let rank 0 end its step and save; it cannot where another rank is gone."""
        self.stop.set()
        until = time.monotonic() + _SAVING_SECONDS
        lead, *others = self.processes
        while lead.is_alive() and all(process.is_alive() for process in others) and time.monotonic() < until:
            list(self._heard())
            lead.join(_POLL_SECONDS)

    def _heard(self) -> Iterator[Any]:
        for voice in self.voices:
            try:
                while voice.poll():
                    yield voice.recv()
            except (EOFError, ConnectionError):
                continue

    def _cause(self, said: list[Any]) -> BaseException:
        """The first error that is not the loss of a peer, among what is heard in the next moments."""
        until = time.monotonic() + _LAST_WORDS_SECONDS
        while True:
            over = time.monotonic() > until or not any(process.is_alive() for process in self.processes)
            said += self._heard()
            ends = sorted((word for word in said if isinstance(word, _End)), key=lambda end: end.at)
            own = [end.error for end in ends if not end.by_peer]
            if own or over or self._killed():
                break
            time.sleep(_POLL_SECONDS / 4)
        return next(filter(None, [*own, self._killed(), *(end.error for end in ends)]), RankFailed(_SILENT))

    def _killed(self) -> RankFailed | None:
        for rank, process in enumerate(self.processes):
            if process.exitcode is not None and process.exitcode < 0:
                name = signal.Signals(-process.exitcode).name
                return RankFailed(
                    f"rank {rank} of {len(self.processes)} was ended by {name} (out of memory?); the state saved last is "
                    "kept, the next call goes on from there"
                )
        return None


@contextmanager
def _processes(packed: PackedJob, world: int, folder: Path) -> Iterator[_Family]:
    """The ranks, started; none outlives the block."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    threads = max(1, packed.job.threads // world) if packed.job.device == "cpu" else packed.job.threads
    processes, voices = [], []
    try:
        for rank in range(world):
            heard, voice = context.Pipe(duplex=False)
            process = context.Process(
                target=_rank, args=(packed, Ranks(rank, world), folder, threads, voice, stop), name=f"rank {rank}"
            )
            process.start()
            voice.close()
            processes.append(process)
            voices.append(heard)
        yield _Family(processes, voices, stop)
    finally:
        for process in processes:
            process.kill()
            process.join()
        for heard in voices:
            heard.close()


def _rank(packed: PackedJob, ranks: Ranks, folder: Path, threads: int, voice: Connection, stop: Event) -> None:
    """The life of one rank, which never returns."""
    # The terminal's Ctrl-C reaches every process of the group; the one that started this one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    job = packed.open()
    if job.device == "cuda":
        torch.cuda.set_device(ranks.rank)
    code = 1
    try:
        torch.distributed.init_process_group(
            "nccl" if job.device == "cuda" else "gloo",
            init_method=f"file://{folder / 'rendezvous'}",
            rank=ranks.rank,
            world_size=ranks.world,
            timeout=_COLLECTIVE_TIMEOUT,
        )
        run_training(job, Listener(voice.send, voice.send, stop.is_set), ranks)
        torch.distributed.destroy_process_group()
        code = 0
    except BaseException as error:
        voice.send(_End(_as_it_travels(error, ranks), isinstance(error, PeerLost), time.monotonic()))
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # All is saved and said. Python would take torch down first, for 2.5 s (2026-11) that Ctrl-C waits for too.
        os._exit(code)


def _as_it_travels(error: BaseException, ranks: Ranks) -> BaseException:
    """Our own errors as they are; others as text, for they may not survive the way to another process."""
    if isinstance(error, DoesNotTrain | TrainingStopped):
        return error
    return RankFailed(f"rank {ranks.rank} of {ranks.world}: {''.join(traceback.format_exception(error))}")


def _end_with_parent() -> None:
    """At once and without a word: whoever trains next must not find this process still writing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
