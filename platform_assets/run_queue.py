"""The queue of runs from the UI, schedules and sensors, which does not wait for runs whose process was killed."""

from __future__ import annotations

from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.storage.dagster_run import DagsterRun

from platform_assets.executors import end_dead_runs


class WatchedRunQueue(QueuedRunCoordinator):
    """Ends dead runs whenever a run is handed in (dagster.yaml names this class).

    2026-11, dagster 1.13: a run started from a shell and killed counts as one that goes on, so that its pool is taken and
    no run that needs the pool leaves the queue; the executor, which ends dead runs too, is never asked. Drop this with
    `executors.WatchedExecutor`.
    """

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        end_dead_runs(self._instance)
        return super().submit_run(context)
