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
    """One epoch: mean training loss (label smoothing included), val loss in nats, the val metric, the last rate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    train_loss: float
    val_loss: float
    val_metric: float
    learning_rate: float
    seconds: float


class Progress(BaseModel):
    """The epochs done. The best has the highest val metric; equals go to the lower val loss, then the earlier epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = 0
    history: tuple[EpochRow, ...] = ()

    @property
    def epoch(self) -> int:
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        return max(self.history, key=lambda row: (row.val_metric, -row.val_loss)).epoch if self.history else 0

    def after(self, row: EpochRow, *, steps: int) -> Self:
        return self.model_copy(update={"steps": self.steps + steps, "history": (*self.history, row)})


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
        content = torch.load(self.path, map_location="cpu", weights_only=True)
        if content["fingerprint"] != self.fingerprint:
            return None
        return Progress.model_validate_json(content["progress"]), content["tensors"]


def fingerprint_of(facts: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of everything that a training follows from."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
