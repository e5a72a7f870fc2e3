"""One network trial, fitted on pixels: from the records of its train and val parts to the weights of its best epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from platform_assets.vision.networks.models import Classifier, initial_classifier
from platform_assets.vision.recipes.backbones import SizeDoesNotFit
from platform_assets.vision.recipes.resolving import training_pixels
from platform_assets.vision.recipes.train_options import DoesNotTrain
from platform_assets.vision.training.batches import LabelledImages, batches_per_epoch
from platform_assets.vision.training.computing_threads import choose_threads
from platform_assets.vision.training.loading import choose_workers
from platform_assets.vision.training.pixels import Pixels
from platform_assets.vision.training.train import train
from platform_assets.vision.trials.fitting import Fitted, part_labels

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.vision.datasets.label_map import LabelMap
    from platform_assets.vision.datasets.splits import Part
    from platform_assets.vision.machine.devices import Device
    from platform_assets.vision.networks.weight_files import WeightsFile
    from platform_assets.vision.recipes.preprocessing import Preprocessing
    from platform_assets.vision.recipes.resolving import ResolvedTrial
    from platform_assets.vision.recipes.train_options import TrainRecipe
    from platform_assets.vision.training.pace import PaceReport
    from platform_assets.vision.training.state import EpochRow


class TeacherDoesNotFit(DoesNotTrain):
    """A teacher that cannot judge what its student sees: it was trained on other pixels, or takes no other size."""


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Who hears of finished epochs, of the pace every two seconds, and of choices made by measurement."""

    on_epoch: Callable[[EpochRow], None] | None = None
    on_progress: Callable[[PaceReport], None] | None = None
    say: Callable[[str], None] = lambda text: None


def fit_network_trial(
    trial: ResolvedTrial,
    records: pl.DataFrame,
    pixels: Pixels,
    label_map: LabelMap,
    *,
    device: Device,
    work_dir: Path,
    weights: WeightsFile | None = None,
    teacher: Classifier | None = None,
    threads: int | Path | None = None,
    listeners: Listeners | None = None,
) -> Fitted:
    """A network trained from scratch or from pretrained weights; resumes from `work_dir`.

    `weights` is that of `initial_classifier`. `threads` is how many torch computes with on a CPU, or the folder that such
    measurements are kept in. Raises TeacherDoesNotFit, SizeDoesNotFit and what `train` raises.
    """
    assert trial.train is not None
    listeners = listeners or Listeners()
    if teacher is not None:
        _require_same_pixels(teacher, trial.preprocessing, trial.train.distill_from)
    classifier = initial_classifier(trial, len(label_map), weights)
    if trial.train.crop_size_px is not None:
        _require_crops_fit(classifier, teacher, trial.train, trial.train.crop_size_px)
    parts = network_parts(trial, records, pixels, label_map)
    workers = _loading_threads(trial, parts["train"], device, listeners)
    result = train(
        classifier,
        parts["train"],
        parts["val"],
        trial.train,
        metric=trial.metric,
        seed=trial.seed,
        device=device,
        work_dir=work_dir,
        on_epoch=listeners.on_epoch,
        on_progress=listeners.on_progress,
        teacher=teacher,
        workers=workers,
        threads=lambda: _computing_threads(trial, classifier, len(parts["train"]), device, threads, listeners),
    )
    summary: dict[str, float | int | bool] = {
        "best_epoch": result.best_epoch,
        "stopped_early": result.stopped_early,
        "resumed_from_epoch": result.resumed_from_epoch,
        "resumed_from_step": result.resumed_from_step,
        "loading_threads": workers,
        "computing_threads": result.threads,
    }
    return Fitted(classifier, result.history, summary, last=result.last)


def _loading_threads(trial: ResolvedTrial, part: LabelledImages, device: Device, listeners: Listeners) -> int:
    assert trial.train is not None
    workers, rates = choose_workers(part, trial.train, device=device)
    measured = ", ".join(f"{count}: {rate:,.0f}/s" for count, rate in rates.items())
    listeners.say(f"{trial.trial}: {workers} loading threads (images by threads, {measured or 'not worth measuring'})")
    return workers


def _computing_threads(
    trial: ResolvedTrial,
    classifier: Classifier,
    images: int,
    device: Device,
    asked: int | Path | None,
    listeners: Listeners,
) -> int:
    assert trial.train is not None
    if isinstance(asked, int):
        listeners.say(f"{trial.trial}: {asked} computing threads, as asked for")
        return asked
    batches = trial.train.epochs * batches_per_epoch(images, trial.train) * trial.train.accumulate
    threads, why = choose_threads(classifier, trial.train, batches, device=device, folder=asked, say=listeners.say)
    listeners.say(f"{trial.trial}: {threads} computing threads ({why})")
    return threads


def network_parts(
    trial: ResolvedTrial, records: pl.DataFrame, pixels: Pixels, label_map: LabelMap
) -> dict[Part, LabelledImages]:
    """The images of train at the size that crops are cut from, whole; those of val as the classifier will see every image."""
    assert trial.train is not None
    seen = trial.preprocessing
    image_ids, found = records["image_id"].to_numpy(), {}
    shown: tuple[tuple[Part, Preprocessing], ...] = (("train", training_pixels(seen, trial.train)), ("val", seen))
    for part, preprocessing in shown:
        rows, labels_n = part_labels(records, part, label_map)
        images_nchw = pixels.rows(records, rows, preprocessing)
        found[part] = LabelledImages(tuple(image_ids[rows]), images_nchw, labels_n)
    return found


def _require_crops_fit(classifier: Classifier, teacher: Classifier | None, train: TrainRecipe, crop_px: int) -> None:
    """Only the network itself knows whether it takes pictures of another size, so each sees one."""
    said = f"train.crop_size_px {crop_px}"
    if reason := _refuses(classifier, crop_px):
        raise SizeDoesNotFit(
            f"{said}: backbone {classifier.backbone_name!r} takes one size alone ({reason}); remove it"
        )
    if teacher is not None and (reason := _refuses(teacher, crop_px)):
        raise TeacherDoesNotFit(
            f"distill_from {train.distill_from}: the teacher takes one size alone ({reason}); remove {said}"
        )


def _refuses(network: Classifier, side_px: int) -> str | None:
    device = next(network.parameters()).device
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, side_px, side_px, dtype=torch.uint8, device=device))
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        return str(error) or type(error).__name__
    return None


def _require_same_pixels(teacher: Classifier, seen: Preprocessing, said: str | None) -> None:
    apart = {"mean", "std"}
    theirs, ours = teacher.preprocessing.model_dump(exclude=apart), seen.model_dump(exclude=apart)
    if theirs != ours:
        different = {name: (theirs.get(name), value) for name, value in ours.items() if theirs.get(name) != value}
        named = ", ".join(f"{name} {there!r} instead of {here!r}" for name, (there, here) in different.items())
        raise TeacherDoesNotFit(f"distill_from {said}: the teacher sees {named}; take one of the same preprocessing")
