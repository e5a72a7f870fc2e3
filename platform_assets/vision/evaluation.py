"""The predictions of one trial and the figures computed from them. Trials are compared in comparison.py."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from platform_assets.vision.calibration import CALIBRATION_BINS, calibration_error
from platform_assets.vision.label_map import LabelMap
from platform_assets.vision.scores import (
    Counts,
    EvaluationError,
    balanced_accuracy,
    bootstrap_weights,
    count,
    cross_entropy,
    log_softmax,
    macro_f1,
    percentile_interval,
    resampled_counts,
    top1,
    top_k,
)
from platform_assets.vision.splits import Part

if TYPE_CHECKING:
    from platform_assets.vision.devices import Device
    from platform_assets.vision.models import Classifier


class ClassMetrics(BaseModel):
    """One class in one part. A figure is None where its denominator is zero."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    images: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


class Metrics(BaseModel):
    """The figures of one trial on one part, fractions from 0 to 1 except `loss` (nats).

    `top5` is top-min(5, classes). `macro_f1` averages over the classes present in truth or predictions,
    `balanced_accuracy` over those present in truth. `ece` has 15 equal bins. The intervals are 95 % percentile
    bootstraps over images. `confusion` has the truth in rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    part: Part
    images: int
    image_ids_sha256: str
    label_map_checksum: str
    top1: float
    top1_interval: tuple[float, float]
    top5: float
    balanced_accuracy: float
    macro_f1: float
    macro_f1_interval: tuple[float, float]
    loss: float
    ece: float
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]


def predict(
    classifier: Classifier, images_nchw: NDArray[np.uint8], *, device: Device = "cpu", batch_size: int = 64
) -> NDArray[np.float32]:
    """logits_nk in evaluation mode; the classifier is left in the mode it was in."""
    import torch

    from platform_assets.vision.models import place

    was_training = classifier.training
    place(classifier, device).eval()
    logits_nk = np.empty((len(images_nchw), classifier.num_classes), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(images_nchw), batch_size):
            # A copy: images may lie in a file that is read only.
            images_bchw = torch.from_numpy(images_nchw[start : start + batch_size].copy()).to(device)
            logits_nk[start : start + batch_size] = classifier(images_bchw).cpu().numpy()
    classifier.train(was_training)
    return logits_nk


def predictions_frame(rows: pl.DataFrame, logits_nk: NDArray[np.float32], label_map: LabelMap) -> pl.DataFrame:
    """One row per evaluated image: `rows` (image_id, path, part, label) with what the logits say of them.

    A tie goes to the class with the smaller index. Raises EvaluationError on a non-finite logit, naming the image.
    """
    _require_logits_fit(rows, logits_nk, label_map)
    names = np.asarray(label_map.names, dtype=object)
    truth_n = np.asarray([label_map.index(label) for label in rows["label"]], dtype=np.int32)
    prediction_n = logits_nk.argmax(axis=1).astype(np.int32)
    probabilities_nk = np.exp(log_softmax(logits_nk)).astype(np.float32)
    return rows.select("image_id", "path", "part", truth="label").with_columns(
        pl.Series("prediction", names[prediction_n].tolist(), dtype=pl.String),
        pl.Series("truth_index", truth_n),
        pl.Series("prediction_index", prediction_n),
        pl.Series("correct", truth_n == prediction_n),
        pl.Series("confidence", probabilities_nk.max(axis=1)),
        pl.Series("logits", logits_nk).cast(pl.List(pl.Float32)),
        pl.Series("probabilities", probabilities_nk).cast(pl.List(pl.Float32)),
    )


def _require_logits_fit(rows: pl.DataFrame, logits_nk: NDArray[np.float32], label_map: LabelMap) -> None:
    wanted = (rows.height, len(label_map.names))
    if logits_nk.shape != wanted:
        raise EvaluationError(
            f"logits have shape {logits_nk.shape} and {wanted} (images, classes) are needed; predict the same rows"
        )
    broken = np.flatnonzero(~np.isfinite(logits_nk).all(axis=1))
    if broken.size:
        paths = ", ".join(rows["path"].gather(broken[:5]).to_list())
        raise EvaluationError(
            f"{broken.size} of {rows.height} images have non-finite logits: {paths}; "
            "the model diverged, lower its learning rate"
        )


def compute_metrics(predictions: pl.DataFrame, label_map: LabelMap, part: Part, *, seed: int = 0) -> Metrics:
    """The figures of one part of a predictions frame; `seed` is that of the bootstrap."""
    chosen = predictions_of_part(predictions, part)
    _require_same_labels(chosen, label_map)
    classes = len(label_map.names)
    logits_nk, truth_n = logits_and_truth(chosen, part)
    prediction_n = chosen["prediction_index"].to_numpy()
    counts = count(truth_n, prediction_n, classes)
    draws = resampled_counts(truth_n, prediction_n, classes, bootstrap_weights(chosen.height, seed=seed))
    return Metrics(
        part=part,
        images=chosen.height,
        image_ids_sha256=image_ids_sha256(chosen["image_id"]),
        label_map_checksum=label_map.checksum,
        top1=float(top1(counts)),
        top1_interval=percentile_interval(top1(draws)),
        top5=top_k(logits_nk, truth_n, 5),
        balanced_accuracy=float(balanced_accuracy(counts)),
        macro_f1=float(macro_f1(counts)),
        macro_f1_interval=percentile_interval(macro_f1(draws)),
        loss=cross_entropy(logits_nk, truth_n),
        ece=calibration_error(chosen["confidence"].cast(pl.Float64).to_numpy(), truth_n == prediction_n),
        per_class=_per_class(counts, label_map),
        confusion=_confusion(truth_n, prediction_n, classes),
    )


def predictions_of_part(predictions: pl.DataFrame, part: Part) -> pl.DataFrame:
    """The rows of one part; EvaluationError when there are none or one image stands there twice."""
    chosen = predictions.filter(pl.col("part") == part)
    if chosen.is_empty():
        found = predictions["part"].value_counts(sort=True).rows()
        raise EvaluationError(f"part {part!r}: no predictions (rows by part: {found}); give the split images there")
    twice = chosen.filter(pl.col("image_id").is_duplicated())
    if twice.height:
        raise EvaluationError(
            f"part {part!r}: image {twice['image_id'][0]} ({twice['path'][0]}) stands there more than once; "
            "predict it once"
        )
    return chosen


def logits_and_truth(predictions: pl.DataFrame, part: Part) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """logits_nk and truth_n of one part, in the order of its rows."""
    chosen = predictions_of_part(predictions, part)
    return chosen["logits"].explode().to_numpy().reshape(chosen.height, -1), chosen["truth_index"].to_numpy()


def _require_same_labels(chosen: pl.DataFrame, label_map: LabelMap) -> None:
    for name, index in chosen.select("truth", "truth_index").unique().sort("truth_index").rows():
        if index >= len(label_map.names) or label_map.names[index] != name:
            raise EvaluationError(
                f"predictions hold label {name!r} at index {index}, the label map does not; "
                "use the trial's own label map"
            )
    widths = chosen["logits"].list.len().unique().to_list()
    if widths != [len(label_map.names)]:
        raise EvaluationError(f"predictions hold {widths} logits an image, the label map {len(label_map.names)} names")


def reliability_bins(predictions: pl.DataFrame, part: Part) -> pl.DataFrame:
    """Equal bins of confidence, [low, high) with 1.0 in the last: images, mean confidence, accuracy.

    An empty bin has no row.
    """
    index = (pl.col("confidence") * CALIBRATION_BINS).floor().clip(0, CALIBRATION_BINS - 1).cast(pl.Int32)
    bins = (
        predictions_of_part(predictions, part)
        .group_by(bin=index)
        .agg(
            images=pl.len(), confidence=pl.col("confidence").cast(pl.Float64).mean(), accuracy=pl.col("correct").mean()
        )
    )
    edges = {"low": pl.col("bin") / CALIBRATION_BINS, "high": (pl.col("bin") + 1) / CALIBRATION_BINS}
    return bins.sort("bin").select(**edges, images="images", confidence="confidence", accuracy="accuracy")


def _per_class(counts: Counts, label_map: LabelMap) -> tuple[ClassMetrics, ...]:
    rows = zip(label_map.names, *(column.tolist() for column in counts), strict=True)
    return tuple(
        ClassMetrics(
            label=label,
            images=truths,
            predicted=predicted,
            precision=hits / predicted if predicted else None,
            recall=hits / truths if truths else None,
            f1=2 * hits / (truths + predicted) if truths + predicted else None,
        )
        for label, hits, truths, predicted in rows
    )


def _confusion(truth_n: NDArray[Any], prediction_n: NDArray[Any], classes: int) -> tuple[tuple[int, ...], ...]:
    cells = np.bincount(truth_n.astype(np.int64) * classes + prediction_n, minlength=classes * classes)
    return tuple(tuple(row) for row in cells.reshape(classes, classes).tolist())


def image_ids_sha256(image_ids: Iterable[str]) -> str:
    """SHA-256 of the sorted ids: two trials with the same value were evaluated on the same images."""
    return hashlib.sha256("\n".join(sorted(image_ids)).encode()).hexdigest()
