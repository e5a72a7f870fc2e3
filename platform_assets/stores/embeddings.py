"""The cache of embeddings: a vector is computed once per image or crop, backbone weights, preprocessing and engine."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from platform_assets.stores.tables import parquet_bytes

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")]


class BadEmbeddings(ValueError):
    """A frame offered to the cache does not hold one vector of the key's width per image."""


class DamagedEmbeddings(ValueError):
    """A file of the cache cannot be read as what it should be."""


class EmbeddingKey(BaseModel):
    """All that a vector depends on besides the image's bytes and box; `feature_dim` follows from the backbone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Word
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    preprocessing_id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    engine: Word
    feature_dim: int = Field(ge=1)

    @property
    def folder(self) -> str:
        return f"{self.backbone}-{self.weights_sha256[:16]}-{self.preprocessing_id}-{self.engine}"

    @property
    def columns(self) -> pl.Schema:
        return pl.Schema({"image_id": pl.String(), "vector": pl.Array(pl.Float32(), self.feature_dim)})


class EmbeddingCache:
    """Vectors under `{cache}/embeddings/{key.folder}/part-{content hash}.parquet`, float32, never changed once written.

    `image_id` is what names the pixels: the SHA-256 of the image's bytes, or of these and the box that was cut out (see
    vision/images/cropping.py). A part appears whole or not at all, so any number of writers may add at once; where two wrote the
    same image, the part that is first by name is read.
    """

    def __init__(self, cache: Path) -> None:
        self.root = cache / "embeddings"

    def lookup(self, key: EmbeddingKey, image_ids: Sequence[str]) -> pl.DataFrame:
        """image_id, vector of those images that the cache holds, each once, in the order asked for."""
        asked = pl.DataFrame({"image_id": pl.Series(image_ids, dtype=pl.String)}).unique(maintain_order=True)
        parts = sorted((self.root / key.folder).glob("part-*.parquet"))
        found = [key.columns.to_frame(), *(_matching(part, key, asked["image_id"]) for part in parts)]
        held = pl.concat(found).unique("image_id", keep="first", maintain_order=True)
        return asked.join(held, on="image_id", how="inner", maintain_order="left")

    def add(self, key: EmbeddingKey, frame: pl.DataFrame) -> Path:
        """Keeps one vector per image as a new part; the same rows again are the same part. Raises BadEmbeddings."""
        _require_rows_of(key, frame)
        data = parquet_bytes(frame)
        path = self.root / key.folder / f"part-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
        if not path.exists():
            _write_whole(path, data)
        return path

    def add_all(self, key: EmbeddingKey, frames: Iterable[pl.DataFrame], *, rows_per_part: int = 1024) -> int:
        """Adds frames while they are computed, a part as soon as `rows_per_part` rows are there; the number of rows.

        What was computed before `frames` failed or the process was killed is kept, up to the part that was not full.
        """
        waiting: list[pl.DataFrame] = []
        total = 0
        try:
            for frame in frames:
                waiting.append(frame)
                total += frame.height
                if _rows(waiting) >= rows_per_part:
                    self.add(key, pl.concat(waiting))
                    waiting.clear()
        finally:
            if _rows(waiting):
                self.add(key, pl.concat(waiting))
        return total


def _rows(frames: Collection[pl.DataFrame]) -> int:
    return sum(frame.height for frame in frames)


def _matching(part: Path, key: EmbeddingKey, image_ids: pl.Series) -> pl.DataFrame:
    try:
        lazy = pl.scan_parquet(part)
        found = lazy.collect_schema()
        if found != key.columns:
            raise DamagedEmbeddings(f"{part}: columns are {found}, expected {key.columns}; delete the file")
        return lazy.filter(pl.col("image_id").is_in(image_ids.implode())).collect()
    except pl.exceptions.ComputeError as error:
        raise DamagedEmbeddings(
            f"{part}: not readable as Parquet ({error}); delete the file, its images are then embedded again"
        ) from error


def _require_rows_of(key: EmbeddingKey, frame: pl.DataFrame) -> None:
    if frame.schema != key.columns:
        raise BadEmbeddings(f"{key.folder}: columns are {frame.schema}, expected {key.columns}")
    if frame.is_empty() or frame["image_id"].n_unique() != frame.height or sum(frame.null_count().row(0)):
        raise BadEmbeddings(
            f"{key.folder}: {frame.height} rows with {frame['image_id'].n_unique()} images; give each once"
        )


def _write_whole(path: Path, data: bytes) -> None:
    """Writes beside the place and renames, so that a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
