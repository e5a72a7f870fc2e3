"""Whether each class has enough images, and whether some class has far more than another."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.vision.datasets.label_map import LabelMap


def class_balance_problems(
    records: pl.DataFrame, minimum: int, max_imbalance: float, *, label_map: LabelMap | None = None
) -> pl.DataFrame:
    """One row a problem: problem (too_few | imbalanced), label, images, limit; the smallest class first.

    A class is imbalanced when the largest has over `max_imbalance` times its images. Classes of the label map without
    any image have 0. An image in two rows counts once.
    """
    import polars as pl

    counts = records.group_by("label").agg(images=pl.col("image_id").n_unique().cast(pl.Int64))
    if label_map is not None:
        names = pl.DataFrame({"label": label_map.names}, schema={"label": pl.String})
        counts = names.join(counts, on="label", how="left").with_columns(pl.col("images").fill_null(0))
    limits = {"too_few": pl.lit(float(minimum)), "imbalanced": pl.col("images").max() / max_imbalance}
    judged = [
        counts.select(pl.lit(problem).alias("problem"), "label", "images", limit=limit)
        for problem, limit in limits.items()
    ]
    found = pl.concat(judged).filter(pl.col("images") < pl.col("limit"))
    return found.sort("problem", "images", "label", descending=[True, False, False])
