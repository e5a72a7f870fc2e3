"""Paired tests of two trials, their metrics row, and the champion by val alone."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from platform_assets.vision.evaluation.comparability import ComparisonError
from platform_assets.vision.evaluation.comparison import choose_champion, mcnemar, paired_test
from platform_assets.vision.evaluation.metrics import HEADLINES
from platform_tests.vision.trial_rows import experiment_of, predictions_of, three_variants, trial_of


def test_mcnemar__by_hand() -> None:
    # a: images 0 to 24 right. b: images 15 to 34 right. Fifteen only a, ten only b.
    a, b = predictions_of(0, 25), predictions_of(0, 20, shift=15)
    result = mcnemar(a, b)
    assert (result.only_a, result.only_b) == (15, 10)
    assert result.p_value == pytest.approx(2 * binom.cdf(10, 25, 0.5))
    assert mcnemar(b, a).p_value == result.p_value
    assert mcnemar(a, a) == (0, 0, 1.0)


def test_mcnemar__refuses_other_images_or_truths() -> None:
    a = predictions_of(20, 20)
    with pytest.raises(ComparisonError, match="40 and 38 images with 38 in common"):
        mcnemar(a, predictions_of(20, 20, images=38))
    relabelled = a.with_columns(truth=pl.lit("a"))
    with pytest.raises(ComparisonError, match="image test001 is 'b' and 'a'"):
        mcnemar(a, relabelled)


def test_paired_test__a_seed_more_is_no_image_more() -> None:
    """Rows of (image, seed) counted one image as several: three equal seeds then cubed the p-value."""
    pair = (predictions_of(0, 26), predictions_of(0, 20))
    assert paired_test([pair] * 3) == paired_test([pair])


def test_choose_champion__by_val_alone() -> None:
    rows, _ = three_variants()
    champion = choose_champion(rows, metric="top1")
    assert (champion.trial, champion.variant, champion.seed) == ("good__s1", "good", 1)
    assert champion.val_metric == pytest.approx(37 / 40)
    assert "'good' has the highest mean val top1, 0.9125 over 2 seed(s); next is 'lucky'" in champion.reason
    upside_down = rows.with_columns(pl.col("^test_.*$").exclude("test_ids_sha256") * -1)
    assert choose_champion(upside_down, metric="top1") == champion


def test_choose_champion__equals_go_to_the_lower_val_loss_then_the_name() -> None:
    rows, _ = experiment_of([trial_of(variant, 0, predictions_of(30, 30)) for variant in ("b", "a", "c")])
    assert choose_champion(rows, metric="top1").variant == "a"
    cheaper = rows.with_columns(val_loss=pl.when(variant="c").then(0.1).otherwise("val_loss"))
    assert choose_champion(cheaper, metric="top1").variant == "c"
    with pytest.raises(ComparisonError, match="no trials to choose from"):
        choose_champion(rows.clear(), metric="top1")


RIGHT = st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=30)


def _frame(right: list[bool], groups: list[str | None]) -> pl.DataFrame:
    ids = [f"{number:03}" for number in range(len(right))]
    group = pl.Series("group", groups, dtype=pl.String)
    return pl.DataFrame({"image_id": ids, "path": ids, "part": "test", "truth": "a", "correct": right}).with_columns(
        group
    )


@settings(max_examples=40)
@given(RIGHT, st.booleans())
def test_paired_test__is_the_sign_test_over_units(images: list[tuple[bool, ...]], grouped: bool) -> None:
    """Two seeds of two variants: each image, or three images of one group, counts for the side that got more right."""
    groups = [f"g{number // 3}" if grouped else None for number in range(len(images))]
    a0, a1, b0, b1 = (_frame([image[column] for image in images], groups) for column in range(4))
    leads: dict[str, int] = {}
    for number, (right_a0, right_a1, right_b0, right_b1) in enumerate(images):
        unit = groups[number] or str(number)
        leads[unit] = leads.get(unit, 0) + right_a0 + right_a1 - right_b0 - right_b1
    won, lost = sum(lead > 0 for lead in leads.values()), sum(lead < 0 for lead in leads.values())
    found = paired_test([(a0, b0), (a1, b1)])
    assert (found.only_a, found.only_b) == (won, lost)
    assert found.p_value == pytest.approx(binomtest(won, won + lost).pvalue if won + lost else 1.0)


def test_paired_test__tables_of_older_code_have_no_groups() -> None:
    a, b = (_frame([True, side, side, side], ["g"] * 4) for side in (True, False))
    assert paired_test([(a, b)])[:2] == (1, 0)
    assert paired_test([(a.drop("group"), b.drop("group"))])[:2] == (3, 0)


def test_trial_row__holds_every_headline_figure_with_its_interval() -> None:
    row, _ = trial_of("only", 0, predictions_of(30, 30))
    for name in (*HEADLINES, "coarse_top1"):
        columns = [f"val_{name}", f"test_{name}", f"test_{name}_low", f"test_{name}_high"]
        assert {row.schema[column] for column in columns} == {pl.Float64}, "a column of nulls keeps its type"
    assert row["test_micro_f1"].item() == row["test_top1"].item() == 0.75
    assert row["test_top1_low"].item() < 0.75 < row["test_top1_high"].item()
    assert row["test_cost_accuracy"].item() is None
