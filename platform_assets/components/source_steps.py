"""The body of the source asset: the files of a dataset brought here and hashed, and the version that they have."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from posixpath import splitext
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.specs import data_version
from platform_assets.resources import FilesResource
from platform_assets.vision.datasets.sources import Format

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.stores.tables import Tables

Result = dg.MaterializeResult[Any]


def source_code(spec: VisionDatasetSpec) -> list[str]:
    """The modules that decide what a source is: its format's, that of a format inside of it, and hashing."""
    inside = getattr(spec.source, "format", spec.source)  # an archive or a DVC folder has one, or None: detected
    formats = [spec.source, *([inside] if isinstance(inside, Format) and inside is not spec.source else [])]
    detection = ["vision.datasets.format_detection"] if inside is None else []
    modules = [type(each).__module__.removeprefix("platform_assets.") for each in formats]
    return [*modules, *detection, "vision.datasets.scanning"]


def source(context: dg.AssetExecutionContext, spec: VisionDatasetSpec, tables: Tables, files: FilesResource) -> Result:
    """Bring the files here where they are elsewhere, and hash each as it stands.

    Files whose size and time are unchanged keep their hash.
    """
    key = [spec.name, "source"]
    progress = show.every_two_seconds(context.log.info, f"{spec.name}: fetching")
    with show.stops_cleanly("What was fetched so far is kept."):
        root = files.source_root(spec.source, lambda done, total: progress(done, total or done))
    hashes = hashed(spec, tables, root)
    version = version_now(spec, files, hashes)
    tables.write(key, hashes)
    tables.write([spec.name, "source_version"], show.one_row(version=version))
    context.log.info(f"{spec.name}: {hashes.height:,} files at {root}")
    metadata: dict[str, Any] = {
        "folder": dg.MetadataValue.path(str(root)),
        "dagster/row_count": hashes.height,
        "bytes": int(hashes["bytes"].sum()),
        "kinds_of_files": show.table(_by_suffix(hashes)),
        "licence": spec.licence.described() or "not stated",
        "citation": spec.citation or "not stated",
    }
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(version))


def hashed(spec: VisionDatasetSpec, tables: Tables, root: Path) -> pl.DataFrame:
    """One row a file of the source, hashed unless the table at hand knows it."""
    from platform_assets.vision.datasets.scanning import hash_files
    from platform_assets.vision.datasets.sources import source_files

    key = [spec.name, "source"]
    return hash_files(root, source_files(spec.source, root), known=tables.read(key) if tables.exists(key) else None)


def version_now(spec: VisionDatasetSpec, files: FilesResource, hashes: pl.DataFrame | None) -> str:
    """What the source states of itself, as DVC does, else the hash of its files; and the decisions of reviewers.

    `hashes` may be None for a source that states its version.
    """
    from platform_assets.vision.datasets.scanning import source_version

    stated = files.stated_version(spec.source)
    if stated is None:
        assert hashes is not None
        stated = source_version(hashes)[:16]
    return stated if not spec.overrides else data_version(stated, overrides_hash(spec, files)).value


def overrides_hash(spec: VisionDatasetSpec, files: FilesResource) -> str:
    """SHA-256 of each file of decisions, empty when the YAML names none. Raises BadReview when one is not there."""
    from platform_assets.vision.quality.reviews import BadReview

    places = [Path(files.root) / name for name in spec.overrides]
    for place in places:
        if not place.is_file():
            raise BadReview(
                f"{place}: no such file of decisions; put it there, or remove `overrides` from {spec.name}'s YAML"
            )
    return " ".join(hashlib.sha256(place.read_bytes()).hexdigest() for place in places)


def _by_suffix(hashes: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    counts = Counter(splitext(path)[1].lower() for path in hashes["path"])
    rows = [{"suffix": suffix or "none", "files": count} for suffix, count in counts.most_common()]
    return pl.DataFrame(rows, schema={"suffix": pl.String, "files": pl.Int64})
