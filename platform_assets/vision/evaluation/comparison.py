"""Two trials side by side by paired tests, the one metrics row of a trial, and the choice of a champion on val alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict

from platform_assets.vision.datasets.splits import Part
from platform_assets.vision.evaluation.calibration_report import CalibrationReport
from platform_assets.vision.evaluation.comparability import Comparability
from platform_assets.vision.evaluation.comparability import ComparisonError as ComparisonError
from platform_assets.vision.evaluation.long_tail import ShotAccuracy
from platform_assets.vision.evaluation.metrics import HEADLINES, Interval, Metrics
from platform_assets.vision.evaluation.predictions import predictions_of_part, units
from platform_assets.vision.evaluation.significance import sign_test
from platform_assets.vision.recipes.resolving import MetricName, ResolvedTrial

REPORTED_CERTAINTY = ("adaptive_ece", "covered", "mean_set_size", "answered", "answered_right")
SPARSE_AXES = {"patch_px": pl.Int64(), "parts": pl.String()}


class PairedTest(NamedTuple):
    """Units (images, or groups of them) on which only one of two sides was better, and the two-sided p-value that both
    are equally good at top-1."""

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
    comparability: Comparability,
    checkpoint_id: str,
    parameters: int,
    train_seconds: float,
    spectral_alpha: float | None = None,
) -> pl.DataFrame:
    """The one row of a trial in the metrics table: its `val_` and `test_` scores, the images they are of, the cost.

    `test_<score>_low` and `_high` are the 95 % interval. `shots` is that of test: null where no class has so many, or so
    few, train images. `certainty` is that of test after calibration on val. `spectral_alpha` is advice.
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
        "parameters": parameters,
        "train_seconds": train_seconds,
        "val_images": val.images,
        "test_images": test.images,
        **comparability.columns,
    }
    shown: dict[str, float | None] = {"spectral_alpha": spectral_alpha}
    for metrics in (val, test):
        shown |= {f"{metrics.part}_{name}": value for name, value in _scores(metrics).items()}
    for name, interval in (_intervals(test) | _certainty_intervals(certainty)).items():
        shown[f"test_{name}_low"], shown[f"test_{name}_high"] = interval or (None, None)
    shown |= {f"test_accuracy_{kind}": value for kind, value in shots.model_dump().items()}
    shown |= {f"test_{name}": getattr(certainty, name) for name in REPORTED_CERTAINTY}
    types = SPARSE_AXES | dict.fromkeys(shown, pl.Float64())
    return pl.DataFrame([row | shown], schema_overrides=types)


def _scores(metrics: Metrics) -> dict[str, float | None]:
    coarse = metrics.coarse.top1 if metrics.coarse else None
    return {**{name: getattr(metrics, name) for name in (*HEADLINES, "mean_cost")}, "coarse_top1": coarse}


def _intervals(metrics: Metrics) -> dict[str, Interval | None]:
    coarse = metrics.coarse.top1_interval if metrics.coarse else None
    return {**{name: getattr(metrics, f"{name}_interval") for name in HEADLINES}, "coarse_top1": coarse}


def _certainty_intervals(certainty: CalibrationReport) -> dict[str, Interval | None]:
    return {name: getattr(certainty, f"{name}_interval") for name in REPORTED_CERTAINTY}


def mcnemar(a: pl.DataFrame, b: pl.DataFrame, *, part: Part = "test") -> PairedTest:
    """The exact test of McNemar (1947) on two predictions frames; ComparisonError unless they hold the same images."""
    return paired_test([(a, b)], part=part)


def paired_test(pairs: Sequence[tuple[pl.DataFrame, pl.DataFrame]], *, part: Part = "test") -> PairedTest:
    """Two variants over several seeds, the image being the unit, or the group where images have groups.

    A unit counts for the side that got more of it right, over all seeds; the counts go into an exact sign test. With one
    pair and no groups this is McNemar's test. Pooling (image, seed) rows instead would count one image as several, and
    the images of a group are not independent either.
    """
    leads = pl.concat([_leads(a, b, part) for a, b in pairs]).group_by("unit").agg(pl.col("lead").sum())["lead"]
    return tested(int((leads > 0).sum()), int((leads < 0).sum()))


def tested(only_a: int, only_b: int) -> PairedTest:
    return PairedTest(only_a, only_b, float(sign_test(only_a, only_b)))


def _leads(a: pl.DataFrame, b: pl.DataFrame, part: Part) -> pl.DataFrame:
    """Per image its unit, and 1 when only `a` got it right, -1 when only `b` did, else 0."""
    mine, other = predictions_of_part(a, part), predictions_of_part(b, part)
    joined = mine.with_columns(units(mine)).join(other, on="image_id", suffix="_b", maintain_order="left")
    if joined.height != mine.height or joined.height != other.height:
        raise ComparisonError(
            f"part {part!r}: {mine.height} and {other.height} images with {joined.height} in common; "
            "a paired test needs the same images, evaluate both on one dataset version"
        )
    differ = joined.filter(pl.col("truth") != pl.col("truth_b"))
    if differ.height:
        raise ComparisonError(f"image {differ['image_id'][0]} is {differ['truth'][0]!r} and {differ['truth_b'][0]!r}")
    return joined.select("unit", lead=pl.col("correct").cast(pl.Int32) - pl.col("correct_b").cast(pl.Int32))


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
