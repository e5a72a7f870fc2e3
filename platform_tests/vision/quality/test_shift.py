"""Shift: false alarms no more often than alpha in drawn A/A comparisons, planted shifts found and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom

from platform_assets.vision.quality.shift import CannotCompare, shift

ALPHA = 0.05
REPETITIONS = 200


def photographs(generator: np.random.Generator, count: int = 40, **changed: Any) -> pl.DataFrame:
    """Records of one population; sizes come in steps, brightness and bytes are alike: the subjects are dependent."""
    brightness = generator.beta(4, 4, count)
    columns = {
        "image_id": [f"{number:016x}" for number in generator.integers(0, 2**62, count)],
        "label": generator.choice(list("abcdef"), count, p=[0.4, 0.3, 0.15, 0.1, 0.04, 0.01]),
        "pixel_mean": np.repeat(brightness[:, None], 3, axis=1).astype("f4"),
        "pixel_std": np.repeat(generator.beta(2, 5, (count, 1)), 3, axis=1).astype("f4"),
        "width": generator.choice([300, 600], count),
        "height": generator.choice([300, 600], count),
        "bytes": (brightness * 90_000 + generator.integers(0, 9000, count)).astype(int),
    } | changed
    frame = pl.DataFrame({name: list(column) for name, column in columns.items()})
    three = pl.Array(pl.Float32, 3)
    return frame.with_columns(path=pl.col("image_id") + ".png").cast({"pixel_mean": three, "pixel_std": three})


def vectors(generator: np.random.Generator, *sides: pl.DataFrame, moved: float = 0.0) -> pl.DataFrame:
    """Vectors of all the images; those of the last side are moved."""
    frames = []
    for side in sides:
        values = generator.normal(size=(len(side), 8)) + (moved if side is sides[-1] else 0)
        frames.append(
            side.select("image_id").with_columns(vector=pl.Series(values.astype("f4"), dtype=pl.Array(pl.Float32, 8)))
        )
    return pl.concat(frames)


def test_shift__false_alarms_stay_within_the_binomial_band_of_alpha() -> None:
    generator = np.random.default_rng(0)
    alarms = 0
    for seed in range(REPETITIONS):
        before, after = photographs(generator), photographs(generator)
        found = shift(before, after, vectors=vectors(generator, before, after), alpha=ALPHA, seed=seed)
        assert len(found) == 8
        alarms += found["shifted"].any()
    assert alarms <= binom.ppf(0.999, REPETITIONS, ALPHA), f"{alarms} of {REPETITIONS}"


def test_shift__each_test_alone_has_p_values_that_are_not_too_small() -> None:
    generator = np.random.default_rng(1)
    hits: dict[str, int] = {}
    for seed in range(REPETITIONS):
        found = shift(photographs(generator), photographs(generator), seed=seed)
        for subject, p_value in found.select("subject", "p_value").iter_rows():
            hits[subject] = hits.get(subject, 0) + (p_value <= ALPHA)
    assert max(hits.values()) <= binom.ppf(0.9999, REPETITIONS, ALPHA), hits
    # And some, or the tests would find nothing.
    assert hits["label"] >= binom.ppf(0.0001, REPETITIONS, ALPHA)


PLANTED: dict[str, Callable[[np.random.Generator], dict[str, Any]]] = {
    "label": lambda generator: {"label": generator.choice(list("abc"), 40, p=[0.1, 0.2, 0.7])},
    "brightness": lambda generator: {"pixel_mean": np.full((40, 3), 0.8)},
    "contrast": lambda generator: {"pixel_std": np.full((40, 3), 0.6)},
    "width": lambda generator: {"width": np.full(40, 640)},
    "bytes": lambda generator: {"bytes": np.full(40, 1000)},
}


@pytest.mark.parametrize("subject", list(PLANTED))
def test_shift__a_planted_one_is_named(subject: str) -> None:
    generator = np.random.default_rng(2)
    found = shift(photographs(generator), photographs(generator, **PLANTED[subject](generator)), alpha=0.01)
    assert subject in found.filter("shifted")["subject"].to_list()
    assert set(found.filter("shifted")["subject"]) <= {subject, "aspect"}


def test_shift__moved_vectors_are_found_where_nothing_else_moved() -> None:
    generator = np.random.default_rng(3)
    before, after = photographs(generator), photographs(generator)
    found = shift(before, after, vectors=vectors(generator, before, after, moved=0.8))
    assert found.filter("shifted")["subject"].to_list() == ["vectors"]
    assert found.filter(subject="vectors")["p_value"].item() == pytest.approx(1 / 1000)


def test_shift__adjusted_as_by_holm() -> None:
    generator = np.random.default_rng(4)
    found = shift(photographs(generator), photographs(generator))
    p, m = found["p_value"].to_list(), len(found)
    expected = [min(1.0, max(p[j] * (m - j) for j in range(i + 1))) for i in range(m)]
    assert found["p_adjusted"].to_list() == pytest.approx(expected)


def test_shift__does_not_depend_on_row_order() -> None:
    generator = np.random.default_rng(5)
    before, after = photographs(generator), photographs(generator)
    held = vectors(generator, before, after)
    assert shift(before, after, vectors=held).equals(shift(before.reverse(), after.reverse(), vectors=held.reverse()))


def test_shift__images_on_both_sides_are_refused() -> None:
    frame = photographs(np.random.default_rng(6))
    with pytest.raises(CannotCompare, match="40 images stand on both sides"):
        shift(frame, frame)


def test_shift__too_few_images_are_refused() -> None:
    generator = np.random.default_rng(7)
    with pytest.raises(CannotCompare, match="4 and 40 images; at least 5"):
        shift(photographs(generator).head(4), photographs(generator))


def test_shift__images_without_vector_are_counted() -> None:
    generator = np.random.default_rng(8)
    before, after = photographs(generator), photographs(generator)
    with pytest.raises(CannotCompare, match="40 of 40 images have no vector"):
        shift(before, after, vectors=vectors(generator, before))
