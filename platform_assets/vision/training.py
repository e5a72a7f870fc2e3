"""The training loop: one classifier, two parts, one recipe; it goes on exactly where a killed run left it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from platform_assets.vision.datasets import Batch, LabelledImages, batches_per_epoch, epoch_batches
from platform_assets.vision.devices import Device
from platform_assets.vision.evaluation import predict
from platform_assets.vision.models import Classifier, place
from platform_assets.vision.recipes import MetricName
from platform_assets.vision.scores import cross_entropy, score
from platform_assets.vision.train_options import TrainRecipe
from platform_assets.vision.training_state import EpochRow, Progress, TrainingState, fingerprint_of
from platform_assets.vision.weights import weights_sha256


class NonFiniteLoss(ValueError):
    """The training loss became NaN or infinite; `image_ids` are those of the batch."""

    def __init__(self, message: str, image_ids: tuple[str, ...]) -> None:
        super().__init__(message)
        self.image_ids = image_ids


class TrainingStopped(RuntimeError):
    """The training was asked to stop; the epochs done are saved and the next call goes on from there."""


@dataclass(frozen=True)
class TrainResult:
    """How a training went. `history` has one row per epoch (see EpochRow), those before a resumption included."""

    history: pl.DataFrame
    best_epoch: int
    stopped_early: bool
    resumed_from_epoch: int


def train(
    classifier: Classifier,
    train_part: LabelledImages,
    val_part: LabelledImages,
    recipe: TrainRecipe,
    *,
    metric: MetricName,
    seed: int,
    device: Device,
    work_dir: Path,
    on_epoch: Callable[[EpochRow], None] | None = None,
    stop_requested: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train `classifier` in place and leave it with the weights of its best epoch on val, in evaluation mode.

    After each epoch the whole state is saved in `work_dir`; a later call with the same arguments goes on from there and
    on a CPU ends with the same weights, bit for bit. State of another training is passed over. Whatever ends the
    process, at most the current epoch is lost. `on_epoch` hears of the epochs of this call alone, after they are saved.

    Raises NonFiniteLoss, and TrainingStopped soon after `stop_requested` says so.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    fingerprint = _fingerprint(classifier, train_part, val_part, recipe, metric, seed, device)
    loop = _Loop(classifier, recipe, len(train_part), seed=seed, device=device)
    state = TrainingState(work_dir, fingerprint)
    progress = loop.resume(state)
    resumed_from_epoch = progress.epoch
    while not _finished(progress, recipe, loop.total_steps):
        row, steps = loop.run_epoch(progress, train_part, val_part, metric, stop_requested)
        progress = progress.after(row, steps=steps)
        loop.keep_best(progress)
        state.save(progress, loop.tensors())
        if on_epoch is not None:
            on_epoch(row)
    classifier.load_state_dict(loop.best)
    classifier.eval()
    return TrainResult(
        history=pl.DataFrame([row.model_dump() for row in progress.history]),
        best_epoch=progress.best_epoch,
        stopped_early=_out_of_patience(progress, recipe) and progress.epoch < recipe.epochs,
        resumed_from_epoch=resumed_from_epoch,
    )


def _finished(progress: Progress, recipe: TrainRecipe, total_steps: int) -> bool:
    return progress.steps >= total_steps or _out_of_patience(progress, recipe)


def _out_of_patience(progress: Progress, recipe: TrainRecipe) -> bool:
    return progress.epoch - progress.best_epoch >= recipe.patience_epochs


class _Loop:
    """The mutable things of one training: classifier, optimizer and the best weights so far."""

    def __init__(
        self, classifier: Classifier, recipe: TrainRecipe, train_images: int, *, seed: int, device: Device
    ) -> None:
        self.classifier = place(classifier, device)
        self.recipe = recipe
        self.seed = seed
        self.device: Device = device
        self.optimizer = torch.optim.AdamW(_parameter_groups(classifier, recipe), lr=recipe.learning_rate)
        self.best: dict[str, torch.Tensor] = {}
        self.epoch_steps = batches_per_epoch(train_images, recipe.batch_size)
        self.total_steps = min(recipe.epochs * self.epoch_steps, recipe.max_steps or 2**62)

    def tensors(self) -> dict[str, Any]:
        return {"model": self.classifier.state_dict(), "best": self.best, "optimizer": self.optimizer.state_dict()}

    def resume(self, state: TrainingState) -> Progress:
        saved = state.load()
        if saved is None:
            return Progress()
        progress, tensors = saved
        self.classifier.load_state_dict(tensors["model"])
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.best = tensors["best"]
        return progress

    def keep_best(self, progress: Progress) -> None:
        if progress.best_epoch == progress.epoch:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.classifier.state_dict().items()}

    def run_epoch(
        self,
        progress: Progress,
        train_part: LabelledImages,
        val_part: LabelledImages,
        metric: MetricName,
        stop_requested: Callable[[], bool] | None,
    ) -> tuple[EpochRow, int]:
        """One pass over train and one over val; the row of the epoch and the steps it took."""
        started, epoch = time.perf_counter(), progress.epoch + 1
        torch.manual_seed(_torch_seed(self.seed, epoch))
        self.classifier.train()
        step, summed_loss, images = progress.steps, 0.0, 0
        for batch in self._batches(train_part, epoch):
            if step >= self.total_steps:
                break
            if stop_requested is not None and stop_requested():
                raise TrainingStopped(f"stopped on request in epoch {epoch}; epochs 1 to {progress.epoch} are saved")
            summed_loss += self._step(batch, train_part, epoch, step) * len(batch.rows)
            images, step = images + len(batch.rows), step + 1
        logits_nk = predict(self.classifier, val_part.images_nchw, device=self.device)
        row = EpochRow(
            epoch=epoch,
            train_loss=summed_loss / images,
            val_loss=cross_entropy(logits_nk, val_part.labels_n),
            val_metric=score(logits_nk, val_part.labels_n, metric),
            learning_rate=self.recipe.learning_rate * self._rate_factor(step - 1),
            seconds=time.perf_counter() - started,
        )
        return row, step - progress.steps

    def _batches(self, part: LabelledImages, epoch: int) -> Iterator[Batch]:
        return epoch_batches(
            part,
            batch_size=self.recipe.batch_size,
            seed=self.seed,
            epoch=epoch,
            augmentation=self.recipe.augmentation,
        )

    def _step(self, batch: Batch, part: LabelledImages, epoch: int, step: int) -> float:
        """One optimizer step; the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * group["rate_share"] * self._rate_factor(step)
        logits_bk = self.classifier(batch.images_bchw.to(self.device))
        loss = torch.nn.functional.cross_entropy(
            logits_bk, batch.labels_b.to(self.device), label_smoothing=self.recipe.label_smoothing
        )
        value = loss.item()
        if not math.isfinite(value):
            raise _non_finite(value, tuple(part.image_ids[row] for row in batch.rows), epoch, step)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return value

    def _rate_factor(self, step: int) -> float:
        warmup_steps = round(self.recipe.warmup_epochs * self.epoch_steps)
        return rate_factor(step, total_steps=self.total_steps, warmup_steps=warmup_steps)


def rate_factor(step: int, *, total_steps: int, warmup_steps: int) -> float:
    """Share of the base rate at a step counted from 0: linear up to 1, then half a cosine down towards 0."""
    warmup_steps = min(warmup_steps, total_steps // 2)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def _parameter_groups(classifier: Classifier, recipe: TrainRecipe) -> list[dict[str, Any]]:
    """Four groups: backbone and head, matrices with weight decay and vectors (norms, biases) without."""
    groups: list[dict[str, Any]] = []
    for module, rate_share in ((classifier.backbone, recipe.backbone_learning_rate_factor), (classifier.head, 1.0)):
        parameters = list(module.parameters())
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups.append({"params": matrices, "weight_decay": recipe.weight_decay, "rate_share": rate_share})
        groups.append({"params": vectors, "weight_decay": 0.0, "rate_share": rate_share})
    return groups


def _non_finite(value: float, image_ids: tuple[str, ...], epoch: int, step: int) -> NonFiniteLoss:
    return NonFiniteLoss(
        f"training loss is {value} in epoch {epoch}, step {step}, on the images {', '.join(image_ids)}; "
        "lower learning_rate or look at these images",
        image_ids,
    )


def _torch_seed(seed: int, epoch: int) -> int:
    """Seed of what is random inside the network (dropout) in one epoch."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:7])


def _fingerprint(
    classifier: Classifier,
    train_part: LabelledImages,
    val_part: LabelledImages,
    recipe: TrainRecipe,
    metric: MetricName,
    seed: int,
    device: Device,
) -> str:
    """What the final weights follow from, the torch version included."""
    return fingerprint_of(
        {
            "start": weights_sha256(classifier),
            "preprocessing": classifier.preprocessing.preprocessing_id,
            "train": _part_sha256(train_part),
            "val": _part_sha256(val_part),
            "recipe": recipe.model_dump(mode="json"),
            "metric": metric,
            "seed": seed,
            "device": device,
            "torch": torch.__version__,
        }
    )


def _part_sha256(part: LabelledImages) -> str:
    return hashlib.sha256("\n".join(part.image_ids).encode() + part.labels_n.tobytes()).hexdigest()
