"""How the steps of a run execute, after the runs whose process was killed have been ended and their pool slots freed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from dagster._core.execution.context.system import PlanOrchestrationContext
    from dagster._core.execution.plan.plan import ExecutionPlan
    from dagster._core.execution.retries import RetryMode
    from dagster._core.execution.step_dependency_config import StepDependencyConfig

KILLED = (
    "Its process ended without a word: killed, out of memory, or the machine went down. Materialize again to go on."
)


class WatchedExecutor(dg.Executor):
    """An executor whose run holds a file lock while it lives, and which first ends the runs that no longer do.

    2026-11, dagster 1.13: nobody watches a run started from a shell. Killed, it stays STARTED and keeps its pool slot, and
    the next run waits for ever (dagster#33643). The kernel frees a lock however a process ends. Drop this when Dagster
    frees the slots of dead runs by itself.
    """

    def __init__(self, inner: dg.Executor) -> None:
        self.inner = inner

    @property
    def retries(self) -> RetryMode:
        return self.inner.retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        return self.inner.step_dependency_config

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        for run_id in end_dead_runs(plan_context.instance):
            plan_context.log.info(f"run {run_id[:8]} was killed; it is now marked as failed and its pool slot is free")
        with alive(plan_context.instance, plan_context.run_id):
            yield from self.inner.execute(plan_context, execution_plan)


@contextmanager
def alive(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Hold the lock that says this run lives. It goes before its file does, so nobody finds the file without its lock."""
    path = _folder(instance) / f"{run_id}.run"
    lock = FileLock(path)
    with _one_at_a_time(instance):
        lock.acquire()
    try:
        yield
    finally:
        with _one_at_a_time(instance):
            path.unlink(missing_ok=True)
            lock.release()


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark as failed the runs of this machine whose process is gone, free their pool slots, and return their ids."""
    ended = []
    with _one_at_a_time(instance):
        for path in sorted(_folder(instance).glob("*.run")):
            try:
                with FileLock(path).acquire(blocking=False):
                    if _end(instance, path.stem):
                        ended.append(path.stem)
                    path.unlink(missing_ok=True)
            except Timeout:
                continue  # it lives
    return ended


def _end(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether the run was not finished yet. Its claims are freed in any case: a finished run needs none."""
    run = instance.get_run_by_id(run_id)
    unfinished = run is not None and not run.is_finished
    if run is not None and unfinished:
        instance.report_run_failed(run, KILLED)
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    return unfinished


def _folder(instance: dg.DagsterInstance) -> Path:
    """On the disk of the instance's own files, which are this machine's: a run elsewhere has no file here."""
    folder = Path(instance.root_directory) / "alive"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _one_at_a_time(instance: dg.DagsterInstance) -> FileLock:
    """Between making a lock's file and locking it, or unlinking it and letting go, nobody may look."""
    return FileLock(_folder(instance) / "alive.lock")


def _watched(inner: dg.ExecutorDefinition) -> dg.ExecutorDefinition:
    create: Any = inner.executor_creation_fn
    schema: Any = inner.config_schema
    return dg.ExecutorDefinition(
        name=inner.name,
        config_schema=schema,
        requirements=inner.get_requirements,
        executor_creation_fn=lambda context: WatchedExecutor(create(context)),
        description=inner.description,
    )


EXECUTORS = {each.name: _watched(each) for each in (dg.in_process_executor, dg.multiprocess_executor)}
