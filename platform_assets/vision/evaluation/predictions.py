"""The predictions of one trial as rows, and the figures of one part of them. Trials are compared in comparison.py."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.splits import Part
from platform_assets.vision.evaluation.measurement import Evaluated, metrics_of
from platform_assets.vision.evaluation.metrics import Metrics
from platform_assets.vision.evaluation.probability_scores import CALIBRATION_BINS
from platform_assets.vision.evaluation.scores import EvaluationError, log_softmax
from platform_assets.vision.recipes.evaluation_rules import EvaluationRules


def predictions_frame(rows: pl.DataFrame, logits_nk: NDArray[np.float32], label_map: LabelMap) -> pl.DataFrame:
    """One row per evaluated image: `rows` (image_id, path, part, label) with what the logits say of them.

    `group`, if `rows` have it, names images that are not independent of each other; null for an image by itself. A tie goes
    to the class with the smaller index. Raises EvaluationError on a non-finite logit, naming the image.
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
        rows["group"] if "group" in rows.columns else pl.lit(None, pl.String).alias("group"),
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


def compute_metrics(
    predictions: pl.DataFrame,
    label_map: LabelMap,
    part: Part,
    *,
    rules: EvaluationRules | None = None,
    seed: int = 0,
) -> Metrics:
    """The figures of one part of a predictions frame; `seed` is that of the bootstrap."""
    chosen = predictions_of_part(predictions, part)
    _require_same_labels(chosen, label_map)
    logits_nk, truth_n = logits_and_truth(chosen, part)
    evaluated = Evaluated(
        logits_nk=logits_nk,
        truth_n=truth_n,
        prediction_n=chosen["prediction_index"].to_numpy(),
        unit_n=unit_indices(chosen),
        rules=rules or EvaluationRules(),
    )
    ids = image_ids_sha256(chosen["image_id"])
    return metrics_of(evaluated, label_map, part=part, image_ids_sha256=ids, seed=seed)


def units(predictions: pl.DataFrame) -> pl.Series:
    """What each image is resampled with: its group, or itself. Tables written before there were groups have none."""
    if "group" not in predictions.columns:
        return predictions["image_id"].alias("unit")
    return predictions.select(unit=pl.coalesce("group", "image_id"))["unit"]


def unit_indices(predictions: pl.DataFrame) -> NDArray[np.int64]:
    """The same as numbers from 0, in the order of first appearance."""
    found = units(predictions)
    return found.replace_strict(found.unique(maintain_order=True), np.arange(found.n_unique())).to_numpy()


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


def image_ids_sha256(image_ids: Iterable[str]) -> str:
    """SHA-256 of the sorted ids: two trials with the same value were evaluated on the same images."""
    return hashlib.sha256("\n".join(sorted(image_ids)).encode()).hexdigest()
