"""What a training needs to go on exactly where it was, as one file that is always whole."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict

STATE_FILE = "training_state.pt"


class UnreadableTrainingState(ValueError):
    """A state file that is not one of ours."""


class EpochRow(BaseModel):
    """One epoch: mean training loss (as optimised), val loss in nats, the val metric, the base rate of its last step.

    `seconds` are those of training and evaluation; `images_per_second` that of training alone. `gradient_norm` is the
    mean over the steps, before clipping, where gradients are clipped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    train_loss: float
    val_loss: float
    val_metric: float
    learning_rate: float
    seconds: float
    images_per_second: float
    gradient_norm: float | None = None


class StepFigures(BaseModel):
    """One optimizer step: mean loss over its images, and the norm of its gradients where that was needed and finite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: float
    images: int
    gradient_norm: float | None = None


class EpochSums(BaseModel):
    """Sums over the steps of an epoch under way; `loss` is weighted by images, `norms` counts the `gradient_norm`s."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = 0
    loss: float = 0.0
    norms: int = 0
    gradient_norm: float = 0.0
    seconds: float = 0.0

    def plus(self, step: StepFigures, seconds: float) -> Self:
        measured = step.gradient_norm is not None
        return self.model_copy(
            update={
                "images": self.images + step.images,
                "loss": self.loss + step.loss * step.images,
                "norms": self.norms + measured,
                "gradient_norm": self.gradient_norm + (step.gradient_norm or 0.0),
                "seconds": self.seconds + seconds,
            }
        )


class Progress(BaseModel):
    """Optimizer steps taken in all, the epochs done, the sums of the one under way, and the threads that compute.

    The best epoch has the highest val metric; equals go to the lower val loss, then the earlier epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = 0
    history: tuple[EpochRow, ...] = ()
    sums: EpochSums = EpochSums()
    threads: int

    @property
    def epoch(self) -> int:
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        return max(self.history, key=lambda row: (row.val_metric, -row.val_loss)).epoch if self.history else 0

    def after_step(self, step: StepFigures, seconds: float) -> Self:
        return self.model_copy(update={"steps": self.steps + 1, "sums": self.sums.plus(step, seconds)})

    def after_epoch(self, row: EpochRow) -> Self:
        return self.model_copy(update={"history": (*self.history, row), "sums": EpochSums()})


class TrainingState:
    """One file in `folder` with progress, tensors and the fingerprint of what they belong to."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path = folder / STATE_FILE
        self.fingerprint = fingerprint

    def save(self, progress: Progress, tensors: dict[str, Any]) -> None:
        """Replace the file in one rename; whoever is killed on the way leaves the one before it."""
        beside = self.path.with_suffix(".partial")
        content = {"fingerprint": self.fingerprint, "progress": progress.model_dump_json(), "tensors": tensors}
        with beside.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)

    def load(self) -> tuple[Progress, dict[str, Any]] | None:
        """The saved state, or None when there is none or it belongs to another training."""
        if not self.path.exists():
            return None
        if not zipfile.is_zipfile(self.path):
            raise UnreadableTrainingState(f"{self.path} is not a training state; delete it to train from the start")
        # Mapped: who asks for the progress alone does not read gigabytes of tensors. A renamed file stays readable.
        content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        if content["fingerprint"] != self.fingerprint:
            return None
        return Progress.model_validate_json(content["progress"]), content["tensors"]


def fingerprint_of(facts: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of everything that a training follows from."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
