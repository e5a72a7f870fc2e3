"""What the gate measures anew of a candidate: parts, figures, weakest class, speed, and the incumbent beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from platform_assets.vision.evaluation.bootstrap import percentile_interval, resampled_counts, weight_blocks
from platform_assets.vision.evaluation.comparison import mcnemar
from platform_assets.vision.evaluation.gates import ClassFloor, Comparison, Finding, at_least
from platform_assets.vision.evaluation.metrics import Metrics
from platform_assets.vision.evaluation.predictions import predictions_of_part, unit_indices
from platform_assets.vision.evaluation.scores import SCORES, count
from platform_assets.vision.networks.inference import predict
from platform_assets.vision.recipes.resolving import MetricName

if TYPE_CHECKING:
    from platform_assets.vision.networks.models import Classifier

_TOLERANCE = 1e-6  # of a figure that another machine computed
_FITTED_TOLERANCE = 1e-3  # of what a search found there
_LOGITS_ROUNDED, _LOGITS_EQUAL = 0.1, 1e-4
_IMAGES_JUMPED = 0.02
_KEY = ["image_id", "part", "truth"]


def split_faults(predictions: pl.DataFrame, records: pl.DataFrame, fitted_on: pl.Series) -> list[str]:
    """Where the evaluated images are not the val and test parts of the records, each once with its label, or where the
    model was fitted on one of test. `fitted_on` holds the image ids of train."""
    wanted = records.filter(pl.col("split").is_in(["val", "test"])).select(
        "image_id", "path", part="split", truth="label"
    )
    faults = []
    for frame, other, said in (
        (predictions, wanted, "evaluated as {part} with label {truth!r}, the records say otherwise"),
        (wanted, predictions, "in {part} with label {truth!r}, and not evaluated so"),
    ):
        alone = frame.join(other, on=_KEY, how="anti").sort("path")
        if alone.height:
            first = alone.row(0, named=True)
            faults.append(
                f"{alone.height} images are not split as the records are: {first['path']} is {said.format(**first)}"
            )
    if predictions.height != predictions.n_unique("image_id"):
        faults.append(f"{predictions.height} rows are of {predictions.n_unique('image_id')} images; evaluate each once")
    test = predictions.filter(part="test")
    if seen := test.filter(pl.col("image_id").is_in(fitted_on.implode())).height:
        faults.append(f"{seen} images of test are among those that it was fitted on")
    return faults


def prediction_faults(predictions: pl.DataFrame, again: pl.DataFrame, *, jumps: bool = False) -> list[str]:
    """Where logits are not those that the weights give `again`, or labels not those of the logits.

    Another engine or device may change a logit by a tenth of the logits' standard deviation. Where the model `jumps`, as
    trees and votes do at the edge of two answers, one image in fifty may change by more.
    """
    rows = predictions.join(again.select(*_KEY, again="logits"), on=_KEY, maintain_order="left")
    stated_nk, found_nk = (np.array(rows[name].to_list(), dtype=np.float64) for name in ("logits", "again"))
    allowed = max(_LOGITS_ROUNDED * found_nk.std(), _LOGITS_EQUAL)
    wrong_n = np.abs(stated_nk - found_nk).max(axis=1) > allowed
    unlike_n = stated_nk.argmax(axis=1) != rows["prediction_index"].to_numpy()
    if not unlike_n.any() and wrong_n.sum() <= (max(1, _IMAGES_JUMPED * rows.height) if jumps else 0):
        return []
    first = rows.row(int(np.argmax(wrong_n | unlike_n)), named=True)
    said = f"{first['path']}, {first['prediction']!r}, is one"
    return [f"{(wrong_n | unlike_n).sum()} of {rows.height} images have not the logits that the weights give; {said}"]


def row_faults(said: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Columns of the metrics table's row that are not as computed anew; those of another Kestrel's row are left out."""
    return [
        _differs(f"the metrics table says {name}", said[name], value)
        for name, value in found.items()
        if name in said and not _same(said[name], value)
    ]


def file_faults(file: str, said: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a file says in its sections that is not as computed anew."""
    faults = []
    for section, values in found.items():
        told, tolerance = said.get(section, {}), _FITTED_TOLERANCE if section == "calibration" else _TOLERANCE
        for name, value in values.items():
            if not _same(told.get(name), value, tolerance=tolerance):
                faults.append(_differs(f"{file} says {section}.{name}", told.get(name), value))
    return faults


def _differs(what: str, said: Any, found: Any) -> str:
    brief = all(isinstance(each, str | int | float | None) for each in (said, found))
    return f"{what} {said}, the predictions give {found}" if brief else f"{what} other than the predictions give"


def _same(one: Any, other: Any, *, tolerance: float = _TOLERANCE) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name], tolerance=tolerance) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(
            _same(*pair, tolerance=tolerance) for pair in zip(one, other, strict=True)
        )
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= tolerance
    return bool(one == other)


def lowest_class(test: Metrics, floor: ClassFloor) -> Finding:
    """The weakest class of those with enough images; a rule that no class can be judged by is not passed."""
    judged = [entry for entry in test.per_class if entry.images >= floor.min_images]
    scores = {entry.label: getattr(entry, floor.score) for entry in judged}
    if not scores:
        most = max(entry.images for entry in test.per_class)
        said = f"no class has {floor.min_images} images of test, the largest has {most}; lower class_floor.min_images"
        return Finding(rule="class_floor", passed=False, measured=None, threshold=floor.minimum, said=said)
    label = min(scores, key=lambda name: scores[name])
    said = f"{floor.score} of class {label!r} is {scores[label]:.4f}, below its floor {floor.minimum:.4f}"
    return at_least("class_floor", scores[label], floor.minimum, said)


def compare(challenger: pl.DataFrame, incumbent: pl.DataFrame, *, metric: MetricName) -> Comparison:
    """Predictions of two models on the same images of test. Whole groups, those of the challenger's frame, are drawn by
    the bootstrap: images of one are no independent draws. Raises ComparisonError when the images are not the same.
    """
    test = mcnemar(challenger, incumbent)
    one, other = (predictions_of_part(frame, "test").sort("image_id") for frame in (challenger, incumbent))
    truth_n, classes, unit_n = one["truth_index"].to_numpy(), len(one["logits"][0]), unit_indices(one)
    predictions = [frame["prediction_index"].to_numpy() for frame in (one, other)]
    values = [float(SCORES[metric](count(truth_n, prediction_n, classes))) for prediction_n in predictions]
    differences = [
        np.subtract(
            *(SCORES[metric](resampled_counts(truth_n, each, unit_n, classes, weights)) for each in predictions)
        )
        for weights in weight_blocks(int(unit_n.max()) + 1, seed=0)
    ]
    low, high = percentile_interval(np.concatenate(differences))
    return Comparison(
        images=one.height,
        challenger=values[0],
        incumbent=values[1],
        low=low,
        high=high,
        only_challenger=test.only_a,
        only_incumbent=test.only_b,
        p_value=test.p_value,
    )


def latency_ms(classifier: Classifier, *, runs: int = 20, warm_up: int = 3) -> float:
    """Median wall time of one image, pixels to logits, by torch on this CPU; decoding is not in it.

    The gate stands before the export, and this is what there is to time then: the same figure as the row `torch` of the
    export's latency report, which ONNX Runtime as a rule is faster than.
    """
    side = classifier.preprocessing.image_size_px
    image_1chw = np.random.default_rng(0).integers(0, 256, (1, 3, side, side), dtype=np.uint8)
    times_ms = []
    for _ in range(warm_up + runs):
        started = time.perf_counter()
        predict(classifier, image_1chw)
        times_ms.append((time.perf_counter() - started) * 1000)
    return float(np.median(times_ms[warm_up:]))
