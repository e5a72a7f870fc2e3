"""Leaderboards: fair or refused, ranked on val, tested on test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar
from weakref import ref

import numpy as np
import polars as pl
import pytest

from platform_assets.vision.evaluation.comparability import ComparisonError
from platform_assets.vision.evaluation.comparison import paired_test
from platform_assets.vision.evaluation.leaderboards import leaderboard
from platform_assets.vision.recipes.variants import Variant
from platform_tests.vision.trial_rows import experiment_of, predictions_of, three_variants, trial_of


def test_leaderboard__ranks_by_val_and_never_by_test() -> None:
    board = leaderboard(*three_variants(), baseline="base", metric="top1")
    assert board.select("rank", "variant").rows() == [(1, "good"), (2, "lucky"), (3, "base")]
    assert board["val_mean"].to_list() == pytest.approx([36.5 / 40, 24.5 / 40, 20.5 / 40])
    assert board["test_mean"].to_list() == pytest.approx([30.5 / 40, 38.5 / 40, 20.5 / 40])
    assert board["seeds"].to_list() == [2, 2, 2]
    assert board["test_std"].to_list() == pytest.approx([np.std([0, 1 / 40], ddof=1)] * 3)
    assert board["train_seconds"].to_list() == [2.5] * 3
    assert ((board["test_low"] < board["test_mean"]) & (board["test_mean"] < board["test_high"])).all()


def test_leaderboard__axes_of_the_variants_stand_beside_each_other() -> None:
    vit = {"backbone": "vit_small_patch16_224.augreg_in21k", "mode": "scratch", "parts": {"selector": "glsim"}}
    base = trial_of("base", 0, predictions_of(20, 20))
    rows, predictions = experiment_of([base, trial_of("vit", 0, predictions_of(30, 20), Variant.model_validate(vit))])
    board = leaderboard(rows, predictions, baseline="base", metric="top1")
    sizes = dict(rows.select("variant", "image_size_px").rows())
    assert board.select("variant", "image_size_px", "patch_px", "parts").rows() == [
        ("vit", sizes["vit"], 16, "glsim"),
        ("base", sizes["base"], None, None),
    ]
    assert (board.schema["patch_px"], board.schema["parts"]) == (pl.Int64, pl.String)


def test_leaderboard__difference_to_the_baseline_with_interval_and_test() -> None:
    board = leaderboard(*three_variants(), baseline="base", metric="top1")
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
    rows, predictions = experiment_of([trial_of("only", 0, predictions_of(30, 30))])
    board = leaderboard(rows, predictions, baseline="only", metric=metric)  # type: ignore[arg-type]
    row = board.row(0, named=True)
    assert row["val_std"] is None
    assert row["test_std"] is None
    assert row["p_value"] is None
    assert not any(isinstance(value, float) and np.isnan(value) for value in row.values())
    assert board.schema["p_value"] == pl.Float64


def test_leaderboard__interval_of_identical_variants_is_zero() -> None:
    trials = [trial_of(variant, 0, predictions_of(20, 20)) for variant in ("base", "twin")]
    twin = leaderboard(*experiment_of(trials), baseline="base", metric="top1").filter(variant="twin").row(0, named=True)
    assert (twin["difference"], twin["difference_low"], twin["difference_high"]) == (0, 0, 0)
    assert twin["p_value"] == twin["p_holm"] == 1.0


def test_leaderboard__seeds_may_have_splits_of_their_own() -> None:
    """The part is drawn anew under each seed; only trials of one seed must share it."""
    trials = []
    for seed in (0, 1):
        for variant, right in (("base", 20), ("good", 30)):
            frame = predictions_of(right, right).with_columns(image_id=pl.col("image_id") + f"-{seed}")
            trials.append(trial_of(variant, seed, frame))
    good = leaderboard(*experiment_of(trials), baseline="base", metric="top1").row(0, named=True)
    assert (good["variant"], good["only_variant"]) == ("good", 20)


def test_leaderboard__compares_on_the_seeds_both_have() -> None:
    trials = [trial_of("base", 0, predictions_of(20, 20)), trial_of("good", 0, predictions_of(30, 30))]
    more = [*trials, trial_of("good", 1, predictions_of(30, 40))]
    good = leaderboard(*experiment_of(more), baseline="base", metric="top1").row(0, named=True)
    assert (good["seeds"], good["difference"]) == (2, pytest.approx(10 / 40))
    none_shared = [trials[0], trial_of("good", 1, predictions_of(30, 30))]
    with pytest.raises(ComparisonError, match="'good' and 'base' share no seed"):
        leaderboard(*experiment_of(none_shared), baseline="base", metric="top1")


@pytest.mark.parametrize("part", ["val", "test"])
def test_leaderboard__refuses_other_images_under_one_seed(part: str) -> None:
    other = predictions_of(20, 20).with_columns(
        image_id=pl.when(part=part, image_id=f"{part}003").then(pl.lit("stranger")).otherwise("image_id")
    )
    trials = [trial_of("base", 0, predictions_of(20, 20)), trial_of("other", 0, other)]
    with pytest.raises(ComparisonError, match=f"'base__s0' and 'other__s0' have different {part} images under seed 0"):
        leaderboard(*experiment_of(trials), baseline="base", metric="top1")


def test_leaderboard__refuses_what_is_not_of_one_experiment() -> None:
    rows, predictions = three_variants()
    trials = [trial_of("base", 0, predictions["base__s0"])]
    cases = [
        (rows, predictions, "nobody", "baseline 'nobody' is not among the variants"),
        (pl.concat([rows, rows[:1]]), predictions, "base", "stands in 2 rows"),
        (rows, {"base__s0": predictions["base__s0"]}, "base", "no predictions of the trials"),
        (
            experiment_of(
                [*trials, trial_of("odd", 0, predictions_of(9, 9), changes={"label_map_checksum": "x" * 64})]
            )[0],
            predictions | {"odd__s0": predictions_of(9, 9)},
            "base",
            "different label maps",
        ),
        (
            rows,
            predictions | {"base__s0": predictions_of(20, 20, images=38)},
            "base",
            "predictions of 'base__s0' are not those of its metrics row",
        ),
    ]
    for some_rows, some_predictions, baseline, said in cases:
        with pytest.raises(ComparisonError, match=said):
            leaderboard(some_rows, some_predictions, baseline=baseline, metric="top1")


def test_leaderboard__does_not_depend_on_the_order_of_the_rows() -> None:
    rows, predictions = three_variants()
    first = leaderboard(rows, predictions, baseline="base", metric="top1")
    again = leaderboard(rows.reverse(), dict(reversed(predictions.items())), baseline="base", metric="top1")
    assert first.equals(again)


def test_leaderboard__says_mean_spread_and_each_value_of_the_seeds() -> None:
    good = leaderboard(*three_variants(), baseline="base", metric="top1").row(0, named=True)
    assert good["seed_values"] == [0, 1]
    assert good["val_values"] == pytest.approx([36 / 40, 37 / 40])
    assert good["test_values"] == pytest.approx([30 / 40, 31 / 40])
    assert good["test_mean"] == pytest.approx(np.mean(good["test_values"]))
    assert good["spectral_alpha"] is None
    rows, predictions = three_variants()
    advised = rows.with_columns(spectral_alpha=pl.col("seed") + 2.0)
    assert leaderboard(advised, predictions, baseline="base", metric="top1")["spectral_alpha"].to_list() == [2.5] * 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"dataset_version": "v2"},
            r"different dataset versions \(v1 and v2\).*materialize both on one dataset version",
        ),
        ({"metric_code": "0ld"}, r"different code of their metrics \(c0de and 0ld\).*nothing is trained for it"),
        (
            {"split_sha256": "6" * 64},
            r"different splits under seed 0 \(555555555555 and 666666666666\).*rule of the split",
        ),
        ({"protocol": '{"resize": "shorter_side"}'}, r'different preprocessing .*"squash".*"shorter_side"'),
    ],
)
def test_leaderboard__refuses_rows_that_are_not_comparable(changes: dict[str, str], said: str) -> None:
    trials = [
        trial_of("base", 0, predictions_of(20, 20)),
        trial_of("other", 0, predictions_of(30, 30), changes=changes),
    ]
    rows, predictions = experiment_of(trials)
    assert rows["comparability"].n_unique() == 2
    with pytest.raises(ComparisonError, match=f"'base__s0' and 'other__s0' have {said}"):
        leaderboard(rows, predictions, baseline="base", metric="top1")


def test_leaderboard__what_variants_may_differ_in_is_no_part_of_the_hash() -> None:
    vit = {"backbone": "vit_small_patch16_224.augreg_in21k", "mode": "scratch", "image_size_px": 384}
    small, large = (
        trial_of("base", 0, predictions_of(20, 20)),
        trial_of("vit", 0, predictions_of(30, 20), Variant(**vit)),
    )
    rows, predictions = experiment_of([small, large])
    assert rows["image_size_px"].n_unique() == 2
    assert rows["comparability"].n_unique() == 1
    assert leaderboard(rows, predictions, baseline="base", metric="top1").height == 2


def test_leaderboard__paired_test_is_that_of_the_predictions_with_groups_too() -> None:
    """The board has its own, over all trials at once; each variant again by itself."""
    generator = np.random.default_rng(0)
    groups = pl.DataFrame(
        {"image_id": [f"test{n:03}" for n in range(40)], "group": [f"g{n // 4}" if n < 30 else None for n in range(40)]}
    )
    trials = []
    for variant in ("base", "one", "two"):
        for seed in (0, 1):
            frame = predictions_of(20, int(generator.integers(10, 35)), shift=int(generator.integers(40)))
            frame = frame.drop("group").join(groups, on="image_id", how="left", maintain_order="left")
            trials.append(trial_of(variant, seed, frame))
    rows, predictions = experiment_of(trials)
    board = leaderboard(rows, predictions, baseline="base", metric="top1")
    for row in board.filter(pl.col("variant") != "base").to_dicts():
        wanted = paired_test([(predictions[f"{row['variant']}__s{s}"], predictions[f"base__s{s}"]) for s in (0, 1)])
        assert (row["only_variant"], row["only_baseline"], row["p_value"]) == pytest.approx(wanted)
        assert row["only_variant"] + row["only_baseline"] <= 18, "units, of which there are eight groups and ten images"


def test_leaderboard__refuses_one_image_with_two_truths() -> None:
    rows, predictions = three_variants()
    odd = predictions["good__s0"].with_columns(truth=pl.when(image_id="test003").then(pl.lit("a")).otherwise("truth"))
    with pytest.raises(ComparisonError, match="image test003 is 'a' and 'b'"):
        leaderboard(rows, predictions | {"good__s0": odd}, baseline="base", metric="top1")


def test_leaderboard__needs_no_logits() -> None:
    rows, predictions = three_variants()
    lean = {trial: frame.drop("logits", "probabilities") for trial, frame in predictions.items()}
    whole = leaderboard(rows, predictions, baseline="base", metric="macro_f1")
    assert leaderboard(rows, lean, baseline="base", metric="macro_f1").equals(whole)


def test_leaderboard__holds_the_predictions_of_one_trial_at_a_time() -> None:
    rows, predictions = three_variants()

    class Read(Mapping[str, pl.DataFrame]):
        held: ClassVar[list[ref[pl.DataFrame]]] = []

        def __getitem__(self, trial: str) -> pl.DataFrame:
            assert not any(frame() is not None for frame in self.held)
            frame = predictions[trial].clone()
            self.held.append(ref(frame))
            return frame

        def __iter__(self) -> Iterator[str]:
            return iter(predictions)

        def __len__(self) -> int:
            return len(predictions)

    board = leaderboard(rows, Read(), baseline="base", metric="top1")
    assert board.equals(leaderboard(rows, predictions, baseline="base", metric="top1"))
    assert len(Read.held) == rows.height
