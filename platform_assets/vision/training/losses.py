"""The training loss, and which images an epoch draws: what is done about wrong certainty and about rare classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy, kl_div, one_hot

from platform_assets.vision.recipes.train_options import LossOptions

ClassCounts = NDArray[np.int64] | Sequence[int]


@dataclass(frozen=True)
class Loss:
    """Mean loss of a batch, from logits as the classifier gives them; made by `make_loss`, for training only."""

    options: LossOptions
    weights_k: torch.Tensor | None
    log_priors_k: torch.Tensor | None

    def __call__(
        self,
        logits_bk: torch.Tensor,
        labels_b: torch.Tensor,
        shares_bk: torch.Tensor | None = None,
        teacher_logits_bk: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The scalar to minimise, in float32 or better. `shares_bk`, rows that sum to 1, stand for the labels if given.

        A class weight multiplies its class's term, so that a mixed image has its weights in its shares; the sum is
        divided by the number of images, not of weights, so that the loss of a batch is the mean of its parts' losses.
        Focal does as much for each class of a smoothed or mixed label: -share * (1 - p) ** gamma * log p.
        Distillation compares the logits before their adjustment, which are those that are served.
        """
        assert (teacher_logits_bk is None) == (self.options.distill_from is None)
        logits_bk = _at_least_float32(logits_bk)
        adjusted_bk = logits_bk
        if self.log_priors_k is not None:
            adjusted_bk = logits_bk + self.options.logit_adjustment * self.log_priors_k
        targets = labels_b if shares_bk is None else shares_bk.to(logits_bk.dtype)
        loss = self._focal(adjusted_bk, targets) if self.options.loss == "focal" else self._plain(adjusted_bk, targets)
        if teacher_logits_bk is None:
            return loss
        share, temperature = self.options.distill_weight, self.options.distill_temperature
        return (1 - share) * loss + share * distillation(logits_bk, teacher_logits_bk, temperature)

    def _plain(self, logits_bk: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        smoothing = self.options.label_smoothing
        if self.weights_k is None:
            return cross_entropy(logits_bk, targets, label_smoothing=smoothing)
        # With whole labels torch's own mean would divide by the sum of the weights.
        weights_k = self.weights_k.to(logits_bk.dtype)
        summed = cross_entropy(logits_bk, targets, weights_k, label_smoothing=smoothing, reduction="sum")
        return summed / len(logits_bk)

    def _focal(self, logits_bk: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        classes, smoothing = logits_bk.shape[1], self.options.label_smoothing
        shares_bk = one_hot(targets, classes).to(logits_bk.dtype) if targets.ndim == 1 else targets
        shares_bk = shares_bk * (1 - smoothing) + smoothing / classes
        if self.weights_k is not None:
            shares_bk = shares_bk * self.weights_k
        log_p_bk = logits_bk.log_softmax(dim=1)
        # The floor keeps the gradient finite where p is 1 and gamma below 1.
        missing_bk = (-torch.expm1(log_p_bk)).clamp(min=torch.finfo(log_p_bk.dtype).tiny)
        return -(shares_bk * missing_bk**self.options.focal_gamma * log_p_bk).sum(dim=1).mean()


def make_loss(options: LossOptions, class_counts_k: ClassCounts, *, device: str | torch.device) -> Loss:
    """The loss for a train part with `class_counts_k` images of each class; a class without any counts as having one."""
    weights_k = priors_k = None
    if options.class_weights == "effective_number":
        weights_k = _tensor(effective_number_weights(class_counts_k, options.effective_number_beta), device)
    if options.logit_adjustment > 0:
        priors_k = _tensor(log_priors(class_counts_k), device)
    return Loss(options, weights_k, priors_k)


def effective_number_weights(class_counts_k: ClassCounts, beta: float) -> NDArray[np.float64]:
    """Weights of mean 1 that go as (1 - beta) / (1 - beta ** count) (Cui et al. 2019, arXiv 1901.05555)."""
    inverse_k = -1 / np.expm1(_at_least_one(class_counts_k) * np.log(beta))
    return np.asarray(inverse_k / inverse_k.mean())


def log_priors(class_counts_k: ClassCounts) -> NDArray[np.float64]:
    """Log of the classes' shares of the train images."""
    counts_k = _at_least_one(class_counts_k)
    return np.asarray(np.log(counts_k / counts_k.sum()))


def distillation(logits_bk: torch.Tensor, teacher_logits_bk: torch.Tensor, temperature: float) -> torch.Tensor:
    """T ** 2 * KL(teacher || student) of the softened predictions, mean over images (Hinton et al. 2015)."""
    student_bk = (logits_bk / temperature).log_softmax(dim=1)
    teacher_bk = (teacher_logits_bk.to(logits_bk.dtype) / temperature).log_softmax(dim=1)
    return temperature**2 * kl_div(student_bk, teacher_bk, reduction="batchmean", log_target=True)


def draw_order(labels_n: NDArray[Any], options: LossOptions, generator: np.random.Generator) -> NDArray[np.int64]:
    """Rows of one epoch in order, as many as there are images.

    uniform: every row once. balanced: every class that has images equally often up to one, in which every row of the
    class equally often up to one; which get the one more is drawn, as is the order.
    """
    images = len(labels_n)
    if options.sampler == "uniform":
        return generator.permutation(images)
    _, counts = np.unique(labels_n, return_counts=True)
    rows_of_classes = np.split(np.argsort(labels_n, kind="stable"), np.cumsum(counts)[:-1])
    draws = _even_shares(images, len(counts), generator)
    drawn = [
        np.repeat(rows, _even_shares(n, len(rows), generator)) for rows, n in zip(rows_of_classes, draws, strict=True)
    ]
    return generator.permutation(np.concatenate(drawn))


def _even_shares(total: int, parts: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """`total` as a sum of integers that differ by one at most; which are the larger is drawn."""
    shares = np.full(parts, total // parts, dtype=np.int64)
    shares[generator.permutation(parts)[: total % parts]] += 1
    return shares


def _at_least_one(class_counts_k: ClassCounts) -> NDArray[np.int64]:
    return np.maximum(np.asarray(class_counts_k, dtype=np.int64), 1)


def _tensor(values: NDArray[np.float64], device: str | torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)  # MPS has no float64


def _at_least_float32(logits_bk: torch.Tensor) -> torch.Tensor:
    return logits_bk.float() if logits_bk.dtype in (torch.float16, torch.bfloat16) else logits_bk
