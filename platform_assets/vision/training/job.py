"""What one training is asked to do, who hears of it, and the errors that end it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from platform_assets.vision.machine.devices import Device
from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.recipes.resolving import MetricName
from platform_assets.vision.recipes.train_options import DoesNotTrain, TrainRecipe
from platform_assets.vision.training.batches import LabelledImages, batches_per_epoch
from platform_assets.vision.training.pace import PaceReport
from platform_assets.vision.training.state import EpochRow, TrainingState
from platform_assets.vision.training.step import Teacher


class NonFiniteLoss(DoesNotTrain):
    """Training loss, gradient norm or logits of val became NaN or infinite; `image_ids` are those of the batch, or of val."""

    def __init__(self, message: str, image_ids: tuple[str, ...]) -> None:
        super().__init__(message)
        self.image_ids = image_ids

    def __reduce__(self) -> tuple[type[NonFiniteLoss], tuple[str, tuple[str, ...]]]:
        """Errors travel between processes; what they are made of is not what `args` holds."""
        return type(self), (str(self), self.image_ids)


class TrainingStopped(RuntimeError):
    """The training was asked to stop; all steps done are saved and the next call goes on from there."""


@dataclass(frozen=True)
class Job:
    """Everything that one training follows from, and where it keeps its state."""

    classifier: Classifier
    train_part: LabelledImages
    val_part: LabelledImages
    recipe: TrainRecipe
    metric: MetricName
    seed: int
    device: Device
    work_dir: Path
    fingerprint: str
    teacher: Teacher | None
    workers: int
    save_every_seconds: float
    threads: int = 1

    @property
    def state(self) -> TrainingState:
        return TrainingState(self.work_dir, self.fingerprint)

    @property
    def epoch_steps(self) -> int:
        return batches_per_epoch(len(self.train_part), self.recipe)

    @property
    def total_steps(self) -> int:
        return min(self.recipe.epochs * self.epoch_steps, self.recipe.max_steps or 2**62)


@dataclass(frozen=True)
class Listener:
    """Who hears of finished epochs and of the pace, and who may ask for a stop."""

    on_epoch: Callable[[EpochRow], None] = lambda row: None
    on_progress: Callable[[PaceReport], None] = lambda report: None
    stop_requested: Callable[[], bool] = lambda: False
