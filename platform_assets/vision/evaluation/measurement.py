"""The figures of one part and their intervals, computed from logits and truths. Frames are evaluation.py's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.splits import Part
from platform_assets.vision.evaluation import scores
from platform_assets.vision.evaluation.bootstrap import (
    Weights,
    error_interval,
    interval_where_defined,
    resampled,
    resampled_counts,
    sums_by_unit,
)
from platform_assets.vision.evaluation.metrics import HEADLINES, ClassMetrics, CoarseMetrics, Interval, Metrics
from platform_assets.vision.evaluation.probability_scores import (
    brier_of_images,
    calibration_error,
    calibration_gaps,
)
from platform_assets.vision.evaluation.ranking_scores import (
    Rankings,
    RankingTerms,
    mean_where_defined,
    ranking_terms,
    rankings,
    resampled_rankings,
)
from platform_assets.vision.evaluation.scores import Counts, Floats
from platform_assets.vision.recipes.evaluation_rules import CoarseLabels, EvaluationRules, rolled_up


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One part as arrays: the logits, truth and prediction of each image, and the unit that it is resampled with."""

    logits_nk: NDArray[np.float32]
    truth_n: NDArray[Any]
    prediction_n: NDArray[Any]
    unit_n: NDArray[Any]
    rules: EvaluationRules

    @property
    def classes(self) -> int:
        return int(self.logits_nk.shape[1])

    @property
    def units(self) -> int:
        return int(self.unit_n.max()) + 1

    @cached_property
    def log_probabilities_nk(self) -> NDArray[np.float64]:
        """Unlike probabilities they have no ties where a classifier is sure."""
        return scores.log_softmax(self.logits_nk)

    @cached_property
    def probabilities_nk(self) -> NDArray[np.float64]:
        return np.exp(self.log_probabilities_nk)

    @cached_property
    def of_images(self) -> dict[str, NDArray[Any]]:
        """What is averaged over the images."""
        rows = np.arange(len(self.truth_n))
        found: dict[str, NDArray[Any]] = {
            "top5": scores.top_k_hits(self.logits_nk, self.truth_n, 5),
            "loss": -self.log_probabilities_nk[rows, self.truth_n],
            "brier": brier_of_images(self.probabilities_nk, self.truth_n),
        }
        if self.rules.costs_kk is not None:
            found["cost"] = self.rules.costs_kk[self.truth_n, self.prediction_n]
            found["worst_cost"] = self.rules.costs_kk.max(axis=1)[self.truth_n]
        if self.rules.coarse is not None:
            of_class_k = self.rules.coarse.of_class_k
            found["coarse_top1"] = of_class_k[self.truth_n] == of_class_k[self.prediction_n]
        return found

    @cached_property
    def ranking_terms(self) -> RankingTerms:
        return ranking_terms(self.log_probabilities_nk, self.truth_n)

    @cached_property
    def confidence_n(self) -> NDArray[np.float64]:
        return np.asarray(self.probabilities_nk.max(axis=1))

    @cached_property
    def right_n(self) -> NDArray[np.bool_]:
        return np.asarray(self.truth_n == self.prediction_n)


def metrics_of(
    evaluated: Evaluated, label_map: LabelMap, *, part: Part, image_ids_sha256: str, seed: int = 0
) -> Metrics:
    """The figures of a part that has images; `seed` is that of the bootstrap."""
    truth_n, prediction_n, classes = evaluated.truth_n, evaluated.prediction_n, evaluated.classes
    counts = scores.count(truth_n, prediction_n, classes)
    confusion_kk = np.bincount(truth_n.astype(np.int64) * classes + prediction_n, minlength=classes * classes)
    confusion_kk = confusion_kk.reshape(classes, classes)
    means = {name: values_n.mean() for name, values_n in evaluated.of_images.items()}
    ranked = rankings(evaluated.ranking_terms, truth_n, classes)
    figures = _figures(counts, means)
    figures |= {"macro_auroc": mean_where_defined(ranked.auroc), "macro_ap": mean_where_defined(ranked.ap)}
    figures["ece"] = np.asarray(calibration_error(evaluated.confidence_n, evaluated.right_n))
    found = {name: _or_none(value) for name, value in figures.items()}
    intervals = _intervals(evaluated, figures, seed)
    return Metrics(
        part=part,
        images=len(truth_n),
        units=evaluated.units,
        image_ids_sha256=image_ids_sha256,
        label_map_checksum=label_map.checksum,
        **{name: found.get(name) for name in (*HEADLINES, "mean_cost")},
        **{f"{name}_interval": intervals.get(name) for name in HEADLINES},
        coarse=_coarse(confusion_kk, evaluated.rules.coarse, intervals.get("coarse_top1")),
        per_class=_per_class(counts, ranked, label_map),
        confusion=_rows(confusion_kk),
    )


def _figures(counts: Counts, means: dict[str, Any]) -> dict[str, Floats]:
    """By name, one value each; or one a draw, where counts and means have draws."""
    found: dict[str, Floats] = {
        "top1": scores.top1(counts),
        "balanced_accuracy": scores.balanced_accuracy(counts),
        "macro_f1": scores.macro_f1(counts),
        "micro_f1": scores.micro_f1(counts),
        **{name: np.asarray(means[name]) for name in ("top5", "loss", "brier", "coarse_top1") if name in means},
    }
    if "cost" in means:
        found["mean_cost"] = np.asarray(means["cost"])
        with np.errstate(invalid="ignore"):  # where no mistake costs anything
            found["cost_accuracy"] = np.asarray(1 - np.asarray(means["cost"]) / means["worst_cost"])
    return found


def _intervals(evaluated: Evaluated, figures: dict[str, Floats], seed: int) -> dict[str, Interval | None]:
    sums_um = _sums_of_units(evaluated)
    drawn = resampled(lambda weights_ud: _resampled(evaluated, sums_um, weights_ud), evaluated.units, seed=seed)
    found = {name: interval_where_defined(values_d) for name, values_d in drawn.items()}
    return found | {"ece": error_interval(drawn["ece"], float(figures["ece"]))}


def _sums_of_units(evaluated: Evaluated) -> NDArray[np.float32]:
    """[units, columns]: `of_images`, the number of images, and the gaps of ECE's bins."""
    columns = [*evaluated.of_images.values(), np.ones(len(evaluated.truth_n))]
    gaps_nb = calibration_gaps(evaluated.confidence_n, evaluated.right_n)
    return sums_by_unit(np.hstack([np.stack(columns, axis=1), gaps_nb]), evaluated.unit_n, evaluated.units)


def _resampled(evaluated: Evaluated, sums_um: NDArray[np.float32], weights_ud: Weights) -> dict[str, Floats]:
    sums_md = (sums_um.T @ weights_ud).astype(np.float64)
    names = list(evaluated.of_images)
    images_d, gaps_bd = sums_md[len(names)], sums_md[len(names) + 1 :]
    means = dict(zip(names, sums_md[: len(names)] / images_d, strict=True))
    truth_n, prediction_n, unit_n = evaluated.truth_n, evaluated.prediction_n, evaluated.unit_n
    counts = resampled_counts(truth_n, prediction_n, unit_n, evaluated.classes, weights_ud)
    auroc_d, ap_d = resampled_rankings(evaluated.ranking_terms, truth_n, unit_n, counts.truths, weights_ud)
    ece_d = np.abs(gaps_bd).sum(axis=0) / images_d
    return {**_figures(counts, means), "macro_auroc": auroc_d, "macro_ap": ap_d, "ece": ece_d}


def _coarse(confusion_kk: NDArray[Any], coarse: CoarseLabels | None, interval: Interval | None) -> CoarseMetrics | None:
    if coarse is None or interval is None:
        return None
    confusion_cc = rolled_up(confusion_kk, coarse)
    counts = Counts(confusion_cc.diagonal(), confusion_cc.sum(axis=1), confusion_cc.sum(axis=0))
    wrong = confusion_kk.sum() - confusion_kk.trace()
    return CoarseMetrics(
        labels=coarse.names,
        top1=float(scores.top1(counts)),
        top1_interval=interval,
        macro_f1=float(scores.macro_f1(counts)),
        mistakes_within=float((confusion_cc.trace() - confusion_kk.trace()) / wrong) if wrong else None,
        confusion=_rows(confusion_cc),
    )


def _per_class(counts: Counts, ranked: Rankings, label_map: LabelMap) -> tuple[ClassMetrics, ...]:
    rows = zip(label_map.names, *(column.tolist() for column in counts), *ranked, strict=True)
    return tuple(
        ClassMetrics(
            label=label,
            images=truths,
            predicted=predicted,
            precision=hits / predicted if predicted else None,
            recall=hits / truths if truths else None,
            f1=2 * hits / (truths + predicted) if truths + predicted else None,
            auroc=_or_none(auroc),
            ap=_or_none(ap),
        )
        for label, hits, truths, predicted, auroc, ap in rows
    )


def _or_none(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _rows(matrix: NDArray[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())
