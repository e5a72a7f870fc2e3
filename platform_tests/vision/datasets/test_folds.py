"""Folds: every image outside test is val once, groups stay whole, classes are in every train."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from platform_assets.vision.datasets.folds import fold_of_seed, folds
from platform_assets.vision.datasets.splits import BadSplit, EmptySplit


def records(labels: list[str], *, groups: list[str | None] | None = None, test: int = 0) -> pl.DataFrame:
    """The last `test` of them are the test part."""
    size = len(labels)
    columns = {
        "image_id": [f"{index:04x}" for index in range(size)],
        "path": [f"{index}.png" for index in range(size)],
        "label": labels,
        "split": ["train"] * (size - test) + ["test"] * test,
        "group": groups or [None] * size,
    }
    return pl.DataFrame(columns, schema_overrides={"group": pl.String})


@st.composite
def grouped(draw: st.DrawFn) -> pl.DataFrame:
    """Groups of one class each, of one to six images, test images in groups of their own."""
    classes = draw(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=8), min_size=1, max_size=5))
    rows = [
        (f"c{c}", f"g{c}-{g}") for c, sizes in enumerate(classes) for g, size in enumerate(sizes) for _ in range(size)
    ]
    rows += [("c0", f"t{i}") for i in range(draw(st.integers(0, 4)))]
    test = sum(group.startswith("t") for _, group in rows)
    return records([label for label, _ in rows], groups=[group for _, group in rows], test=test)


@given(grouped(), st.integers(2, 5), st.integers(0, 99))
def test_folds__each_image_is_val_once_and_groups_are_never_parted(frame: pl.DataFrame, k: int, seed: int) -> None:
    outside = frame.filter(pl.col("split") != "test")
    if outside["group"].n_unique() < k:
        with pytest.raises(EmptySplit, match=f"too few for {k} folds"):
            folds(frame, k, seed, group_by=["group"])
        return
    found = folds(frame, k, seed, group_by=["group"])
    val_of = Counter(image for fold in found for image in fold.filter(split="val")["image_id"])
    assert val_of == Counter(outside["image_id"])
    for fold in found:
        assert_frame_equal(fold.drop("split"), frame.drop("split"))
        assert list(fold.filter(split="test")["image_id"]) == list(frame.filter(split="test")["image_id"])
        parts = fold.group_by("group").agg(pl.col("split").n_unique())
        assert parts["split"].to_list() == [1] * parts.height
        assert fold.filter(split="val").height > 0


def needed_in_train(frame: pl.DataFrame) -> set[str]:
    groups = defaultdict(set)
    for label, group in frame.filter(pl.col("split") != "test").select("label", "group").iter_rows():
        groups[label].add(group)
    return {label for label, found in groups.items() if len(found) > 1}


@given(grouped(), st.integers(2, 5), st.integers(0, 99))
def test_folds__a_class_of_two_groups_is_in_every_train(frame: pl.DataFrame, k: int, seed: int) -> None:
    if frame.filter(pl.col("split") != "test")["group"].n_unique() < k:
        return
    for fold in folds(frame, k, seed, group_by=["group"]):
        assert needed_in_train(frame) <= set(fold.filter(split="train")["label"])


@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4), min_size=4, max_size=9), st.integers(2, 4))
def test_folds__groups_of_several_classes_are_in_every_train_or_refused(groups: list[list[str]], k: int) -> None:
    rows = [(label, f"g{number}") for number, labels in enumerate(groups) for label in labels]
    frame = records([label for label, _ in rows], groups=[group for _, group in rows])
    try:
        found = folds(frame, k, 0, group_by=["group"])
    except EmptySplit:
        return
    for fold in found:
        assert needed_in_train(frame) <= set(fold.filter(split="train")["label"])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(2, 5), st.integers(0, 99))
def test_folds__single_images_differ_by_one_in_class_and_in_all(sizes: list[int], k: int, seed: int) -> None:
    labels = [f"c{number}" for number, size in enumerate(sizes) for _ in range(size)]
    if len(labels) < k:
        return
    vals = [fold.filter(split="val") for fold in folds(records(labels), k, seed)]
    assert max(map(len, vals)) - min(map(len, vals)) <= 1
    for label in set(labels):
        counts = [val.filter(label=label).height for val in vals]
        assert max(counts) - min(counts) <= 1


def test_folds__follow_from_the_rows_and_the_seed_not_from_their_order() -> None:
    frame = records([f"c{index % 3}" for index in range(60)], groups=[f"g{index // 4}" for index in range(60)], test=12)
    shuffled = frame.sample(fraction=1, shuffle=True, seed=7)
    for fold, again in zip(*(folds(f, 4, 5, group_by=["group"]) for f in (frame, shuffled)), strict=True):
        assert_frame_equal(fold, again.sort("image_id"))
    others = folds(frame, 4, 6, group_by=["group"])
    assert not folds(frame, 4, 5, group_by=["group"])[0].equals(others[0])


def test_folds__of_equal_cost_are_chosen_alike_whatever_the_order_of_rows() -> None:
    groups = [6, 0, 3, 0, 3, 0, 0, 6, 4, 3, 7, 1, 0, 5, 0, 1, 2, 7, 2, 6, 4, 5, 0, 0]
    frame = records(list("cabbcccbabbcbbccabbcccab"), groups=[f"g{group}" for group in groups])
    turned = folds(frame.reverse(), 2, 0, group_by=["group"])
    for fold, again in zip(folds(frame, 2, 0, group_by=["group"]), turned, strict=True):
        assert_frame_equal(fold, again.reverse())


def test_folds__groups_of_any_size_and_several_classes_come_out_alike() -> None:
    generator = random.Random(0)
    labels, groups = [], []
    for group in range(80):
        for _ in range(generator.randint(1, 12)):
            labels.append(generator.choice("aaabbc"))
            groups.append(f"g{group}")
    vals = [fold.filter(split="val") for fold in folds(records(labels, groups=groups), 5, 0, group_by=["group"])]
    for label, total in Counter(labels).items():
        counts = [val.filter(label=label).height for val in vals]
        assert max(counts) - min(counts) <= max(3, 0.1 * total / 5), (label, counts)
    assert max(map(len, vals)) - min(map(len, vals)) <= 2


def test_folds__equal_bytes_stay_together_though_their_groups_differ() -> None:
    frame = records(["a"] * 12, groups=[f"g{index}" for index in range(12)])
    frame = frame.with_columns(image_id=pl.Series([f"{index // 2:04x}" for index in range(12)]))
    for fold in folds(frame, 3, 0, group_by=["group"]):
        assert fold.group_by("image_id").agg(pl.col("split").n_unique())["split"].to_list() == [1] * 6


def test_folds__that_cannot_be_are_refused() -> None:
    with pytest.raises(BadSplit, match="1 folds: an image must be in train of another"):
        folds(records(["a"] * 4), 1, 0)
    with pytest.raises(BadSplit, match=r"grouped by \['patient'\], the records have"):
        folds(records(["a"] * 4), 2, 0, group_by=["patient"])
    with pytest.raises(BadSplit, match=r"\.png stands outside test, and an image of its group or bytes in it"):
        folds(records(["a"] * 6, groups=["g"] * 6, test=2), 2, 0, group_by=["group"])
    # Each class has two of three groups, so that two folds cannot part all three classes.
    triangle = records(["a", "b", "b", "c", "c", "a"], groups=["x", "x", "y", "y", "z", "z"])
    with pytest.raises(EmptySplit, match=r"no fold can take the last group of the classes .*; ask for more folds"):
        folds(triangle, 2, 0, group_by=["group"])
    assert len(folds(triangle, 3, 0, group_by=["group"])) == 3


def test_fold_of_seed__k_seeds_are_the_folds_of_one_dealing() -> None:
    frame = records([f"c{index % 2}" for index in range(30)], test=6)
    first, second = ([fold_of_seed(frame, 3, seed) for seed in seeds] for seeds in (range(3), range(3, 6)))
    for three in (first, second):
        assert sorted(image for fold in three for image in fold.filter(split="val")["image_id"]) == list(
            frame.head(24)["image_id"]
        )
    assert not first[0].equals(second[0])
