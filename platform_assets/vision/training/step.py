"""One optimizer step: forward and backward over its batches, the sum over ranks, clipping, guards, the moving average."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from platform_assets.vision.machine.devices import Device
from platform_assets.vision.machine.precision import Precision
from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.batches import Batch
from platform_assets.vision.training.distributed import ALONE, PeerLost, Ranks
from platform_assets.vision.training.ema import WeightAverage
from platform_assets.vision.training.execution import compiled
from platform_assets.vision.training.losses import Loss
from platform_assets.vision.training.optimization import make_optimizer
from platform_assets.vision.training.state import StepFigures
from platform_assets.vision.training.strategies import gradients_of, make_strategy

_LOWEST_SCALE = 1e-4
"""Of float16's gradients: scales below say that it is not the scale (fairseq's min_loss_scale)."""

Teacher = Callable[[torch.Tensor], torch.Tensor]
"""images_bchw of a batch, on the training's device, to logits_bk over the same classes; a module is moved there."""


class NonFinite(ValueError):
    """A training loss or gradient norm that is NaN or infinite, and the rows of the part it came of."""

    def __init__(self, what: str, rows: Sequence[int]) -> None:
        super().__init__(what)
        self.rows = tuple(rows)


class TrainingStep:
    """What changes from step to step: classifier, optimizer, gradient scaler and moving average."""

    def __init__(
        self,
        classifier: Classifier,
        recipe: TrainRecipe,
        loss: Loss,
        *,
        device: Device,
        ranks: Ranks = ALONE,
        teacher: Teacher | None = None,
    ) -> None:
        self.classifier = classifier
        self.recipe = recipe
        self.optimizer = make_optimizer(classifier, recipe)
        self.average = WeightAverage(classifier, recipe.ema_decay) if recipe.ema_decay else None
        self._loss = loss
        self._precision = Precision(recipe, device)
        self._strategy = make_strategy(recipe, classifier, compiled(self._logits_and_auxiliary, recipe), ranks)
        self._device = device
        self._ranks = ranks
        self._teacher = teacher.to(device).eval() if isinstance(teacher, nn.Module) else teacher

    @property
    def evaluated(self) -> Classifier:
        """The classifier that is judged and kept: the moving average where there is one."""
        return self.average.classifier if self.average else self.classifier

    def take(self, batches: Sequence[Batch], *, rate: float, seed: int) -> StepFigures:
        """One step at base rate `rate`; the gradient is that of the mean loss over all images of all batches and ranks.

        What is random inside the network (dropout) follows from `seed` and the rank. Raises NonFinite before the weights
        are touched, or PeerLost where the images of another rank are to blame. float16 skips a step that is not finite and
        halves its scale, down to a ten-thousandth.
        """
        torch.manual_seed(seed + self._ranks.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_share"]
        self.optimizer.zero_grad(set_to_none=True)
        images = sum(len(batch.rows) for batch in batches)
        self._strategy.begin(images)
        loss = 0.0
        for batch in batches:
            with self._strategy.batch(last=batch is batches[-1]):
                loss += self._backward(batch, len(batch.rows) / images)
        loss, images, own = self._strategy.end(loss)
        scaler = self._precision.scaler
        scaler.unscale_(self.optimizer)
        norm = self._clipped([int(row) for batch in batches for row in batch.rows], own)
        scaler.step(self.optimizer)
        scaler.update()
        if self.average is not None:
            self.average.update(self.classifier)
        return StepFigures(loss=loss, images=images, gradient_norm=norm)

    def _backward(self, batch: Batch, share: float) -> float:
        """Add the gradient of this batch's share of the mean loss; that share."""
        images_bchw = batch.images_bchw.to(self._device)
        labels_b = batch.labels_b.to(self._device)
        shares_bk = None if batch.shares_bk is None else batch.shares_bk.to(self._device)
        with self._precision.autocast():
            logits_bk, auxiliary = self._strategy.forward(images_bchw, labels_b)
        loss = self._loss(logits_bk, labels_b, shares_bk, self._teacher_logits(images_bchw)) + auxiliary
        value = float(loss.item())
        if not math.isfinite(value):
            raise NonFinite(f"training loss is {value}", batch.rows.tolist())
        with self._statistics_kept():
            torch.autograd.backward(self._precision.scaler.scale(loss * share))
        return value * share

    @contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        """Activations that are computed again in the backward pass would count twice in the running statistics of norms."""
        before = [buffer.clone() for buffer in self.classifier.buffers()] if self.recipe.gradient_checkpointing else []
        yield
        for buffer, kept in zip(self.classifier.buffers(), before, strict=False):
            buffer.copy_(kept)

    def _logits_and_auxiliary(
        self, images_bchw: torch.Tensor, labels_b: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | float]:
        """The backbone's own loss, where it has one, is added to that of the logits."""
        auxiliary = getattr(self.classifier.backbone, "auxiliary_loss", None)
        if auxiliary is None:
            return self.classifier(images_bchw), 0.0
        features_bd = self.classifier.features(images_bchw)
        return self.classifier.head(features_bd), auxiliary(features_bd, labels_b)

    def _teacher_logits(self, images_bchw: torch.Tensor) -> torch.Tensor | None:
        if self._teacher is None:
            return None
        with torch.no_grad(), self._precision.autocast():
            return self._teacher(images_bchw)

    def _clipped(self, rows: Sequence[int], own: torch.Tensor | None) -> float | None:
        """The norm of all gradients before they were clipped, None without clipping or where the scaler skips the step.

        `own` is the norm of this rank's `rows` alone, where there are others.
        """
        total = torch.nn.utils.get_total_norm(gradients_of(self.classifier))
        norm, limit = total.item(), self.recipe.clip_norm
        if not math.isfinite(norm):
            if self._precision.scales and self._precision.scaler.get_scale() >= _LOWEST_SCALE:
                return None
            if own is not None:
                self._leave_it_to_the_culprit(own)
            raise NonFinite(f"gradient norm is {norm}", rows)
        if limit is None:
            return None
        torch.nn.utils.clip_grads_with_norm_(self.classifier.parameters(), limit, total)
        return norm

    def _leave_it_to_the_culprit(self, own: torch.Tensor) -> None:
        """Raises PeerLost where own gradients are finite and another rank's are not; all of them may be, and not their sum."""
        mine = torch.isfinite(own).logical_not().float().reshape(1)
        anybody = mine.clone()
        self._ranks.sum(anybody)
        if anybody.item() > 0 and mine.item() == 0:
            raise PeerLost(f"the gradients of another rank than {self._ranks.rank} are not finite")

    def tensors(self) -> dict[str, Any]:
        """All of it, as TrainingState saves it."""
        return {
            "model": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "scaler": self._precision.scaler.state_dict(),
        }

    def load(self, tensors: dict[str, Any]) -> None:
        self.classifier.load_state_dict(tensors["model"])
        self.optimizer.load_state_dict(tensors["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(tensors["average"])
        self._precision.scaler.load_state_dict(tensors["scaler"])


def step_seed(seed: int, epoch: int, step: int) -> int:
    """Seed of what is random inside the network in one step, so that it follows from the place alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}/{step}".encode()).digest()[:7])


def kept(tensors: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict of `TrainingStep.evaluated` in what `TrainingStep.tensors` gave."""
    average: dict[str, torch.Tensor] | None = tensors["average"]
    if average is None:
        return dict(tensors["model"])
    return {name.removeprefix("module."): tensor for name, tensor in average.items() if name != "n_averaged"}
