"""The body of the source asset: the files of a dataset brought here and hashed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.resources import FilesResource

if TYPE_CHECKING:
    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.stores.tables import Tables

Result = dg.MaterializeResult[Any]


def source_code(spec: VisionDatasetSpec) -> list[str]:
    """The modules that decide what a source is: that of its own format, and hashing."""
    return [type(spec.source).__module__.removeprefix("platform_assets."), "vision.scanning"]


def source(context: dg.AssetExecutionContext, spec: VisionDatasetSpec, tables: Tables, files: FilesResource) -> Result:
    """Hash every file as it stands; files whose size and time are unchanged keep their hash."""
    from platform_assets.vision.scanning import hash_files, source_version
    from platform_assets.vision.sources import source_files

    key = [spec.name, "source"]
    root = files.source_root(spec.source)
    known = tables.read(key) if tables.exists(key) else None
    hashes = hash_files(root, source_files(spec.source, root), known=known)
    tables.write(key, hashes)
    context.log.info(f"{spec.name}: {hashes.height:,} files at {root}")
    metadata: dict[str, Any] = {
        "folder": dg.MetadataValue.path(str(root)),
        "dagster/row_count": hashes.height,
        "bytes": int(hashes["bytes"].sum()),
        "licence": spec.licence.described() or "not stated",
        "citation": spec.citation or "not stated",
    }
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(source_version(hashes)[:16]))
