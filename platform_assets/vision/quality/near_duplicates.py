"""Images that show the same picture in other bytes: found by perceptual hash or by vectors, told by their pixels, grouped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platform_assets.vision.images.image_files import ReadBytes
from platform_assets.vision.quality.picture_similarity import (
    ANYWHERE,
    CENTRAL,
    OnProgress,
    unit_rows,
    with_similarity,
)

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

HASH_LIMIT = 11
"""Bits of 64. 2026-11, planted copies: bench_near_duplicates.py. Up to 15 finds more of strong crops, in five times the time."""
MIN_SIMILARITY = 0.7
FLAT_STD = 0.02
"""A picture whose channels all vary less (of 1) has a hash of rounding errors, and none is compared."""
NEAREST = 10
"""Neighbours by vector that are looked at of each image."""
_ROWS_AT_ONCE = 1024


def near_duplicates(records: pl.DataFrame, read: ReadBytes, *, on_progress: OnProgress | None = None) -> pl.DataFrame:
    """One row a pair of near duplicates: image_id < other_id, distance (bits), similarity (-1 to 1).

    Resized, re-encoded, brightened and centrally cropped (8 % of a side) copies are found; mirrored, turned and
    off-centre ones are not. Pairs within HASH_LIMIT bits are looked at again: their pixels, less what the dataset's
    images have in common, must correlate. `read` gives the bytes of a path; `on_progress` is that of
    `with_similarity`. Raises TooManyPairs.
    """
    import polars as pl

    images = _images(records)
    candidates = _hash_candidates(images)
    pairs = with_similarity(candidates, images, read, views=CENTRAL, on_progress=on_progress)
    return pairs.filter(pl.col("similarity") >= MIN_SIMILARITY)


def near_duplicates_by_vectors(
    records: pl.DataFrame,
    vectors: pl.DataFrame,
    read: ReadBytes,
    *,
    nearest: int = NEAREST,
    on_progress: OnProgress | None = None,
) -> pl.DataFrame:
    """One row a pair of near duplicates: image_id < other_id, cosine, similarity (both -1 to 1).

    `vectors` has image_id and vector; an image without one is not compared. Each image and its `nearest` by the cosine of
    whitened vectors are looked at again as by `near_duplicates`, with off-centre crops and mirror images too. Time grows
    with the square of the images, memory with one block of rows. `on_progress` gets (images, images in all),
    then as by `with_similarity`.
    """
    import polars as pl

    images = _varied(_images(records))
    candidates = _nearest_pairs(images.join(vectors, on="image_id", maintain_order="left"), nearest, on_progress)
    pairs = with_similarity(candidates, images, read, views=ANYWHERE, mirrored=True, on_progress=on_progress)
    return pairs.filter(pl.col("similarity") >= MIN_SIMILARITY)


def near_duplicate_groups(pairs: pl.DataFrame) -> pl.DataFrame:
    """image_id, near_group of every image that is in a pair; the group is named by the smallest id in it.

    Groups are the connected components of the pairs: a chain of look-alikes is one group.
    """
    import numpy as np
    import polars as pl
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    image_ids = pl.concat([pairs["image_id"], pairs["other_id"].rename("image_id")]).unique().sort()
    if image_ids.is_empty():
        return pl.DataFrame(schema={"image_id": pl.String, "near_group": pl.String})
    rows = np.searchsorted(image_ids.to_numpy(), pairs["image_id"].to_numpy())
    others = np.searchsorted(image_ids.to_numpy(), pairs["other_id"].to_numpy())
    edges = coo_array((np.ones(len(rows)), (rows, others)), shape=(len(image_ids), len(image_ids)))
    component = pl.Series("component", connected_components(edges, directed=False)[1])
    grouped = pl.DataFrame([image_ids, component])
    return grouped.select("image_id", near_group=pl.col("image_id").min().over("component"))


def with_near_group(records: pl.DataFrame, groups: pl.DataFrame) -> pl.DataFrame:
    """The records, in their order, with the column `near_group`; null for an image without near duplicates."""
    return records.drop("near_group", strict=False).join(groups, on="image_id", how="left", maintain_order="left")


def _images(records: pl.DataFrame) -> pl.DataFrame:
    return records.unique("image_id", keep="first").sort("image_id")


def _varied(images: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    return images.filter(pl.col("pixel_std").arr.max() >= FLAT_STD)


def _hash_candidates(images: pl.DataFrame) -> pl.DataFrame:
    import numpy as np
    import polars as pl

    from platform_assets.vision.quality.hash_pairs import hash_pairs

    varied = _varied(images)
    hashes = np.array([int(phash, 16) for phash in varied["phash"]], dtype=np.uint64)
    rows_i, rows_j, distance = hash_pairs(hashes, HASH_LIMIT)
    image_ids = varied["image_id"]
    return pl.DataFrame({"image_id": image_ids[rows_i], "other_id": image_ids[rows_j], "distance": distance})


def _nearest_pairs(images: pl.DataFrame, nearest: int, on_progress: OnProgress | None) -> pl.DataFrame:
    """image_id < other_id, cosine of each image and its nearest; `images` is sorted by image_id."""
    import numpy as np
    import polars as pl

    pairs = pl.DataFrame(schema={"image_id": pl.String, "other_id": pl.String, "cosine": pl.Float64})
    nearest = min(nearest, images.height - 1)
    if nearest < 1:
        return pairs
    unit_nd = unit_rows(_whitened(images["vector"].to_numpy()))
    blocks = []
    for start in range(0, len(unit_nd), _ROWS_AT_ONCE):
        blocks.append(_nearest_rows(unit_nd, start, nearest))
        if on_progress is not None:
            on_progress(start + len(blocks[-1]), len(unit_nd))
    rows = np.repeat(np.arange(len(unit_nd)), nearest)
    both = np.sort(np.stack([rows, np.concatenate(blocks).ravel()], axis=1), axis=1)
    rows_i, rows_j = np.unique(both, axis=0).T
    cosine = np.einsum("nd,nd->n", unit_nd[rows_i], unit_nd[rows_j])
    image_ids = images["image_id"]
    return pl.DataFrame({"image_id": image_ids[rows_i], "other_id": image_ids[rows_j], "cosine": cosine}, pairs.schema)


def _whitened(vectors_nd: NDArray[np.float32]) -> NDArray[np.float32]:
    """Less their mean, and what many images differ in made as small as what few do: a set of one kind of thing is told apart.

    The covariance is shrunk as by Ledoit and Wolf (2004), so that a few images, which it says little of, are left as they are.
    """
    import numpy as np
    from sklearn.covariance import ledoit_wolf_shrinkage

    centred_nd = vectors_nd - vectors_nd.mean(axis=0)
    shrinkage = ledoit_wolf_shrinkage(centred_nd, assume_centered=True)
    variance_d, axes_dd = np.linalg.eigh(centred_nd.T @ centred_nd / len(centred_nd))
    shrunk_d = (1 - shrinkage) * variance_d.clip(min=0) + shrinkage * variance_d.mean()
    return np.asarray(centred_nd @ axes_dd / np.sqrt(shrunk_d.clip(min=1e-12)), dtype=np.float32)


def _nearest_rows(unit_nd: NDArray[np.float32], start: int, nearest: int) -> NDArray[np.int64]:
    """The rows nearest to each of one block, itself left out."""
    import numpy as np

    cosine_bn = unit_nd[start : start + _ROWS_AT_ONCE] @ unit_nd.T
    block = np.arange(len(cosine_bn))
    cosine_bn[block, start + block] = -np.inf
    return np.argpartition(-cosine_bn, nearest - 1, axis=1)[:, :nearest]
