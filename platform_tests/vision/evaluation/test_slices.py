"""Slices by hand, and what the ranking and its tests say of made differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, fisher_exact

from platform_assets.vision.evaluation.scores import EvaluationError
from platform_assets.vision.evaluation.slices import MIN_IMAGES, BadSlices, slice_columns, slices


def _made(
    correct: list[bool], groups: list[str | None] | None = None, **columns: Any
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Predictions of test, and records that hold an image of train too."""
    ids = [f"i{number:04}" for number in range(len(correct))]
    predictions = pl.DataFrame(
        {
            "image_id": ids,
            "path": ids,
            "part": "test",
            "correct": correct,
            "group": pl.Series(groups or [None] * len(ids), dtype=pl.String),
        }
    )
    records = pl.DataFrame({"image_id": ids, "path": ids, "label": "a", "split": "test", **columns})
    train = records[:1].with_columns(image_id=pl.lit("train"), path=pl.lit("train"), split=pl.lit("train"))
    return predictions, pl.concat([train, records.reverse()])


def _one(frame: pl.DataFrame, value: str) -> dict[str, Any]:
    return frame.row(by_predicate=pl.col("value") == value, named=True)


def test_slices__of_a_text_by_hand() -> None:
    # 30 mono of which 15 are right, 70 poly of which 63 are, one image without a type.
    correct = [True] * 15 + [False] * 15 + [True] * 63 + [False] * 7 + [True]
    predictions, records = _made(correct, cell_type=["mono"] * 30 + ["poly"] * 70 + [None])
    found = slices(predictions, records, ["cell_type"])
    assert found.select("rank", "value", "images", "accuracy").rows() == [
        (1, "mono", 30, 0.5),
        (2, "poly", 70, 0.9),
        (None, "(none)", 1, 1.0),
    ]
    mono, none = _one(found, "mono"), _one(found, "(none)")
    wanted = fisher_exact([[15, 15], [64, 7]], alternative="less").pvalue
    assert mono["p_value"] == pytest.approx(wanted)
    assert mono["p_holm"] == pytest.approx(2 * wanted), "two slices were looked at"
    assert mono["accuracy_elsewhere"] == pytest.approx(64 / 71)
    low, high = binomtest(15, 30).proportion_ci(method="wilson")
    assert (mono["low"], mono["high"]) == pytest.approx((low, high))
    assert (none["p_value"], none["p_holm"]) == (None, None)


def test_slices__numbers_are_cut_at_quartiles_with_their_edges() -> None:
    values = [float(number) for number in range(100)]
    predictions, records = _made([number >= 25 for number in range(100)], age=values)
    found = slices(predictions, records, ["age"])
    assert found.select("value", "from_value", "to_value", "images", "accuracy").row(0) == (
        "0 to 24.75",
        0.0,
        24.75,
        25,
        0.0,
    )
    assert found["images"].sum() == 100
    assert found["to_value"].max() == 99.0


def test_slices__few_numbers_are_values_and_missing_ones_a_slice() -> None:
    predictions, records = _made([True] * 60, stars=[1, 2, 3] * 19 + [None] * 3)
    found = slices(predictions, records, ["stars"])
    assert dict(found.select("value", "images").rows()) == {"1": 19, "2": 19, "3": 19, "(none)": 3}
    texts, as_text = _made([True] * 60, age=[str(number) for number in range(60)])
    assert slices(texts, as_text, ["age"])["value"][0] == "0 to 14.75"


@settings(max_examples=30)
@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=60))
def test_slices__of_any_numbers_hold_every_image_once(values: list[float | None]) -> None:
    predictions, records = _made([True] * len(values), age=pl.Series(values, dtype=pl.Float64))
    found = slices(predictions, records, ["age"])
    assert found["images"].sum() == len(values)
    assert not found.select(pl.selectors.float().is_nan().any()).row(0).count(True)
    assert found.filter(pl.col("images") < MIN_IMAGES)["rank"].null_count() == (found["images"] < MIN_IMAGES).sum()


def test_slices__measures_of_the_images() -> None:
    generator, images = np.random.default_rng(0), 80
    mean = generator.random((images, 3)).astype(np.float32)
    predictions, records = _made(
        (mean.mean(axis=1) > 0.4).tolist(),
        width=[40 + number for number in range(images)],
        height=[40] * images,
        pixel_mean=pl.Series(mean, dtype=pl.Array(pl.Float32, 3)),
        pixel_std=pl.Series(mean / 4, dtype=pl.Array(pl.Float32, 3)),
        box=pl.Series([[0, 0, 20, 10]] * images, dtype=pl.Array(pl.Float32, 4)),
    )
    columns = slice_columns(records, None)
    assert columns == ("pixels", "aspect_ratio", "brightness", "contrast", "box_share")
    found = slices(predictions, records, columns)
    worst = found.row(0, named=True)
    assert worst["column"] in ("brightness", "contrast")
    assert worst["p_holm"] < 1e-6
    boxes = found.filter(column="box_share")
    assert boxes["from_value"].min() == pytest.approx(200 / (40 * 119))
    assert boxes["to_value"].max() == pytest.approx(200 / (40 * 40))


def test_slice_columns__unless_named_are_texts_of_few_values() -> None:
    _, records = _made(
        [True] * 60, kind=["a", "b"] * 30, one=["x"] * 60, many=[str(n) for n in range(60)], age=[1, 2] * 30
    )
    assert slice_columns(records, None) == ("kind",)
    assert slice_columns(records, ("age", "many", "kind")) == ("age", "many", "kind")


def test_slice_columns__refuse_what_is_none_and_name_those_there_are() -> None:
    _, records = _made([True] * 60, kind=["a", "b"] * 30, words=[f"w{number}" for number in range(60)])
    with pytest.raises(BadSlices, match=r"slices: 'kinds' is no column to slice by; there are label, kind, words"):
        slice_columns(records, ("kinds",))
    with pytest.raises(BadSlices, match=r"slices: 'words' has 60 values, 50 are allowed"):
        slice_columns(records, ("words",))
    with pytest.raises(BadSlices, match="'image_id' is no column"):
        slice_columns(records, ("image_id",))


def test_slices__refuse_images_that_the_records_lack() -> None:
    predictions, records = _made([True] * 3, kind=["a", "b", "a"])
    with pytest.raises(EvaluationError, match=r"1 predicted images are not in the records, the first is i0002"):
        slices(predictions, records.filter(pl.col("path") != "i0002"), ["kind"])
    with pytest.raises(EvaluationError, match="no predictions"):
        slices(predictions.clear(), records, ["kind"])


def test_slices__copies_of_an_image_make_no_slice_significant() -> None:
    """Ten shots of each cell, all right or all wrong: 100 images of a kind are ten."""
    generator = np.random.default_rng(0)
    right = generator.random(60) < 0.7
    right[:10] = [False] * 6 + [True] * 4
    groups = [f"g{number // 10}" for number in range(600)]
    kinds = ["bad"] * 100 + ["good"] * 500
    grouped = _one(slices(*_made(right.repeat(10).tolist(), groups, kind=kinds), ["kind"]), "bad")
    alone = _one(slices(*_made(right.repeat(10).tolist(), kind=kinds), ["kind"]), "bad")
    single = _one(slices(*_made(right.repeat(10).tolist()[::10] * 1, kind=kinds[::10]), ["kind"]), "bad")
    assert (grouped["units"], alone["units"]) == (10, 100)
    assert alone["p_value"] < 1e-4 < 0.02 < grouped["p_value"]
    assert (grouped["low"], grouped["high"]) == pytest.approx((single["low"], single["high"]), abs=0.03)


def test_slices__of_noise_are_called_worse_in_at_most_five_of_a_hundred() -> None:
    """Eight columns of five values each: without the correction about four of five runs would name one."""
    generator, called, uncorrected = np.random.default_rng(1), 0, 0
    for _ in range(40):
        columns = {f"c{number}": [str(value) for value in generator.integers(5, size=300)] for number in range(8)}
        predictions, records = _made((generator.random(300) < 0.8).tolist(), **columns)
        found = slices(predictions, records, list(columns))
        called += found["p_holm"].min() < 0.05
        uncorrected += found["p_value"].min() < 0.05
    assert called <= 6  # 40 at 5 %: 7 or more in 1 of 300
    assert uncorrected > 16
