"""Class balance: too few images, too far behind the largest class."""

from __future__ import annotations

import polars as pl

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.quality.class_balance import class_balance_problems


def records(**images: int) -> pl.DataFrame:
    rows = [(f"{label}{index}", label) for label, count in images.items() for index in range(count)]
    return pl.DataFrame(rows, schema=["image_id", "label"], orient="row")


def test_balance__at_the_limits_is_no_problem() -> None:
    assert class_balance_problems(records(a=10, b=5), 5, 2.0).is_empty()


def test_balance__too_few_and_imbalanced_are_named_with_their_limits() -> None:
    found = class_balance_problems(records(a=30, b=9, c=4), 5, 3.0)
    assert found.rows() == [("too_few", "c", 4, 5.0), ("imbalanced", "c", 4, 10.0), ("imbalanced", "b", 9, 10.0)]


def test_balance__a_class_without_images_is_seen_through_the_label_map() -> None:
    found = class_balance_problems(records(a=6, b=6), 1, 10.0, label_map=LabelMap(names=("a", "b", "empty")))
    assert found.filter(problem="too_few").rows() == [("too_few", "empty", 0, 1.0)]


def test_balance__an_image_in_two_parts_counts_once() -> None:
    twice = pl.concat([records(a=3, b=3), records(b=3)])
    assert class_balance_problems(twice, 4, 10.0)["images"].to_list() == [3, 3]
