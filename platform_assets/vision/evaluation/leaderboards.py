"""All variants of an experiment in one table: ranked on val alone, reported on test with intervals and paired tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from platform_assets.vision.evaluation.bootstrap import percentile_interval, resampled_counts, weight_blocks
from platform_assets.vision.evaluation.comparability import ComparisonError, require_comparable
from platform_assets.vision.evaluation.comparison import SPARSE_AXES, PairedTest, tested
from platform_assets.vision.evaluation.predictions import image_ids_sha256, predictions_of_part, units
from platform_assets.vision.evaluation.scores import SCORES, Floats
from platform_assets.vision.evaluation.significance import holm
from platform_assets.vision.recipes.resolving import MetricName

AXES = ("backbone", "mode", "image_size_px", "patch_px", "parts")
"""What variants differ in beside their recipes."""
Predictions = Mapping[str, pl.DataFrame]
# Figures of a variant against the baseline; null in the baseline's own row.
_AGAINST_BASELINE = pl.Schema(
    {
        **dict.fromkeys(("difference", "difference_low", "difference_high"), pl.Float64),
        **dict.fromkeys(("only_variant", "only_baseline"), pl.Int64),
        **dict.fromkeys(("p_value", "p_holm"), pl.Float64),
    }
)
_OF_TRIALS: dict[str, pl.DataType] = {
    "seed_values": pl.List(pl.Int64),
    "val_values": pl.List(pl.Float64),
    "test_values": pl.List(pl.Float64),
    "spectral_alpha": pl.Float64(),
}


def leaderboard(rows: pl.DataFrame, predictions: Predictions, *, baseline: str, metric: MetricName) -> pl.DataFrame:
    """One row per variant, ranked by its mean val metric; `rows` are `trial_row`s and `predictions` go by trial.

    Figures of the metric: `val_mean`, `val_std`, `test_mean`, `test_std` (over seeds; null for one seed), the value of each
    of `seed_values` in `val_values` and `test_values`, `test_low` and `test_high` (95 % bootstrap of the mean over seeds,
    over images, or over groups where images have groups). Against the baseline, on the seeds both have: `difference` with
    its interval, and `paired_test` of top-1 with `p_value` and, over the variants, `p_holm`. `spectral_alpha` is advice.

    Predictions are asked for once and not kept: a mapping that reads them when asked needs the memory of one trial's.

    Raises ComparisonError when rows are not comparable (comparability.py says in what and how to cure it), and when
    predictions are not those of their row.
    """
    rows = rows.sort("variant", "seed")
    _require_complete(rows, predictions, baseline)
    require_comparable(rows)
    tests = _Tests.of(rows, predictions)
    draws = tests.draws(metric)
    variants = rows.partition_by("variant", as_dict=True, maintain_order=True)
    base = variants[(baseline,)]
    summaries = {name: _summary(trials, metric, draws) for (name,), trials in variants.items()}
    others = {
        name: _against(trials, base, tests, metric, draws) for (name,), trials in variants.items() if name != baseline
    }
    for against, p_holm in zip(others.values(), holm([each["p_value"] for each in others.values()]), strict=True):
        against["p_holm"] = p_holm
    none = dict.fromkeys(_AGAINST_BASELINE)
    table = pl.DataFrame(
        [summary | none | others.get(name, {}) for name, summary in summaries.items()], infer_schema_length=None
    )
    ranked = table.cast(_AGAINST_BASELINE | SPARSE_AXES | _OF_TRIALS).sort(
        ["val_mean", "val_loss", "variant"], descending=[True, False, False]
    )
    return ranked.with_row_index("rank", offset=1)


def _require_complete(rows: pl.DataFrame, predictions: Predictions, baseline: str) -> None:
    names = sorted(rows["variant"].unique().to_list())
    if baseline not in names:
        raise ComparisonError(
            f"baseline {baseline!r} is not among the variants {names}; materialize it or name another"
        )
    if twice := rows.filter(pl.col("trial").is_duplicated())["trial"].to_list():
        raise ComparisonError(f"trial {twice[0]!r} stands in {len(twice)} rows; keep one metrics row per trial")
    if missing := sorted(set(rows["trial"]) - set(predictions)):
        raise ComparisonError(f"no predictions of the trials {missing}; materialize them")


@dataclass(frozen=True)
class _Test:
    """The test images of one trial, by their numbers in all trials' images: truth, prediction and unit of each."""

    image_n: NDArray[Any]
    unit_n: NDArray[Any]
    truth_n: NDArray[Any]
    prediction_n: NDArray[Any]

    @cached_property
    def right_n(self) -> NDArray[np.bool_]:
        return np.asarray(self.truth_n == self.prediction_n)

    @property
    def classes(self) -> int:
        """Those up to the last that occurs; no score looks at others."""
        return int(max(self.truth_n.max(), self.prediction_n.max())) + 1


class _Images:
    """The test images of the trials met so far, numbered as they came; an image has one truth and one unit."""

    def __init__(self) -> None:
        texts = dict.fromkeys(("image_id", "truth", "unit"), pl.String)
        self._known = pl.DataFrame(schema={"image": pl.UInt32, **texts})

    def numbers(self, test: pl.DataFrame) -> NDArray[np.uint32]:
        """Of each row. Raises ComparisonError where an earlier trial had another truth."""
        rows = test.select("image_id", "truth", units(test))
        new = rows.join(self._known, on="image_id", how="anti", maintain_order="left")
        self._known = pl.concat([self._known, new.with_row_index("image", offset=self._known.height)])
        known = rows.join(self._known, on="image_id", suffix="_known", maintain_order="left")
        if (differ := known.filter(pl.col("truth") != pl.col("truth_known"))).height:
            one, other = sorted(differ.select("truth", "truth_known").row(0))
            raise ComparisonError(
                f"image {differ['image_id'][0]} is {one!r} and {other!r}; materialize the older trial again"
            )
        return known["image"].to_numpy()

    def unit_indices(self) -> NDArray[np.int32]:
        """The unit of each image, as numbers in the order of the units' names."""
        return (self._known["unit"].rank("dense").cast(pl.Int32) - 1).to_numpy()


@dataclass(frozen=True)
class _Tests:
    """The tests of all trials, which share the resamples."""

    units: int
    unit_of_image: NDArray[Any]
    by_trial: dict[str, _Test]

    @classmethod
    def of(cls, rows: pl.DataFrame, predictions: Predictions) -> _Tests:
        """Raises ComparisonError when predictions are not those of their row."""
        images, found = _Images(), {}
        for trial, ids_sha256 in rows.select("trial", "test_ids_sha256").rows():
            test = predictions_of_part(predictions[trial], "test")
            if image_ids_sha256(test["image_id"]) != ids_sha256:
                raise ComparisonError(
                    f"predictions of {trial!r} are not those of its metrics row; materialize the trial again"
                )
            found[trial] = images.numbers(test), test["truth_index"].to_numpy(), test["prediction_index"].to_numpy()
        unit_i = images.unit_indices()
        by_trial = {trial: _Test(image_n, unit_i[image_n], *said) for trial, (image_n, *said) in found.items()}
        return cls(int(unit_i.max()) + 1, unit_i, by_trial)

    def draws(self, metric: MetricName) -> dict[str, Floats]:
        """The metric of each trial under the same resamples of the units."""
        found: dict[str, list[Floats]] = {trial: [] for trial in self.by_trial}
        for weights_ud in weight_blocks(self.units, seed=0):
            for trial, test in self.by_trial.items():
                counts = resampled_counts(test.truth_n, test.prediction_n, test.unit_n, test.classes, weights_ud)
                with np.errstate(invalid="ignore"):  # percentile_interval names what has no image in a resample
                    found[trial].append(SCORES[metric](counts))
        return {trial: np.concatenate(blocks) for trial, blocks in found.items()}

    def paired(self, pairs: list[tuple[str, str]]) -> PairedTest:
        """As `comparison.paired_test` of their predictions."""
        lead_i = np.zeros(len(self.unit_of_image), dtype=np.int64)
        for mine, theirs in pairs:
            for trial, sign in ((mine, 1), (theirs, -1)):
                test = self.by_trial[trial]
                lead_i[test.image_n] += sign * test.right_n
        lead_u = np.zeros(self.units, dtype=np.int64)
        np.add.at(lead_u, self.unit_of_image, lead_i)
        return tested(int((lead_u > 0).sum()), int((lead_u < 0).sum()))


def _summary(trials: pl.DataFrame, metric: MetricName, draws: Mapping[str, Floats]) -> dict[str, Any]:
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
        "seed_values": trials["seed"].to_list(),
        "val_values": trials[f"val_{metric}"].to_list(),
        "test_values": trials[f"test_{metric}"].to_list(),
        "test_top1_mean": trials["test_top1"].mean(),
        "test_macro_f1_mean": trials["test_macro_f1"].mean(),
        "test_macro_f1_std": trials["test_macro_f1"].std(),
        "spectral_alpha": trials["spectral_alpha"].mean(),
    }


def _against(
    trials: pl.DataFrame, base: pl.DataFrame, tests: _Tests, metric: MetricName, draws: Mapping[str, Floats]
) -> dict[str, Any]:
    both = trials.join(base, on="seed", suffix="_base", maintain_order="left")
    if both.is_empty():
        raise ComparisonError(
            f"variants {trials['variant'][0]!r} and {base['variant'][0]!r} share no seed; give both the same seeds"
        )
    pairs = both.select("trial", "trial_base").rows()
    low, high = percentile_interval(np.mean([draws[mine] - draws[theirs] for mine, theirs in pairs], axis=0))
    test = tests.paired(pairs)
    return {
        "difference": (both[f"test_{metric}"] - both[f"test_{metric}_base"]).mean(),
        "difference_low": low,
        "difference_high": high,
        "only_variant": test.only_a,
        "only_baseline": test.only_b,
        "p_value": test.p_value,
    }
