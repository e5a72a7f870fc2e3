"""What a calibration is worth on images that it was not fitted on, with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from platform_assets.vision.datasets.splits import Part
from platform_assets.vision.evaluation.bootstrap import (
    Weights,
    error_interval,
    interval_where_defined,
    resampled,
    sums_by_unit,
)
from platform_assets.vision.evaluation.calibration import Calibration, softmax
from platform_assets.vision.evaluation.conformal import coverage_band
from platform_assets.vision.evaluation.metrics import Interval
from platform_assets.vision.evaluation.predictions import logits_and_truth, predictions_of_part, unit_indices
from platform_assets.vision.evaluation.probability_scores import CALIBRATION_BINS, calibration_gaps
from platform_assets.vision.evaluation.scores import Floats, log_softmax

_MEANS = ("loss_before", "loss", "covered", "mean_set_size", "answered")
_ERRORS = ("ece_before", "ece", "adaptive_ece_before", "adaptive_ece")


class CalibrationReport(BaseModel):
    """`ece` has 15 equal bins, `adaptive_ece` 15 of as many images each; `_before` is without the temperature.

    `covered_low` and `covered_high` are where `covered` lies 95 times in 100 when val and these images are of one kind. It is
    above where the likeliest label alone is right more often than the coverage asks: a set always has it.
    `answered_right` is None where nothing is answered.

    Intervals are 95 % bootstraps of these images, or groups of them, with the calibration as it is and bins where they are:
    percentiles, those of the errors reflected. None where a resample answers nothing, and in files of older versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    images: int
    loss_before: float
    loss_before_interval: Interval | None = None
    loss: float
    loss_interval: Interval | None = None
    ece_before: float
    ece_before_interval: Interval | None = None
    ece: float
    ece_interval: Interval | None = None
    adaptive_ece_before: float
    adaptive_ece_before_interval: Interval | None = None
    adaptive_ece: float
    adaptive_ece_interval: Interval | None = None
    covered: float
    covered_interval: Interval | None = None
    covered_low: float
    covered_high: float
    mean_set_size: float
    mean_set_size_interval: Interval | None = None
    answered: float
    answered_interval: Interval | None = None
    answered_right: float | None
    answered_right_interval: Interval | None = None


def report_of(calibration: Calibration, predictions: pl.DataFrame, part: Part = "test") -> CalibrationReport:
    """Of one part of a predictions frame, resampled by its groups."""
    unit_n = unit_indices(predictions_of_part(predictions, part))
    return report(calibration, *logits_and_truth(predictions, part), unit_n=unit_n)


def report(
    calibration: Calibration,
    logits_nk: Floats,
    truth_n: NDArray[Any],
    *,
    unit_n: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> CalibrationReport:
    """`unit_n`: what each image is resampled with, numbers from 0; there are no intervals without it. `seed` is theirs."""
    columns_nm = _columns(calibration, logits_nk, truth_n)
    figures = {name: value.item() for name, value in _figures(columns_nm.sum(axis=0)[:, None]).items()}
    intervals = (
        {} if unit_n is None else _intervals(sums_by_unit(columns_nm, unit_n, int(unit_n.max()) + 1), figures, seed)
    )
    low, high = coverage_band(calibration.images, len(truth_n), calibration.coverage)
    found: dict[str, Any] = {name: value if np.isfinite(value) else None for name, value in figures.items()}
    return CalibrationReport(images=len(truth_n), covered_low=low, covered_high=high, **found, **intervals)


def _intervals(sums_um: NDArray[np.float32], figures: dict[str, float], seed: int) -> dict[str, Interval | None]:
    def figures_of(weights_ud: Weights) -> dict[str, Floats]:
        return _figures((sums_um.T @ weights_ud).astype(np.float64))

    drawn = resampled(figures_of, len(sums_um), seed=seed)
    errors = {name: error_interval(drawn.pop(name), figures[name]) for name in _ERRORS}
    found = {name: interval_where_defined(values_d) for name, values_d in drawn.items()} | errors
    return {f"{name}_interval": interval for name, interval in found.items()}


def _columns(calibration: Calibration, logits_nk: Floats, truth_n: NDArray[Any]) -> NDArray[np.float64]:
    """[n, columns]: 1, _MEANS, whether it is answered rightly, and the gaps of the bins of _ERRORS, all to be summed."""
    before_nk, after_nk = softmax(logits_nk), calibration.probabilities(logits_nk)
    right_n, sets_nk = after_nk.argmax(axis=1) == truth_n, calibration.label_sets(after_nk)
    answered_n, rows = calibration.answers(after_nk), np.arange(len(truth_n))
    losses = [-log_softmax(logits_nk / temperature)[rows, truth_n] for temperature in (1.0, calibration.temperature)]
    columns = [
        np.ones(len(rows)),
        *losses,
        sets_nk[rows, truth_n],
        sets_nk.sum(axis=1),
        answered_n,
        answered_n & right_n,
    ]
    gaps = [
        calibration_gaps(probabilities_nk.max(axis=1), right_n, adaptive=adaptive)
        for adaptive in (False, True)
        for probabilities_nk in (before_nk, after_nk)
    ]
    return np.hstack([np.stack(columns, axis=1), *gaps])


def _figures(sums_md: NDArray[np.float64]) -> dict[str, Floats]:
    """Of the sums of the columns, one a draw."""
    images_d, means_md, answered_right_d, gaps_md = np.split(sums_md, np.cumsum([1, len(_MEANS), 1]))
    found: dict[str, Floats] = dict(zip(_MEANS, means_md / images_d, strict=True))
    errors = (
        np.abs(gaps_bd).sum(axis=0) / images_d[0] for gaps_bd in gaps_md.reshape(-1, CALIBRATION_BINS, sums_md.shape[1])
    )
    found |= dict(zip(_ERRORS, errors, strict=True))
    with np.errstate(invalid="ignore"):  # where nothing is answered
        found["answered_right"] = (answered_right_d / means_md[-1])[0]
    return found
