"""One training as one call: a classifier, two parts and a recipe in, the best weights out; it resumes where it was ended."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import torch
from torch import nn

from platform_assets.vision.machine.devices import Device
from platform_assets.vision.machine.interruption import sigterm_exits
from platform_assets.vision.machine.precision import require_precision
from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.networks.weights import weights_sha256
from platform_assets.vision.recipes.resolving import MetricName
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.batches import LabelledImages
from platform_assets.vision.training.computing_threads import computing_threads
from platform_assets.vision.training.distributed import ALONE, require_devices
from platform_assets.vision.training.job import Job, Listener
from platform_assets.vision.training.loop import finished, out_of_patience, run_training
from platform_assets.vision.training.pace import PaceReport
from platform_assets.vision.training.state import EpochRow, Progress, fingerprint_of
from platform_assets.vision.training.step import Teacher, kept

SAVE_EVERY_SECONDS = 60.0
# Raised when the loop's arithmetic changes, so that a state of the old one is not gone on from.
_LOOP_REVISION = 3


class TeacherMismatch(ValueError):
    """A teacher without distill_from in the recipe, or the reverse."""


@dataclass(frozen=True)
class TrainResult:
    """How a training went, the calls before a resumption included.

    `history` has one row per epoch (see EpochRow), `gradient_norm` with `clip_norm` alone. `best` and `last` are state
    dicts on the CPU, of the best epoch on val and of the last one; with `ema_decay` both are moving averages.
    """

    history: pl.DataFrame
    best_epoch: int
    stopped_early: bool
    resumed_from_epoch: int
    resumed_from_step: int
    threads: int
    best: dict[str, torch.Tensor]
    last: dict[str, torch.Tensor]


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
    on_progress: Callable[[PaceReport], None] | None = None,
    stop_requested: Callable[[], bool] | None = None,
    teacher: Teacher | None = None,
    workers: int = 0,
    threads: Callable[[], int] = torch.get_num_threads,
    save_every_seconds: float = SAVE_EVERY_SECONDS,
) -> TrainResult:
    """Train `classifier` in place and leave it with the weights of its best epoch on val, in evaluation mode.

    The whole state is saved in `work_dir` every `save_every_seconds`, after each epoch, and when a stop request, an error
    between two steps, Ctrl-C or SIGTERM ends the training; a later call with the same arguments goes on from there and on
    a CPU ends with the same weights, bit for bit. State of another training is passed over.

    `on_epoch` hears of the epochs of this call alone, after they are saved; `on_progress` every two seconds. `teacher`
    gives logits for the very images the classifier sees, augmented, as 0 to 255; give a torch module, so that another
    teacher's training is not gone on from. `workers` threads load ahead, which changes no result. `threads` is asked how
    many torch is to compute with, all ranks together, when a training begins: other numbers give other last bits, so one
    that is gone on with keeps its own. With `devices` over 1 ranks are other processes; callbacks are called here.

    Raises PrecisionNotSupported, NotEnoughDevices, NotOfThisBackbone and TeacherMismatch before the first step, then
    NonFiniteLoss, TrainingOutOfMemory, RankFailed, and TrainingStopped soon after `stop_requested` says so.
    """
    require_precision(recipe, device)
    require_devices(recipe, device)
    _require_teacher(recipe, teacher)
    work_dir.mkdir(parents=True, exist_ok=True)
    job = Job(
        classifier=classifier,
        train_part=train_part,
        val_part=val_part,
        recipe=recipe,
        metric=metric,
        seed=seed,
        device=device,
        work_dir=work_dir,
        fingerprint="",
        teacher=teacher,
        workers=workers,
        save_every_seconds=save_every_seconds,
    )
    job = replace(job, fingerprint=_fingerprint(job))
    saved = job.state.load()
    resumed_from = saved[0] if saved else Progress(threads=threads())
    job = replace(job, threads=resumed_from.threads)
    if not finished(resumed_from, job):
        listener = Listener(on_epoch or _ignored, on_progress or _ignored, stop_requested or _never)
        with sigterm_exits(), computing_threads(job.threads):
            _run(job, listener)
    return _result(job, resumed_from)


def _run(job: Job, listener: Listener) -> None:
    if job.recipe.devices == 1:
        run_training(job, listener, ALONE)
        return
    from platform_assets.vision.training.rank_processes import run_ranks

    run_ranks(job, listener)


def _result(job: Job, resumed_from: Progress) -> TrainResult:
    """From the saved state, into which every process of a training has put its end."""
    saved = job.state.load()
    assert saved is not None, f"no state in {job.work_dir} after its training"
    progress, tensors = saved
    # Copies: what is loaded is a view of the file.
    best, last = ({name: tensor.clone() for name, tensor in of.items()} for of in (tensors["best"], kept(tensors)))
    job.classifier.load_state_dict(best)
    job.classifier.eval()
    history = pl.DataFrame([row.model_dump() for row in progress.history])
    return TrainResult(
        history=history if job.recipe.clip_norm is not None else history.drop("gradient_norm"),
        best_epoch=progress.best_epoch,
        stopped_early=out_of_patience(progress, job.recipe) and progress.epoch < job.recipe.epochs,
        resumed_from_epoch=resumed_from.epoch,
        resumed_from_step=resumed_from.steps,
        threads=progress.threads,
        best=best,
        last=last,
    )


def _ignored(_: object) -> None:
    """Nobody listens."""


def _never() -> bool:
    return False


def _require_teacher(recipe: TrainRecipe, teacher: Teacher | None) -> None:
    if recipe.distill_from is None and teacher is not None:
        raise TeacherMismatch("a teacher is given and the recipe has no distill_from; set it, or give no teacher")
    if recipe.distill_from is not None and teacher is None:
        raise TeacherMismatch(
            f"distill_from {recipe.distill_from!r} is set and no teacher is given; load it and give it"
        )


def _fingerprint(job: Job) -> str:
    """What the final weights follow from, the torch version included."""
    return fingerprint_of(
        {
            "start": weights_sha256(job.classifier),
            "preprocessing": job.classifier.preprocessing.preprocessing_id,
            "train": _part_sha256(job.train_part),
            "val": _part_sha256(job.val_part),
            "recipe": job.recipe.model_dump(mode="json"),
            "teacher": weights_sha256(job.teacher) if isinstance(job.teacher, nn.Module) else None,
            "metric": job.metric,
            "seed": job.seed,
            "device": job.device,
            "torch": torch.__version__,
            "loop": _LOOP_REVISION,
        }
    )


def _part_sha256(part: LabelledImages) -> str:
    return hashlib.sha256("\n".join(part.image_ids).encode() + part.labels_n.tobytes()).hexdigest()
