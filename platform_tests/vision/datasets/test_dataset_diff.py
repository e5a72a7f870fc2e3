"""Changes between two record tables, by what a person did to the files."""

from __future__ import annotations

import hashlib
import time

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platform_assets.vision.datasets.dataset_diff import change_counts, diff

SCHEMA = {"image_id": pl.String, "path": pl.String, "label": pl.String, "split": pl.String}
NONE = {"added": 0, "removed": 0, "moved": 0, "label": 0, "part": 0}

Row = tuple[str, str, str, str | None]


def frame(*rows: Row) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


OLD = frame(("1", "a/1", "a", "train"), ("2", "a/2", "a", "val"), ("3", "b/3", "b", None))


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (OLD, []),
        (OLD.reverse(), []),
        (OLD.vstack(frame(("4", "b/4", "b", "test"))), [("added", "4", "b/4", None, "b")]),
        (OLD.head(2), [("removed", "3", "b/3", "b", None)]),
        (frame(*OLD.rows()[:2], ("3", "c/9", "b", None)), [("moved", "3", "c/9", "b/3", "c/9")]),
        (frame(*OLD.rows()[:2], ("3", "b/3", "c", None)), [("label", "3", "b/3", "b", "c")]),
        (frame(*OLD.rows()[:2], ("3", "b/3", "b", "train")), [("part", "3", "b/3", None, "train")]),
        (
            frame(*OLD.rows()[:2], ("3", "c/3", "c", "test")),
            [
                ("moved", "3", "c/3", "b/3", "c/3"),
                ("label", "3", "c/3", "b", "c"),
                ("part", "3", "c/3", None, "test"),
            ],
        ),
        (
            frame(*OLD.rows()[:2], ("9", "b/3", "b", None)),
            [("added", "9", "b/3", None, "b"), ("removed", "3", "b/3", "b", None)],
        ),
    ],
    ids=["same", "other order", "came", "went", "moved", "relabelled", "other part", "all three", "edited in place"],
)
def test_diff__says_what_was_done(new: pl.DataFrame, expected: list[tuple[str | None, ...]]) -> None:
    assert diff(OLD, new).rows() == expected


def test_diff__copies_are_told_apart_by_path() -> None:
    """Matching by image alone made two changes of every pair of copies."""
    old = frame(("1", "a/1", "a", "train"), ("1", "a/2", "a", "test"), ("1", "a/3", "a", "val"))
    new = frame(("1", "a/2", "a", "test"), ("1", "z/1", "a", "train"))
    assert diff(old, new).rows() == [("removed", "1", "a/3", "a", None), ("moved", "1", "z/1", "a/1", "z/1")]
    assert diff(old, old).is_empty()


def test_change_counts__has_every_change() -> None:
    assert change_counts(diff(OLD, OLD)) == NONE
    assert change_counts(diff(OLD, OLD.clear())) == {**NONE, "removed": 3}
    assert change_counts(diff(OLD.clear(), OLD)) == {**NONE, "added": 3}


ROWS = st.lists(
    st.tuples(
        st.sampled_from("1234"), st.sampled_from("pqrst"), st.sampled_from("ab"), st.sampled_from(["train", None])
    ),
    max_size=8,
    unique_by=lambda row: row[1],
)


@settings(max_examples=150)
@given(old=ROWS, new=ROWS, random=st.randoms())
def test_diff__order_does_not_matter_and_backwards_is_the_opposite(
    old: list[Row], new: list[Row], random: object
) -> None:
    changes = diff(frame(*old), frame(*new))
    shuffled_old, shuffled_new = old[:], new[:]
    random.shuffle(shuffled_old)  # type: ignore[attr-defined]
    random.shuffle(shuffled_new)  # type: ignore[attr-defined]
    assert diff(frame(*shuffled_old), frame(*shuffled_new)).equals(changes)
    counts, back = change_counts(changes), change_counts(diff(frame(*new), frame(*old)))
    assert (counts["added"], counts["removed"]) == (back["removed"], back["added"])
    assert [counts[name] for name in ("moved", "label", "part")] == [back[name] for name in ("moved", "label", "part")]
    assert len(new) - len(old) == counts["added"] - counts["removed"]


def test_diff__a_hundred_thousand_rows_take_no_time() -> None:
    ids = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(100_000)]
    old = pl.DataFrame({"image_id": ids, "path": [f"a/{i}.jpg" for i in range(100_000)]}).with_columns(
        label=pl.lit("a"), split=pl.lit("train")
    )
    new = old[1000:].with_columns(label=pl.when(pl.int_range(pl.len()) % 10 == 0).then(pl.lit("b")).otherwise("label"))
    started = time.process_time()
    changes = diff(old, new)
    seconds = time.process_time() - started
    assert change_counts(changes) == {**NONE, "removed": 1000, "label": 9900}
    assert seconds < 5, f"{seconds:.1f} s of CPU"
