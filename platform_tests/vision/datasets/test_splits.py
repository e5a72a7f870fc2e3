"""Splits: exact fractions, whole groups, no dependence on row order, clear errors."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.splits import (
    PARTS,
    BadSplit,
    EmptySplit,
    SplitRule,
    absent_classes,
    assign_splits,
    split_leaks,
)


def records(
    labels: list[str],
    *,
    groups: list[str | None] | None = None,
    splits: list[str | None] | None = None,
    image_ids: list[str] | None = None,
    **extra: list[Any],
) -> pl.DataFrame:
    size = len(labels)
    columns = {
        "image_id": image_ids or [f"{index:04x}" for index in range(size)],
        "path": [f"{index}.png" for index in range(size)],
        "label": labels,
        "split": splits or [None] * size,
        "group": groups or [None] * size,
        **extra,
    }
    return pl.DataFrame(columns, schema_overrides={"split": pl.String, "group": pl.String})


def drawn(train: float = 0.7, val: float = 0.1, test: float = 0.2, **more: Any) -> SplitRule:
    return SplitRule(kind="stratified", train=train, val=val, test=test, **more)


def counts(frame: pl.DataFrame, **where: str) -> dict[str, int]:
    found = Counter(frame.filter(**where)["split"])
    return {part: found[part] for part in PARTS}


def test_split__each_stratum_gets_its_fractions() -> None:
    divided = assign_splits(records(["a"] * 100 + ["b"] * 40 + ["c"] * 10), drawn())
    assert counts(divided, label="a") == {"train": 70, "val": 10, "test": 20}
    assert counts(divided, label="b") == {"train": 28, "val": 4, "test": 8}
    assert counts(divided, label="c") == {"train": 7, "val": 1, "test": 2}


def test_split__rounding_errors_do_not_add_up() -> None:
    # Rounding each class alone gives val none of them: 5 * 0.1 = 0.5 a hundred times.
    divided = assign_splits(records([f"{index // 5:03}" for index in range(500)]), drawn())
    total = counts(divided)
    assert total == {"train": 350, "val": 50, "test": 100}


def test_split__stratified_by_two_columns() -> None:
    labels, cells = ["a", "b"] * 100, ["mono"] * 150 + ["poly"] * 50
    divided = assign_splits(records(labels, cell_type=cells), drawn(stratify_by=("label", "cell_type")))
    assert counts(divided, label="b", cell_type="poly") in (
        {"train": 17, "val": 3, "test": 5},
        {"train": 18, "val": 2, "test": 5},
    )
    assert counts(divided, cell_type="poly")["train"] == 35


def test_split__same_group_never_in_two_parts() -> None:
    groups = [f"bird {index // 7}" for index in range(210)]
    divided = assign_splits(records(["a", "b", "c"] * 70, groups=groups), drawn(group_by="group"))
    assert divided.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
    assert counts(divided) == {"train": 147, "val": 21, "test": 42}


def test_split__same_image_never_in_two_parts_even_through_groups() -> None:
    # 0 and 1 are one file, 1 and 2 one group, 2 and 3 one file: all four belong together.
    ids = ["aa", "aa", "bb", "bb"] + [f"{index:02x}" for index in range(40)]
    groups = ["g0", "g1", "g1", "g2"] + [None] * 40
    divided = assign_splits(records(["a", "b"] * 22, image_ids=ids, groups=groups), drawn(group_by="group"))
    assert divided["split"][:4].n_unique() == 1


def test_split__same_image_twice_without_groups() -> None:
    ids = [f"{index // 2:02x}" for index in range(60)]
    divided = assign_splits(records(["a"] * 30 + ["b"] * 30, image_ids=ids), drawn())
    assert split_leaks(divided).is_empty()
    assert counts(divided) == {"train": 42, "val": 6, "test": 12}


def test_split__grouped_keeps_near_duplicates_and_groups_together() -> None:
    # Rows 0 and 1 look alike, 1 and 2 are one session, 2 and 3 look alike: all four stay together.
    near = ["n0", "n0", "n1", "n1"] + [f"n{index // 3}" if index % 2 else None for index in range(20, 116)]
    sessions = [None, "s", "s", None] + [None] * 96
    frame = records(["a", "b"] * 50, groups=sessions, near_group=near)
    divided = assign_splits(frame, SplitRule(kind="grouped", group_by="group"))
    assert divided["split"][:4].n_unique() == 1
    named = divided.filter(pl.col("near_group").is_not_null())
    assert named.group_by("near_group").agg(pl.col("split").n_unique())["split"].max() == 1
    assert all(abs(counts(divided)[part] - share) <= 2 for part, share in zip(PARTS, (70, 10, 20), strict=True))


def test_split__equal_names_in_two_columns_are_not_one_group() -> None:
    # As one group, x would be the whole set and leave two parts without images.
    frame = records(["a", "b"] * 10, groups=["x"] * 14 + [None] * 6, near_group=[None] * 14 + ["x"] * 4 + [None] * 2)
    divided = assign_splits(frame, SplitRule(kind="grouped", group_by="group"))
    assert divided["split"][0] != divided["split"][14]


def test_split__grouped_without_the_column_says_what_to_do() -> None:
    with pytest.raises(BadSplit, match="needs the column near_group; find near duplicates before the split"):
        assign_splits(records(["a", "b"]), SplitRule(kind="grouped"))


def test_leaks__near_duplicates_across_parts_are_pairs_with_both_paths() -> None:
    frame = records(["a"] * 4, splits=["train", "test", "train", "train"], image_ids=["aa", "bb", "cc", "dd"])
    near = pl.DataFrame({"image_id": ["aa", "cc", "aa"], "other_id": ["bb", "dd", "gone"]})
    assert split_leaks(frame).is_empty()
    assert split_leaks(frame, near=near).rows() == [("near_duplicate", "aa bb", ["test", "train"], ["0.png", "1.png"])]
    assert split_leaks(frame, near=near.clear()).is_empty()


def test_split__seed_of_the_call_goes_before_the_rules() -> None:
    frame = records(["a", "b"] * 50)
    first = assign_splits(frame, drawn(seed=1))
    assert_frame_equal(first, assign_splits(frame, drawn(seed=5), seed=1))
    assert first["split"].to_list() != assign_splits(frame, drawn(seed=2))["split"].to_list()


def test_split__is_pinned() -> None:
    # Checkpoints are compared over years on the same test part: the draw may not move with a library.
    divided = assign_splits(records(["a", "b"] * 10), drawn())
    held_out = {row["path"]: row["split"] for row in divided.to_dicts() if row["split"] != "train"}
    assert held_out == {
        **{"6.png": "test", "8.png": "test", "9.png": "test", "13.png": "test"},
        **{"10.png": "val", "11.png": "val"},
    }


def test_split__new_images_move_few_old_ones() -> None:
    before = assign_splits(records(["a", "b"] * 100), drawn())
    after = assign_splits(records(["a", "b"] * 105), drawn())
    moved = sum(old != new for old, new in zip(before["split"], after["split"], strict=False))
    assert moved <= 12


def test_split__official_parts_stand() -> None:
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    frame = records(["a", "b"] * 5, splits=splits)
    assert_frame_equal(assign_splits(frame, SplitRule(kind="official")), frame)


def test_split__missing_official_val_is_carved_from_train_alone() -> None:
    frame = records(["a", "b"] * 100, splits=["train", "train", "test", "test"] * 50)
    divided = assign_splits(frame, SplitRule(kind="official", train=0.6, val=0.2, test=0.2))
    assert counts(divided) == {"train": 75, "val": 25, "test": 100}
    assert divided["path"].to_list() == frame["path"].to_list()
    assert divided.filter(split="test")["path"].to_list() == frame.filter(split="test")["path"].to_list()
    assert abs(counts(divided, label="a")["val"] - 12.5) < 1


def test_split__carving_keeps_groups_whole() -> None:
    groups = [f"g{index // 4}" for index in range(80)]
    frame = records(["a", "b"] * 40, splits=["train"] * 60 + ["test"] * 20, groups=groups)
    divided = assign_splits(frame, SplitRule(kind="official", group_by="group", train=0.6, val=0.2, test=0.2))
    assert split_leaks(divided).is_empty()
    assert counts(divided)["val"] in (12, 16)


@pytest.mark.parametrize("splits", [["train", "val"], ["val", "test"], ["test"], ["train"]])
def test_split__official_without_train_or_test_is_an_error(splits: list[str]) -> None:
    frame = records(["a", "b"] * 10, splits=(splits * 20)[:20])
    with pytest.raises(EmptySplit, match=r"no images in (train|test)"):
        assign_splits(frame, SplitRule(kind="official"))


def test_split__official_with_images_of_no_part_is_an_error() -> None:
    with pytest.raises(BadSplit, match=r"1 of 3 images have no official part, the first is 2\.png; name the part"):
        assign_splits(records(["a", "b", "a"], splits=["train", "test", None]), SplitRule(kind="official"))


def test_split__class_without_training_image_is_an_error() -> None:
    frame = records(["a", "b", "a"], splits=["train", "test", "val"])
    with pytest.raises(EmptySplit, match=r"classes \['b'\] have no image in train"):
        assign_splits(frame, SplitRule(kind="official"))


def test_split__too_few_images_are_an_error_with_counts() -> None:
    with pytest.raises(EmptySplit, match=r"no images in val and test \({'train': 2, 'val': 0, 'test': 0}\)"):
        assign_splits(records(["a", "b"]), drawn())


def test_split__one_group_of_everything_is_an_error() -> None:
    with pytest.raises(EmptySplit, match="needs more images"):
        assign_splits(records(["a", "b"] * 9, groups=["g"] * 18), drawn(group_by="group"))


def test_split__last_group_with_a_label_goes_to_train() -> None:
    # By quota alone c would go to test: train is full already.
    frame = records(["a"] * 10 + ["c"] * 2 + ["a"] * 2, groups=["g0"] * 10 + ["g1"] * 2 + ["g2", "g3"])
    divided = assign_splits(frame, drawn(0.4, 0.3, 0.3, group_by="group"))
    assert counts(divided, label="c") == {"train": 2, "val": 0, "test": 0}


def test_split__no_records_is_an_error() -> None:
    with pytest.raises(EmptySplit, match="no images in train and val and test"):
        assign_splits(records([]), drawn())


@pytest.mark.parametrize("rule", [drawn(stratify_by=("label", "cell")), drawn(group_by="cell")])
def test_split__unknown_column_is_an_error(rule: SplitRule) -> None:
    with pytest.raises(BadSplit, match=r"uses columns \['cell'\], the records have"):
        assign_splits(records(["a", "b"]), rule)


@pytest.mark.parametrize(
    "bad", [{"train": 0.7, "val": 0.2, "test": 0.2}, {"val": 0.0}, {"test": 1.0}, {"stratify_by": ()}, {"folds": 5}]
)
def test_rule__what_cannot_be_meant_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SplitRule.model_validate({"kind": "stratified", **bad})


class_sizes = st.lists(st.integers(1, 30), min_size=2, max_size=12)
fractions = st.tuples(st.integers(1, 8), st.integers(1, 4), st.integers(1, 4)).map(lambda w: [n / sum(w) for n in w])


def quietly(frame: pl.DataFrame, rule: SplitRule) -> pl.DataFrame:
    """The divided records; examples too small to divide are passed over."""
    try:
        return assign_splits(frame, rule)
    except EmptySplit:
        assume(False)
        raise


@given(class_sizes, fractions, st.integers(0, 99))
def test_property__no_stratum_is_a_whole_image_off_and_totals_hold(
    sizes: list[int], parts: list[float], seed: int
) -> None:
    labels = [f"c{label}" for label, size in enumerate(sizes) for _ in range(size)]
    divided = quietly(records(labels), drawn(*parts, seed=seed))
    forced = sum(size * parts[0] < 1 for size in sizes)  # classes whose one training image is owed to no quota
    for part, fraction in zip(PARTS, parts, strict=True):
        for label, size in enumerate(sizes):
            assert abs(counts(divided, label=f"c{label}")[part] - size * fraction) < 1
        assert abs(counts(divided)[part] - len(labels) * fraction) <= 1 + forced


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 14) | st.none()), min_size=12, max_size=80),
    fractions,
    st.randoms(use_true_random=False),
)
def test_property__groups_stay_whole_and_row_order_does_not_matter(
    rows: list[tuple[str, int | None]], parts: list[float], shuffler: random.Random
) -> None:
    frame = records([label for label, _ in rows], groups=[None if group is None else f"g{group}" for _, group in rows])
    rule = drawn(*parts, group_by="group")
    divided = quietly(frame, rule)
    assert split_leaks(divided).is_empty()
    order = list(range(len(rows)))
    shuffler.shuffle(order)
    assert_frame_equal(assign_splits(frame[order], rule), divided[order])


def test_groups__of_equal_cost_go_the_same_way_whatever_the_order_of_rows() -> None:
    # Found by the property above: the cost of one group was the same for two parts, but for the last bit of a sum.
    labels = "aaaabbbccccc" + "aaaaaabbccabbbcbbc"
    groups = [None] * 12 + [0, 0, 0, 2, 3, 3, 0, 2, 0, 0, 0, 0, 1, 0, 1, None, 0, 0]
    frame = records(list(labels), groups=[None if group is None else f"g{group}" for group in groups])
    rule = drawn(0.2, 0.6, 0.2, group_by="group")
    assert_frame_equal(assign_splits(frame.reverse(), rule), assign_splits(frame, rule).reverse())


@given(st.lists(st.integers(1, 5), min_size=40, max_size=120), fractions, st.integers(0, 9))
def test_property__small_groups_come_near_the_fractions(sizes: list[int], parts: list[float], seed: int) -> None:
    groups = [f"g{group}" for group, size in enumerate(sizes) for _ in range(size)]
    labels = ["ab"[group % 2] for group, size in enumerate(sizes) for _ in range(size)]
    divided = quietly(records(labels, groups=list(groups)), drawn(*parts, group_by="group", seed=seed))
    for part, fraction in zip(PARTS, parts, strict=True):
        assert math.isclose(counts(divided)[part], len(labels) * fraction, abs_tol=6)


def test_leaks__bytes_and_groups_with_their_parts_and_paths() -> None:
    frame = records(
        ["a"] * 6,
        image_ids=["x", "x", "y", "z", "z", "w"],
        groups=["g", "g", None, "h", None, "g"],
        splits=["train", "test", "train", "val", "val", "val"],
    )
    assert split_leaks(frame).rows() == [
        ("bytes", "x", ["test", "train"], ["0.png", "1.png"]),
        ("group", "g", ["test", "train", "val"], ["0.png", "1.png", "5.png"]),
    ]


def test_leaks__none_has_the_same_columns() -> None:
    none = split_leaks(records(["a", "b"], splits=["train", "test"]))
    assert none.schema == {
        "kind": pl.String,
        "key": pl.String,
        "parts": pl.List(pl.String),
        "paths": pl.List(pl.String),
    }
    assert none.is_empty()


def test_leaks__images_without_a_part_are_in_none() -> None:
    assert split_leaks(records(["a", "a"], image_ids=["x", "x"], splits=["train", None])).is_empty()


def test_absent__classes_by_part_in_the_order_of_the_map() -> None:
    frame = records(["a", "b", "a"], splits=["train", "train", "test"])
    label_map = LabelMap(names=("c", "b", "a"))
    assert absent_classes(frame, label_map) == {"train": ["c"], "val": ["c", "b", "a"], "test": ["c", "b"]}
