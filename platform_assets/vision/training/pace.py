"""How fast a training goes and when it will end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from platform_assets.vision.training.state import Progress

REPORT_SECONDS = 2.0


@dataclass(frozen=True)
class PaceReport:
    """Where a training is: `batch` of `batches` optimizer steps of `epoch` (from 1) of `epochs`, with the mean `loss` so far.

    `images_per_second` is that since the last report. `eta_seconds` goes by all this call has done, evaluations and saves
    included, and takes it that no patience runs out.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    images_per_second: float
    eta_seconds: float
    loss: float

    @property
    def text(self) -> str:
        """The line that a log shows."""
        minutes, seconds = divmod(round(self.eta_seconds), 60)
        return (
            f"epoch {self.epoch} of {self.epochs}, step {self.batch} of {self.batches}, loss {self.loss:.4f}, "
            f"{self.images_per_second:.0f} images/s, {minutes} min {seconds:02} s to go"
        )


class Pace:
    """Reports after a step, once REPORT_SECONDS have gone by since the last report or the start."""

    def __init__(self, on_progress: Callable[[PaceReport], None], *, epochs: int, epoch_steps: int, total_steps: int):
        self._on_progress = on_progress
        self._epochs = epochs
        self._epoch_steps = epoch_steps
        self._total_steps = total_steps
        self._started = self._reported = time.perf_counter()
        self._steps = self._images = 0

    def after_step(self, progress: Progress, images: int) -> None:
        self._steps += 1
        self._images += images
        now = time.perf_counter()
        if now - self._reported < REPORT_SECONDS:
            return
        report = PaceReport(
            epoch=progress.epoch + 1,
            epochs=self._epochs,
            batch=progress.steps - progress.epoch * self._epoch_steps,
            batches=self._epoch_steps,
            images_per_second=self._images / (now - self._reported),
            eta_seconds=(self._total_steps - progress.steps) * (now - self._started) / self._steps,
            loss=progress.sums.loss / progress.sums.images,
        )
        self._reported, self._images = now, 0
        self._on_progress(report)
