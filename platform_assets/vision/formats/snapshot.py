"""A named snapshot of a dataset version, laid out as files again: the same images, labels, parts and class order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, TypeAdapter, ValidationError

from platform_assets.vision.datasets.sources import (
    RECORD_COLUMNS,
    BadSource,
    Candidates,
    Format,
    KeptImages,
    rejected_frame,
)

if TYPE_CHECKING:
    import polars as pl

RECORDS_FILE = ".snapshot.parquet"
"""The records as they were when the snapshot was made."""

CLASSES_FILE = ".snapshot.json"
"""The class names in the order of the label map."""

SNAPSHOT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._=+-]*$"

_LISTED_COLUMNS = ("path", "label", "split", "group")


class SnapshotSource(Format):
    """A snapshot that `kestrel data snapshot` made; `stores.snapshots` gives the root to read.

    Its parts are official parts, the val that was drawn from train included: with `split: {kind: official}` the records
    are those of the version that was kept, in every column. A file that is not the image that was kept is refused.
    """

    kind: Literal["snapshot"]
    dataset: str = Field(pattern=SNAPSHOT_NAME, description="the dataset that the snapshot was made of")
    name: str = Field(pattern=SNAPSHOT_NAME, description="the snapshot's name")

    def read(self, root: Path) -> Candidates:
        records, classes = _records_of(root), _classes_of(root)
        extras = [name for name in records.columns if name not in RECORD_COLUMNS]
        return Candidates(
            rows=records.select(*_LISTED_COLUMNS, *extras).sort("path"),
            rejected=rejected_frame(()),
            classes=classes,
            kept=KeptImages(dict(records.select("path", "image_id").iter_rows()), _cure(root)),
        )

    def own_files(self, root: Path) -> Sequence[str]:
        return (RECORDS_FILE, CLASSES_FILE)


def write_listing(root: Path, records: pl.DataFrame, classes: Sequence[str]) -> None:
    """What `SnapshotSource.read` reads, beside the image files."""
    records.write_parquet(root / RECORDS_FILE)
    (root / CLASSES_FILE).write_text(json.dumps(list(classes), ensure_ascii=False), encoding="utf-8")


def _records_of(root: Path) -> pl.DataFrame:
    import polars as pl

    try:
        records = pl.read_parquet(root / RECORDS_FILE)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadSource(f"{root / RECORDS_FILE}: not readable ({error}); {_cure(root)}") from error
    if lacking := [name for name in ("image_id", *_LISTED_COLUMNS) if name not in records.columns]:
        raise BadSource(f"{root / RECORDS_FILE}: columns {lacking} are missing; {_cure(root)}")
    return records


def _classes_of(root: Path) -> tuple[str, ...]:
    try:
        return TypeAdapter(tuple[str, ...]).validate_json((root / CLASSES_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise BadSource(f"{root / CLASSES_FILE}: not readable ({reason}); {_cure(root)}") from error


def _cure(root: Path) -> str:
    return f"delete {root}: it is unpacked again from the snapshot"
