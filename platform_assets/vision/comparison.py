"""Trials side by side: ranked and chosen on val alone, reported on test with paired statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from platform_assets.vision.calibration import CalibrationReport
from platform_assets.vision.evaluation import Metrics, image_ids_sha256, predictions_of_part
from platform_assets.vision.long_tail import ShotAccuracy
from platform_assets.vision.recipes import MetricName, ResolvedTrial
from platform_assets.vision.scores import SCORES, bootstrap_weights, percentile_interval, resampled_counts
from platform_assets.vision.splits import Part

AXES = ("backbone", "mode", "image_size_px", "patch_px", "parts")
"""What variants differ in beside their recipes."""
REPORTED_CERTAINTY = ("adaptive_ece", "covered", "mean_set_size", "answered", "answered_right")
REPORTED_SCORES = ("top1", "top5", "balanced_accuracy", "macro_f1", "loss", "ece")
Predictions = Mapping[str, pl.DataFrame]
# Figures of a variant against the baseline; null in the baseline's own row.
_AGAINST_BASELINE = pl.Schema(
    {
        **dict.fromkeys(("difference", "difference_low", "difference_high"), pl.Float64),
        **dict.fromkeys(("only_variant", "only_baseline"), pl.Int64),
        **dict.fromkeys(("p_value", "p_holm"), pl.Float64),
    }
)

_SPARSE_AXES = {"patch_px": pl.Int64(), "parts": pl.String()}


class ComparisonError(ValueError):
    """Trials that cannot be compared fairly."""


class PairedTest(NamedTuple):
    """Images that only one of two sides got right, and the two-sided p-value that both are equally good at top-1."""

    only_a: int
    only_b: int
    p_value: float


class Champion(BaseModel):
    """The chosen trial and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: str
    variant: str
    seed: int
    val_metric: float
    reason: str


def trial_row(
    trial: ResolvedTrial,
    *,
    val: Metrics,
    test: Metrics,
    shots: ShotAccuracy,
    certainty: CalibrationReport,
    checkpoint_id: str,
    parameters: int,
    train_seconds: float,
) -> pl.DataFrame:
    """The one row of a trial in the metrics table: its `val_` and `test_` scores, the images they are of, the cost.

    `shots` is that of test: null where no class has so many, or so few, train images. `certainty` is that of test after
    calibration on val.
    """
    row: dict[str, Any] = {
        "trial": trial.trial,
        "variant": trial.variant,
        "seed": trial.seed,
        "backbone": trial.backbone,
        "mode": trial.mode,
        "image_size_px": trial.preprocessing.image_size_px,
        "patch_px": trial.architecture.patch_px if trial.architecture else None,
        "parts": trial.parts.selector if trial.parts else None,
        "config_hash": trial.config_hash,
        "checkpoint_id": checkpoint_id,
        "label_map_checksum": trial.label_map_checksum,
        "parameters": parameters,
        "train_seconds": train_seconds,
    }
    for metrics in (val, test):
        row |= {f"{metrics.part}_{name}": getattr(metrics, name) for name in REPORTED_SCORES}
        row |= {f"{metrics.part}_images": metrics.images, f"{metrics.part}_ids_sha256": metrics.image_ids_sha256}
    for name in ("top1", "macro_f1"):
        row[f"test_{name}_low"], row[f"test_{name}_high"] = getattr(test, f"{name}_interval")
    shown = {f"test_accuracy_{kind}": value for kind, value in shots.model_dump().items()}
    shown |= {f"test_{name}": getattr(certainty, name) for name in REPORTED_CERTAINTY}
    types = _SPARSE_AXES | dict.fromkeys(shown, pl.Float64())
    return pl.DataFrame([row | shown], schema_overrides=types)


def mcnemar(a: pl.DataFrame, b: pl.DataFrame, *, part: Part = "test") -> PairedTest:
    """The exact test of McNemar (1947) on two predictions frames; ComparisonError unless they hold the same images."""
    return paired_test([(a, b)], part=part)


def paired_test(pairs: Sequence[tuple[pl.DataFrame, pl.DataFrame]], *, part: Part = "test") -> PairedTest:
    """Two variants over several seeds, the image being the unit.

    An image counts for the side that got it right under more seeds; the counts go into an exact sign test. With one
    pair this is McNemar's test. Pooling (image, seed) rows instead would count one image as several.
    """
    from scipy.stats import binomtest

    joined = pl.concat([_paired(a, b, part) for a, b in pairs])
    lead_n = joined.group_by("image_id").agg(pl.col("lead").sum())["lead"]
    only_a, only_b = int((lead_n > 0).sum()), int((lead_n < 0).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return PairedTest(only_a, only_b, p_value)


def _paired(a: pl.DataFrame, b: pl.DataFrame, part: Part) -> pl.DataFrame:
    """Per image: 1 when only `a` got it right, -1 when only `b` did, else 0."""
    mine, other = predictions_of_part(a, part), predictions_of_part(b, part)
    joined = mine.join(other, on="image_id", suffix="_b", maintain_order="left")
    if joined.height != mine.height or joined.height != other.height:
        raise ComparisonError(
            f"part {part!r}: {mine.height} and {other.height} images with {joined.height} in common; "
            "a paired test needs the same images, evaluate both on one dataset version"
        )
    differ = joined.filter(pl.col("truth") != pl.col("truth_b"))
    if differ.height:
        raise ComparisonError(f"image {differ['image_id'][0]} is {differ['truth'][0]!r} and {differ['truth_b'][0]!r}")
    return joined.select("image_id", lead=pl.col("correct").cast(pl.Int32) - pl.col("correct_b").cast(pl.Int32))


def leaderboard(rows: pl.DataFrame, predictions: Predictions, *, baseline: str, metric: MetricName) -> pl.DataFrame:
    """One row per variant, ranked by its mean val metric; `rows` are `trial_row`s and `predictions` go by trial.

    Figures of the metric: `val_mean`, `val_std`, `test_mean`, `test_std` (over seeds; null for one seed), `test_low`
    and `test_high` (95 % bootstrap over images of the mean over seeds). Against the baseline, on the seeds both have:
    `difference` with its interval, and `paired_test` of top-1 with `p_value` and, over the variants, `p_holm`.

    Raises ComparisonError when trials of one seed saw other images, or label maps differ.
    """
    rows = rows.sort("variant", "seed")
    _require_comparable(rows, predictions, baseline)
    draws = _bootstrap(rows, predictions, metric)
    variants = rows.partition_by("variant", as_dict=True, maintain_order=True)
    base = variants[(baseline,)]
    summaries = {name: _summary(trials, metric, draws) for (name,), trials in variants.items()}
    others = {
        name: _against(trials, base, predictions, metric, draws)
        for (name,), trials in variants.items()
        if name != baseline
    }
    p_values = [against["p_value"] for against in others.values()]
    for against, p_holm in zip(others.values(), holm(p_values), strict=True):
        against["p_holm"] = p_holm
    none = dict.fromkeys(_AGAINST_BASELINE)
    table = pl.DataFrame(
        [summary | none | others.get(name, {}) for name, summary in summaries.items()], infer_schema_length=None
    )
    ranked = table.cast(_AGAINST_BASELINE | _SPARSE_AXES).sort(
        ["val_mean", "val_loss", "variant"], descending=[True, False, False]
    )
    return ranked.with_row_index("rank", offset=1)


def _require_comparable(rows: pl.DataFrame, predictions: Predictions, baseline: str) -> None:
    names = sorted(rows["variant"].unique().to_list())
    if baseline not in names:
        raise ComparisonError(
            f"baseline {baseline!r} is not among the variants {names}; materialize it or name another"
        )
    if twice := rows.filter(pl.col("trial").is_duplicated())["trial"].to_list():
        raise ComparisonError(f"trial {twice[0]!r} stands in {len(twice)} rows; keep one metrics row per trial")
    if missing := sorted(set(rows["trial"]) - predictions.keys()):
        raise ComparisonError(f"no predictions of the trials {missing}; materialize them")
    _require_one(rows, "label_map_checksum", "label maps")
    for trials in rows.partition_by("seed", maintain_order=True):
        for part in ("val", "test"):
            _require_one(trials, f"{part}_ids_sha256", f"{part} images under seed {trials['seed'][0]}")
    for trial, ids_sha256 in rows.select("trial", "test_ids_sha256").rows():
        if image_ids_sha256(predictions_of_part(predictions[trial], "test")["image_id"]) != ids_sha256:
            raise ComparisonError(
                f"predictions of {trial!r} are not those of its metrics row; materialize the trial again"
            )


def _require_one(rows: pl.DataFrame, column: str, what: str) -> None:
    for (trial, value), (other, other_value) in pairwise(rows.select("trial", column).rows()):
        if value != other_value:
            raise ComparisonError(
                f"{trial!r} and {other!r} have different {what} ({value[:12]} and {other_value[:12]}): "
                "their scores cannot be compared; materialize both on one dataset version"
            )


def _bootstrap(rows: pl.DataFrame, predictions: Predictions, metric: MetricName) -> dict[str, NDArray[Any]]:
    """The test metric of each trial under the same resamples of the images."""
    tests = {trial: predictions_of_part(predictions[trial], "test") for trial in rows["trial"]}
    images = pl.concat([test.select("image_id") for test in tests.values()]).unique().sort("image_id").with_row_index()
    draws = {}
    for trial, test in tests.items():
        at_n = test.join(images, on="image_id", maintain_order="left")["index"].to_numpy()
        truth_n, prediction_n = test["truth_index"].to_numpy(), test["prediction_index"].to_numpy()
        weights = (weight[at_n] for weight in bootstrap_weights(images.height, seed=0))
        draws[trial] = SCORES[metric](resampled_counts(truth_n, prediction_n, len(test["logits"][0]), weights))
    return draws


def _summary(trials: pl.DataFrame, metric: MetricName, draws: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    low, high = percentile_interval(np.mean([draws[trial] for trial in trials["trial"]], axis=0))
    first = trials.row(0, named=True)
    return {
        **{name: first[name] for name in ("variant", *AXES, "parameters")},
        "train_seconds": trials["train_seconds"].mean(),
        "seeds": trials.height,
        "metric": metric,
        "val_mean": trials[f"val_{metric}"].mean(),
        "val_std": trials[f"val_{metric}"].std(),
        "val_loss": trials["val_loss"].mean(),
        "test_mean": trials[f"test_{metric}"].mean(),
        "test_std": trials[f"test_{metric}"].std(),
        "test_low": low,
        "test_high": high,
        "test_top1_mean": trials["test_top1"].mean(),
        "test_macro_f1_mean": trials["test_macro_f1"].mean(),
        "test_macro_f1_std": trials["test_macro_f1"].std(),
    }


def _against(
    trials: pl.DataFrame,
    base: pl.DataFrame,
    predictions: Predictions,
    metric: MetricName,
    draws: Mapping[str, NDArray[Any]],
) -> dict[str, Any]:
    both = trials.join(base, on="seed", suffix="_base", maintain_order="left")
    if both.is_empty():
        raise ComparisonError(
            f"variants {trials['variant'][0]!r} and {base['variant'][0]!r} share no seed; give both the same seeds"
        )
    pairs = both.select("trial", "trial_base").rows()
    low, high = percentile_interval(np.mean([draws[mine] - draws[theirs] for mine, theirs in pairs], axis=0))
    test = paired_test([(predictions[mine], predictions[theirs]) for mine, theirs in pairs])
    return {
        "difference": (both[f"test_{metric}"] - both[f"test_{metric}_base"]).mean(),
        "difference_low": low,
        "difference_high": high,
        "only_variant": test.only_a,
        "only_baseline": test.only_b,
        "p_value": test.p_value,
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979): the smallest times m, the next times m - 1, never falling."""
    order = np.argsort(p_values)
    stepped = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(value) for value in adjusted]


def choose_champion(rows: pl.DataFrame, *, metric: MetricName) -> Champion:
    """The best variant by mean val metric, then its best seed; equals go to the lower val loss. Test has no say."""
    if rows.is_empty():
        raise ComparisonError("there are no trials to choose from; materialize the metrics first")
    score, best_first = f"val_{metric}", [True, False, False]
    means = rows.group_by("variant").agg(pl.col(score, "val_loss").mean(), seeds=pl.len())
    means = means.sort([score, "val_loss", "variant"], descending=best_first)
    variant, mean, _, seeds = means.row(0)
    trials = rows.filter(pl.col("variant") == variant).sort([score, "val_loss", "seed"], descending=best_first)
    chosen = trials.row(0, named=True)
    runner_up = f"; next is {means['variant'][1]!r} with {means[score][1]:.4f}" if means.height > 1 else ""
    return Champion(
        trial=chosen["trial"],
        variant=variant,
        seed=chosen["seed"],
        val_metric=chosen[score],
        reason=(
            f"{variant!r} has the highest mean val {metric}, {mean:.4f} over {seeds} seed(s){runner_up}. "
            f"Of its seeds {chosen['seed']} is the highest with {chosen[score]:.4f}. The test part had no say."
        ),
    )
