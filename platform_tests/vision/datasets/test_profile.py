"""Numbers of a records table against the same numbers by hand."""

import numpy as np
import polars as pl
import pytest

from platform_assets.vision.datasets.profile import channel_statistics, class_counts, profile, records_version


def _records(images: list[np.ndarray], labels: list[str], splits: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "image_id": [f"{i:064x}" for i in range(len(images))],
            "path": [f"{i}.png" for i in range(len(images))],
            "label": labels,
            "split": splits,
            "width": [i.shape[1] for i in images],
            "height": [i.shape[0] for i in images],
            "mode": ["RGB"] * len(images),
            "format": ["PNG"] * len(images),
            "bytes": [i.size for i in images],
            "pixel_mean": [i.reshape(-1, 3).mean(0).tolist() for i in images],
            "pixel_std": [i.reshape(-1, 3).std(0).tolist() for i in images],
        },
        schema_overrides={"pixel_mean": pl.Array(pl.Float32, 3), "pixel_std": pl.Array(pl.Float32, 3)},
    )


@pytest.fixture
def records() -> pl.DataFrame:
    random = np.random.default_rng(0)
    images = [random.random((h, w, 3)) for h, w in ((4, 6), (10, 3), (7, 7), (2, 2))]
    return _records(images, ["b", "a", "b", "b"], ["train", "train", "test", "val"])


def test_channel_statistics__equal_those_of_all_pixels_together() -> None:
    random = np.random.default_rng(1)
    images = [random.random((h, w, 3)) * scale for h, w, scale in ((4, 6, 1.0), (10, 3, 0.2), (7, 7, 0.7))]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images])
    mean, std = channel_statistics(_records(images, ["a", "b", "a"], ["train"] * 3))
    assert mean == pytest.approx(pixels.mean(0), abs=1e-6)
    assert std == pytest.approx(pixels.std(0), abs=1e-6)


def test_class_counts__a_class_absent_from_a_part_has_zero(records: pl.DataFrame) -> None:
    assert class_counts(records).rows() == [("a", 1, 0, 0, 1), ("b", 1, 1, 1, 3)]


def test_profile__numbers(records: pl.DataFrame) -> None:
    numbers = profile(records)
    assert (numbers.images, numbers.classes, numbers.imbalance) == (4, 2, 3.0)
    assert numbers.sizes.row(by_predicate=pl.col("measure") == "width") == ("width", 2.0, 4.5, 7.0)


def test_records_version__follows_content_not_order(records: pl.DataFrame) -> None:
    assert records_version(records) == records_version(records.reverse())
    moved = records.with_columns(split=pl.lit("train"))
    assert records_version(moved) != records_version(records)
