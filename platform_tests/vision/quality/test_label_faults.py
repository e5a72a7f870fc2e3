"""Label faults: planted wrong labels come first, by probes that never saw them; clear errors for what cannot be judged."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest

from platform_assets.vision.datasets.label_map import LabelMap, UnknownLabel
from platform_assets.vision.quality.label_faults import CannotJudgeLabels, label_faults, out_of_fold

pytest.importorskip("cleanlab", reason="the extra `quality` is not installed")

NAMES = LabelMap(names=("a", "b", "c", "absent"))
FLIPPED = [3, 50, 77, 101]


def photographs(count: int = 120, *, flipped: list[int] | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Three clouds of vectors; the labels of the rows `flipped` are of another cloud."""
    generator = np.random.default_rng(0)
    clouds = np.arange(count) % 3
    vectors_nd = (4 * np.eye(3)[clouds] @ generator.normal(size=(3, 8)) + generator.normal(size=(count, 8))).astype(
        "f4"
    )
    labels = [NAMES.names[(cloud + (row in (flipped or []))) % 3] for row, cloud in enumerate(clouds)]
    ids = [f"{row:04x}" for row in range(count)]
    records = pl.DataFrame({"image_id": ids, "path": [f"{i}.png" for i in ids], "label": labels})
    vectors = pl.DataFrame([pl.Series("image_id", ids), pl.Series("vector", vectors_nd, dtype=pl.Array(pl.Float32, 8))])
    return records.with_columns(split=pl.lit("train")), vectors


def test_faults__flipped_labels_come_first_with_the_right_suggestion() -> None:
    records, vectors = photographs(flipped=FLIPPED)
    found = label_faults(records, vectors, NAMES)
    assert found.height == len(records)
    assert found["rank"].to_list() == list(range(1, 121))
    worst = found.head(len(FLIPPED))
    assert set(worst["image_id"]) == {f"{row:04x}" for row in FLIPPED}
    assert worst["suggested"].to_list() == [NAMES.names[int(i, 16) % 3] for i in worst["image_id"]]
    named = set(found.filter("is_fault")["image_id"])
    assert named
    assert named <= set(worst["image_id"])


def test_faults__depend_on_neither_row_order_nor_copies() -> None:
    records, vectors = photographs(60)
    shuffled = pl.concat([records, records.head(3)]).sample(fraction=1.0, shuffle=True, seed=3)
    expected = label_faults(records, vectors, NAMES)
    assert label_faults(shuffled, vectors.reverse(), NAMES).equals(expected)


def test_out_of_fold__an_image_does_not_vouch_for_its_own_label() -> None:
    # Labels without any relation to the vectors: a probe that had seen them would know them by heart.
    generator = np.random.default_rng(1)
    features_nd, labels_n = generator.normal(size=(60, 200)).astype("f4"), np.arange(60) % 2
    probabilities_nk = out_of_fold(features_nd, labels_n, np.arange(60), folds=5, seed=0)
    np.testing.assert_allclose(probabilities_nk.sum(axis=1), 1, rtol=1e-6)
    assert (probabilities_nk.argmax(axis=1) == labels_n).mean() < 0.75


def test_out_of_fold__a_group_does_not_vouch_for_its_members() -> None:
    generator = np.random.default_rng(2)
    features_nd = np.repeat(generator.normal(size=(30, 100)), 4, axis=0).astype("f4")
    labels_n, groups_n = np.repeat(np.arange(30) % 2, 4), np.repeat(np.arange(30), 4)
    alone = out_of_fold(features_nd, labels_n, np.arange(120), folds=5, seed=0)
    grouped = out_of_fold(features_nd, labels_n, groups_n, folds=5, seed=0)
    assert (alone.argmax(axis=1) == labels_n).mean() > 0.95
    assert (grouped.argmax(axis=1) == labels_n).mean() < 0.75


def test_faults__group_by_is_used_and_images_without_group_stand_alone() -> None:
    records, vectors = photographs(60)
    grouped = records.with_columns(near_group=pl.when(pl.int_range(pl.len()) < 6).then(pl.lit("g")))
    found = label_faults(grouped, vectors, NAMES, group_by="near_group")
    assert (
        found.sort("image_id")["score"].to_list()
        != label_faults(records, vectors, NAMES).sort("image_id")["score"].to_list()
    )
    with pytest.raises(CannotJudgeLabels, match="group_by 'session' is not a column"):
        label_faults(records, vectors, NAMES, group_by="session")


def test_faults__classes_smaller_than_the_folds_are_named_where_nothing_is_left_to_judge() -> None:
    records, vectors = photographs(12)
    said = r"3 of 3 classes have fewer than 5 images or groups: a \(4\), b \(4\), c \(4\); two with as many"
    with pytest.raises(CannotJudgeLabels, match=said):
        label_faults(records, vectors, NAMES)


def test_faults__a_rare_class_does_not_keep_the_others_from_being_judged() -> None:
    records, vectors = photographs(flipped=FLIPPED)
    rare = records.with_columns(label=pl.when(pl.int_range(pl.len()) < 3).then(pl.lit("absent")).otherwise("label"))
    found = label_faults(rare, vectors, NAMES)
    assert set(found["label"]) == {"a", "b", "c"}
    assert found.height == len(records) - 3
    assert set(found.head(len(FLIPPED))["image_id"]) == {f"{row:04x}" for row in FLIPPED}


def test_faults__images_without_vector_are_counted() -> None:
    records, vectors = photographs(30)
    with pytest.raises(CannotJudgeLabels, match=r"2 of 30 images have no vector, the first is 001c\.png"):
        label_faults(records, vectors.head(28), NAMES)


def test_faults__unknown_label() -> None:
    records, vectors = photographs(30)
    with pytest.raises(UnknownLabel):
        label_faults(records, vectors, LabelMap(names=("a", "b")))


def test_faults__without_the_extra_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    records, vectors = photographs(30)
    with pytest.raises(CannotJudgeLabels, match=r"need the extra `quality`"):
        label_faults(records, vectors, NAMES)
