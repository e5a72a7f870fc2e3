"""Leaderboards: fair or refused, ranked on val, tested on test."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from platform_assets.vision.calibration import CalibrationReport, calibrate, report
from platform_assets.vision.comparison import (
    ComparisonError,
    choose_champion,
    holm,
    leaderboard,
    mcnemar,
    paired_test,
    trial_row,
)
from platform_assets.vision.evaluation import compute_metrics, logits_and_truth, predictions_frame
from platform_assets.vision.label_map import LabelMap
from platform_assets.vision.long_tail import ShotAccuracy
from platform_assets.vision.recipes import Protocol, resolve_trial
from platform_assets.vision.uncertainty_options import UncertaintyOptions
from platform_assets.vision.variants import Variant

AB = LabelMap(names=("a", "b"))
PROTOCOL = Protocol(dataset="letters", experiment="e", metric="top1", label_map_checksum=AB.checksum)
IMAGES = 40

Trial = tuple[pl.DataFrame, pl.DataFrame]


def _predictions(val_right: int, test_right: int, *, images: int = IMAGES, shift: int = 0) -> pl.DataFrame:
    """Predictions with the given numbers right, from image `shift` on; half of the images are of each class."""
    frames = []
    for part, right in (("val", val_right), ("test", test_right)):
        ids = [f"{part}{number:03}" for number in range(images)]
        truth_n = np.arange(images) % 2
        wrong_n = (np.arange(images) - shift) % images >= right
        logits_nk = np.eye(2, dtype=np.float32)[np.where(wrong_n, 1 - truth_n, truth_n)] * 3
        rows = pl.DataFrame({"image_id": ids, "path": ids, "part": part, "label": [AB.names[i] for i in truth_n]})
        frames.append(predictions_frame(rows, logits_nk, AB))
    return pl.concat(frames)


def _certainty(predictions: pl.DataFrame) -> CalibrationReport:
    fitted = calibrate(*logits_and_truth(predictions, "val"), UncertaintyOptions())
    return report(fitted, *logits_and_truth(predictions, "test"))


CNN = Variant(backbone="baseline_cnn", mode="scratch")


def _trial(name: str, seed: int, predictions: pl.DataFrame, variant: Variant = CNN) -> Trial:
    trial = resolve_trial(variant, name=name, seed=seed, protocol=PROTOCOL)
    val, test = (compute_metrics(predictions, AB, part) for part in ("val", "test"))
    shots = ShotAccuracy(many=test.top1, medium=None, few=None)
    row = trial_row(
        trial,
        val=val,
        test=test,
        shots=shots,
        certainty=_certainty(predictions),
        checkpoint_id="00" * 8,
        parameters=10,
        train_seconds=2.0 + seed,
    )
    return row, predictions


def _experiment(trials: list[Trial]) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    return pl.concat([row for row, _ in trials]), {row["trial"][0]: frame for row, frame in trials}


def _three_variants() -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """`good` is the best on val, `lucky` on test; `base` is neither."""
    scores = {"base": (20, 20), "good": (36, 30), "lucky": (24, 38)}
    return _experiment(
        [
            _trial(variant, seed, _predictions(val + seed, test + seed))
            for variant, (val, test) in scores.items()
            for seed in (0, 1)
        ]
    )


def test_leaderboard__ranks_by_val_and_never_by_test() -> None:
    board = leaderboard(*_three_variants(), baseline="base", metric="top1")
    assert board.select("rank", "variant").rows() == [(1, "good"), (2, "lucky"), (3, "base")]
    assert board["val_mean"].to_list() == pytest.approx([36.5 / 40, 24.5 / 40, 20.5 / 40])
    assert board["test_mean"].to_list() == pytest.approx([30.5 / 40, 38.5 / 40, 20.5 / 40])
    assert board["seeds"].to_list() == [2, 2, 2]
    assert board["test_std"].to_list() == pytest.approx([np.std([0, 1 / 40], ddof=1)] * 3)
    assert board["train_seconds"].to_list() == [2.5] * 3
    assert ((board["test_low"] < board["test_mean"]) & (board["test_mean"] < board["test_high"])).all()


def test_leaderboard__axes_of_the_variants_stand_beside_each_other() -> None:
    vit = {"backbone": "vit_small_patch16_224.augreg_in21k", "mode": "scratch", "parts": {"selector": "glsim"}}
    base = _trial("base", 0, _predictions(20, 20))
    rows, predictions = _experiment([base, _trial("vit", 0, _predictions(30, 20), Variant.model_validate(vit))])
    board = leaderboard(rows, predictions, baseline="base", metric="top1")
    sizes = dict(rows.select("variant", "image_size_px").rows())
    assert board.select("variant", "image_size_px", "patch_px", "parts").rows() == [
        ("vit", sizes["vit"], 16, "glsim"),
        ("base", sizes["base"], None, None),
    ]
    assert (board.schema["patch_px"], board.schema["parts"]) == (pl.Int64, pl.String)


def test_leaderboard__difference_to_the_baseline_with_interval_and_test() -> None:
    board = leaderboard(*_three_variants(), baseline="base", metric="top1")
    good, lucky, base = board.to_dicts()
    assert good["difference"] == pytest.approx(10 / 40)
    assert lucky["difference"] == pytest.approx(18 / 40)
    assert good["difference_low"] < 10 / 40 < good["difference_high"]
    # Seed 0 differs on images 20 to 29, seed 1 on 21 to 30: eleven images, all won.
    assert (good["only_variant"], good["only_baseline"]) == (11, 0)
    assert good["p_value"] == pytest.approx(2 * 0.5**11)
    assert good["p_holm"] == good["p_value"]
    assert lucky["p_holm"] == pytest.approx(2 * lucky["p_value"])
    assert [base[name] for name in ("difference", "difference_low", "p_value", "p_holm", "only_variant")] == [None] * 5


@pytest.mark.parametrize("metric", ["top1", "macro_f1", "balanced_accuracy"])
def test_leaderboard__one_variant_and_one_seed_has_nulls_and_no_nan(metric: str) -> None:
    rows, predictions = _experiment([_trial("only", 0, _predictions(30, 30))])
    board = leaderboard(rows, predictions, baseline="only", metric=metric)  # type: ignore[arg-type]
    row = board.row(0, named=True)
    assert row["val_std"] is None
    assert row["test_std"] is None
    assert row["p_value"] is None
    assert not any(isinstance(value, float) and np.isnan(value) for value in row.values())
    assert board.schema["p_value"] == pl.Float64


def test_leaderboard__interval_of_identical_variants_is_zero() -> None:
    trials = [_trial(variant, 0, _predictions(20, 20)) for variant in ("base", "twin")]
    twin = leaderboard(*_experiment(trials), baseline="base", metric="top1").filter(variant="twin").row(0, named=True)
    assert (twin["difference"], twin["difference_low"], twin["difference_high"]) == (0, 0, 0)
    assert twin["p_value"] == twin["p_holm"] == 1.0


def test_leaderboard__seeds_may_have_splits_of_their_own() -> None:
    """The part is drawn anew under each seed; only trials of one seed must share it."""
    trials = []
    for seed in (0, 1):
        for variant, right in (("base", 20), ("good", 30)):
            frame = _predictions(right, right).with_columns(image_id=pl.col("image_id") + f"-{seed}")
            trials.append(_trial(variant, seed, frame))
    good = leaderboard(*_experiment(trials), baseline="base", metric="top1").row(0, named=True)
    assert (good["variant"], good["only_variant"]) == ("good", 20)


def test_leaderboard__compares_on_the_seeds_both_have() -> None:
    trials = [_trial("base", 0, _predictions(20, 20)), _trial("good", 0, _predictions(30, 30))]
    more = [*trials, _trial("good", 1, _predictions(30, 40))]
    good = leaderboard(*_experiment(more), baseline="base", metric="top1").row(0, named=True)
    assert (good["seeds"], good["difference"]) == (2, pytest.approx(10 / 40))
    none_shared = [trials[0], _trial("good", 1, _predictions(30, 30))]
    with pytest.raises(ComparisonError, match="'good' and 'base' share no seed"):
        leaderboard(*_experiment(none_shared), baseline="base", metric="top1")


@pytest.mark.parametrize("part", ["val", "test"])
def test_leaderboard__refuses_other_images_under_one_seed(part: str) -> None:
    other = _predictions(20, 20).with_columns(
        image_id=pl.when(part=part, image_id=f"{part}003").then(pl.lit("stranger")).otherwise("image_id")
    )
    trials = [_trial("base", 0, _predictions(20, 20)), _trial("other", 0, other)]
    with pytest.raises(ComparisonError, match=f"'base__s0' and 'other__s0' have different {part} images under seed 0"):
        leaderboard(*_experiment(trials), baseline="base", metric="top1")


def test_leaderboard__refuses_what_is_not_of_one_experiment() -> None:
    rows, predictions = _three_variants()
    cases = [
        (rows, predictions, "nobody", "baseline 'nobody' is not among the variants"),
        (pl.concat([rows, rows[:1]]), predictions, "base", "stands in 2 rows"),
        (rows, {"base__s0": predictions["base__s0"]}, "base", "no predictions of the trials"),
        (
            rows.with_columns(
                label_map_checksum=pl.when(variant="good").then(pl.lit("x" * 64)).otherwise(pl.lit("y" * 64))
            ),
            predictions,
            "base",
            "different label maps",
        ),
        (
            rows,
            predictions | {"base__s0": _predictions(20, 20, images=38)},
            "base",
            "predictions of 'base__s0' are not those of its metrics row",
        ),
    ]
    for some_rows, some_predictions, baseline, said in cases:
        with pytest.raises(ComparisonError, match=said):
            leaderboard(some_rows, some_predictions, baseline=baseline, metric="top1")


def test_leaderboard__does_not_depend_on_the_order_of_the_rows() -> None:
    rows, predictions = _three_variants()
    first = leaderboard(rows, predictions, baseline="base", metric="top1")
    again = leaderboard(rows.reverse(), dict(reversed(predictions.items())), baseline="base", metric="top1")
    assert first.equals(again)


def test_mcnemar__by_hand() -> None:
    # a: images 0 to 24 right. b: images 15 to 34 right. Fifteen only a, ten only b.
    a, b = _predictions(0, 25), _predictions(0, 20, shift=15)
    result = mcnemar(a, b)
    assert (result.only_a, result.only_b) == (15, 10)
    assert result.p_value == pytest.approx(2 * binom.cdf(10, 25, 0.5))
    assert mcnemar(b, a).p_value == result.p_value
    assert mcnemar(a, a) == (0, 0, 1.0)


def test_mcnemar__refuses_other_images_or_truths() -> None:
    a = _predictions(20, 20)
    with pytest.raises(ComparisonError, match="40 and 38 images with 38 in common"):
        mcnemar(a, _predictions(20, 20, images=38))
    relabelled = a.with_columns(truth=pl.lit("a"))
    with pytest.raises(ComparisonError, match="image test001 is 'b' and 'a'"):
        mcnemar(a, relabelled)


def test_paired_test__a_seed_more_is_no_image_more() -> None:
    """Rows of (image, seed) counted one image as several: three equal seeds then cubed the p-value."""
    pair = (_predictions(0, 26), _predictions(0, 20))
    assert paired_test([pair] * 3) == paired_test([pair])


@given(st.lists(st.floats(0, 1), min_size=0, max_size=8))
def test_holm__never_smaller_and_in_the_same_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(1 >= after >= before for before, after in zip(p_values, adjusted, strict=True))
    assert all(adjusted[i] <= adjusted[j] for i, p in enumerate(p_values) for j, q in enumerate(p_values) if p < q)


def test_holm__by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_choose_champion__by_val_alone() -> None:
    rows, _ = _three_variants()
    champion = choose_champion(rows, metric="top1")
    assert (champion.trial, champion.variant, champion.seed) == ("good__s1", "good", 1)
    assert champion.val_metric == pytest.approx(37 / 40)
    assert "'good' has the highest mean val top1, 0.9125 over 2 seed(s); next is 'lucky'" in champion.reason
    upside_down = rows.with_columns(pl.col("^test_.*$").exclude("test_ids_sha256") * -1)
    assert choose_champion(upside_down, metric="top1") == champion


def test_choose_champion__equals_go_to_the_lower_val_loss_then_the_name() -> None:
    rows, _ = _experiment([_trial(variant, 0, _predictions(30, 30)) for variant in ("b", "a", "c")])
    assert choose_champion(rows, metric="top1").variant == "a"
    cheaper = rows.with_columns(val_loss=pl.when(variant="c").then(0.1).otherwise("val_loss"))
    assert choose_champion(cheaper, metric="top1").variant == "c"
    with pytest.raises(ComparisonError, match="no trials to choose from"):
        choose_champion(rows.clear(), metric="top1")
