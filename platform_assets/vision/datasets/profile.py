"""What a records table holds, in numbers: counts, sizes, channel statistics and the version of its content."""

from __future__ import annotations

import hashlib

import polars as pl
from pydantic import BaseModel, ConfigDict


class Profile(BaseModel):
    """Numbers of one dataset version. Channel statistics are of all pixels, RGB, 0 to 1."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    images: int
    classes: int
    total_bytes: int
    channel_mean: tuple[float, float, float]
    channel_std: tuple[float, float, float]
    counts: pl.DataFrame
    sizes: pl.DataFrame
    formats: pl.DataFrame
    imbalance: float


def records_version(records: pl.DataFrame) -> str:
    """SHA-256 over every row and column in path order: two tables agree in version when they agree in content."""
    columns = sorted(records.columns)
    rows = records.select(columns).sort("path").write_ndjson()
    return hashlib.sha256(rows.encode()).hexdigest()


def class_counts(records: pl.DataFrame) -> pl.DataFrame:
    """One row per label with the number of images in each part; a class absent from a part has 0 there."""
    wide = records.pivot(on="split", index="label", values="image_id", aggregate_function="len").fill_null(0)
    parts = [part for part in ("train", "val", "test") if part in wide.columns]
    return wide.select("label", *parts, total=pl.sum_horizontal(parts)).sort("label")


def channel_statistics(records: pl.DataFrame) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, from each image's own (law of total variance)."""
    pixels = (records["width"].cast(pl.Float64) * records["height"].cast(pl.Float64)).to_numpy()
    weights = (pixels / pixels.sum())[:, None]
    means, stds = records["pixel_mean"].to_numpy(), records["pixel_std"].to_numpy()
    mean = (weights * means).sum(axis=0)
    variance = (weights * (stds**2 + means**2)).sum(axis=0) - mean**2
    return tuple(map(float, mean)), tuple(map(float, variance.clip(min=0) ** 0.5))


def profile(records: pl.DataFrame) -> Profile:
    """The profile of a records table with at least one row."""
    counts = class_counts(records)
    mean, std = channel_statistics(records)
    sizes = pl.concat(
        records.select(
            measure=pl.lit(name),
            min=pl.col(name).min().cast(pl.Float64),
            median=pl.col(name).median(),
            max=pl.col(name).max().cast(pl.Float64),
        ).head(1)
        for name in ("width", "height", "bytes")
    )
    return Profile(
        images=records.height,
        classes=counts.height,
        total_bytes=int(records["bytes"].sum()),
        channel_mean=(mean[0], mean[1], mean[2]),
        channel_std=(std[0], std[1], std[2]),
        counts=counts,
        sizes=sizes,
        formats=records.group_by("format", "mode").len("images").sort("images", "format", descending=[True, False]),
        imbalance=max(counts["total"].to_list()) / min(counts["total"].to_list()),
    )
