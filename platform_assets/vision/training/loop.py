"""The training loop of one process: epochs of steps and evaluations, and a state that is saved between steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import torch

from platform_assets.vision.evaluation.scores import Floats, cross_entropy, score
from platform_assets.vision.machine.allocator import give_back_freed_memory
from platform_assets.vision.machine.interruption import held_signals
from platform_assets.vision.machine.out_of_memory import out_of_memory_advice
from platform_assets.vision.networks.inference import predict
from platform_assets.vision.networks.models import Classifier, place
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.batches import Batch, epoch_batches
from platform_assets.vision.training.distributed import Ranks
from platform_assets.vision.training.execution import prepared
from platform_assets.vision.training.job import Job, Listener, NonFiniteLoss, TrainingStopped
from platform_assets.vision.training.losses import make_loss
from platform_assets.vision.training.optimization import freeze, rate_factor, trainable
from platform_assets.vision.training.pace import Pace
from platform_assets.vision.training.state import EpochRow, Progress
from platform_assets.vision.training.step import NonFinite, TrainingStep, step_seed


def run_training(job: Job, listener: Listener, ranks: Ranks) -> None:
    """Go on from the saved state to the end, and leave the end as the saved state.

    Whatever ends it between two steps has the state saved; an error within a step leaves the state saved last.
    """
    classifier = place(job.classifier, job.device)
    image_size_px = classifier.preprocessing.image_size_px
    with out_of_memory_advice(job.recipe, image_size_px, job.device), prepared(classifier, job.recipe):
        loop = _Loop(job, listener, ranks)
        try:
            while not finished(loop.progress, job):
                loop.epoch()
        except BaseException:
            loop.save_if_whole()
            raise


def finished(progress: Progress, job: Job) -> bool:
    """No step is left, or no patience. The steps of an epoch are followed by its evaluation."""
    evaluated = progress.sums.images == 0
    return evaluated and (progress.steps >= job.total_steps or out_of_patience(progress, job.recipe))


def out_of_patience(progress: Progress, recipe: TrainRecipe) -> bool:
    return progress.epoch - progress.best_epoch >= recipe.patience_epochs


class _Loop:
    """One process's part in a training: all of it, or that of one rank."""

    def __init__(self, job: Job, listener: Listener, ranks: Ranks) -> None:
        self.job = job
        self.ranks = ranks
        self.listener = listener
        counts_k = np.bincount(job.train_part.labels_n, minlength=job.classifier.num_classes)
        loss = make_loss(job.recipe, counts_k, device=job.device)
        self.trainable = trainable(job.classifier)
        self.step = TrainingStep(job.classifier, job.recipe, loss, device=job.device, ranks=ranks, teacher=job.teacher)
        self.progress = Progress(threads=job.threads)
        self.best: dict[str, torch.Tensor] = {}
        self.whole = True  # no step is half done, so that what is held is a state to go on from
        self.clock = 0.0
        self._resume()
        self.saved_steps, self.saved_at = self.progress.steps, time.perf_counter()
        self.pace = Pace(
            listener.on_progress,
            epochs=job.recipe.epochs,
            epoch_steps=job.epoch_steps,
            total_steps=job.total_steps,
        )

    def _resume(self) -> None:
        saved = self.job.state.load()
        if saved is not None:
            self.progress, tensors = saved
            self.step.load(tensors)
            self.best = tensors["best"]

    def save(self) -> None:
        if self.ranks.leads:
            tensors: dict[str, Any] = self.step.tensors() | {"best": self.best}
            self.job.state.save(self.progress, tensors)
            self.saved_steps, self.saved_at = self.progress.steps, time.perf_counter()

    def save_if_whole(self) -> None:
        if self.whole and self.progress.steps > self.saved_steps:
            self.save()

    def epoch(self) -> None:
        """What is left of the epoch's steps, then one pass over val."""
        job, epoch = self.job, self.progress.epoch + 1
        job.classifier.train()
        freeze(job.classifier, job.recipe, epoch, self.trainable)
        self.clock = time.perf_counter()
        for batches in self._left_of(epoch):
            self._take(batches, epoch)
        give_back_freed_memory()
        row = self._evaluated(epoch)
        give_back_freed_memory()
        with held_signals():
            self.progress = self.progress.after_epoch(row)
            if self.progress.best_epoch == epoch:
                self.best = weights_of(self.step.evaluated)
            self.save()
        if self.ranks.leads:
            self.listener.on_epoch(row)

    def _left_of(self, epoch: int) -> Iterator[list[Batch]]:
        """The batches of each step that is left of an epoch."""
        job, accumulate = self.job, self.job.recipe.accumulate
        before = (epoch - 1) * job.epoch_steps
        wanted = min(job.epoch_steps, job.total_steps - before) + before - self.progress.steps
        batches = epoch_batches(
            job.train_part,
            recipe=job.recipe,
            seed=job.seed,
            epoch=epoch,
            num_classes=job.classifier.num_classes,
            start_batch=(self.progress.steps - before) * accumulate,
            rank=self.ranks.rank,
            workers=job.workers,
        )
        with closing(batches):
            for _ in range(wanted):
                yield list(islice(batches, accumulate))

    def _take(self, batches: list[Batch], epoch: int) -> None:
        if self.ranks.leads and self.listener.stop_requested():
            raise TrainingStopped(self._stopped(epoch))
        with held_signals():
            self.whole = False
            try:
                figures = self.step.take(
                    batches,
                    rate=self._rate(self.progress.steps),
                    seed=step_seed(self.job.seed, epoch, self.progress.steps),
                )
            except NonFinite as error:
                raise self._non_finite(error, epoch) from None
            now = time.perf_counter()
            self.progress = self.progress.after_step(figures, now - self.clock)
            self.clock, self.whole = now, True
        if time.perf_counter() - self.saved_at >= self.job.save_every_seconds:
            self.save()
            self.clock = time.perf_counter()
        if self.ranks.leads:
            self.pace.after_step(self.progress, figures.images)

    def _rate(self, step: int) -> float:
        recipe = self.job.recipe
        factor = rate_factor(step, total_steps=self.job.total_steps, epoch_steps=self.job.epoch_steps, options=recipe)
        return recipe.learning_rate * factor

    def _evaluated(self, epoch: int) -> EpochRow:
        """The row of an epoch whose steps are done."""
        started, sums, job = time.perf_counter(), self.progress.sums, self.job
        logits_nk = self._val_logits()
        self._require_finite(logits_nk, epoch)
        return EpochRow(
            epoch=epoch,
            train_loss=sums.loss / sums.images,
            val_loss=cross_entropy(logits_nk, job.val_part.labels_n),
            val_metric=score(logits_nk, job.val_part.labels_n, job.metric),
            learning_rate=self._rate(self.progress.steps - 1),
            seconds=sums.seconds + time.perf_counter() - started,
            images_per_second=sums.images / sums.seconds,
            gradient_norm=sums.gradient_norm / sums.norms if sums.norms else None,
        )

    def _val_logits(self) -> Floats:
        """logits_nk of the val part; each rank computes those of its share of the images."""
        images_nchw, ranks = self.job.val_part.images_nchw, self.ranks
        mine = slice(ranks.rank, None, ranks.world)
        logits_mk = predict(self.step.evaluated, images_nchw[mine], device=self.job.device)
        logits_nk = torch.zeros((len(images_nchw), logits_mk.shape[1]), device=self.job.device)
        logits_nk[mine] = torch.from_numpy(logits_mk).to(self.job.device)
        ranks.sum(logits_nk)
        return logits_nk.cpu().numpy()

    def _require_finite(self, logits_nk: Floats, epoch: int) -> None:
        """No loss has seen the weights of an epoch's last step yet."""
        broken_n = np.flatnonzero(~np.isfinite(logits_nk).all(axis=1))
        if broken_n.size:
            image_ids = tuple(self.job.val_part.image_ids[row] for row in broken_n)
            raise NonFiniteLoss(
                f"logits of {len(image_ids)} of {len(logits_nk)} val images are not finite after epoch {epoch}, the first "
                f"is {image_ids[0]}; lower learning_rate or look at these images",
                image_ids,
            )

    def _stopped(self, epoch: int) -> str:
        done = self.progress.steps - (epoch - 1) * self.job.epoch_steps
        return f"stopped on request in epoch {epoch} after {done} of {self.job.epoch_steps} steps, which are saved"

    def _non_finite(self, error: NonFinite, epoch: int) -> NonFiniteLoss:
        image_ids = tuple(self.job.train_part.image_ids[row] for row in error.rows)
        return NonFiniteLoss(
            f"{error} in epoch {epoch}, step {self.progress.steps}, on the images {', '.join(image_ids)}; "
            "lower learning_rate or look at these images",
            image_ids,
        )


def weights_of(classifier: Classifier) -> dict[str, torch.Tensor]:
    """A copy of a classifier's state dict on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in classifier.state_dict().items()}
