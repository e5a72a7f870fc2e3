"""The root folder of a source on this machine, its files brought here first where a store keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from platform_assets.stores.datasets import Datasets
from platform_assets.stores.fetches import unpacked
from platform_assets.stores.snapshots import Snapshots
from platform_assets.stores.torchvision_sets import written_set
from platform_assets.vision.datasets.sources import Format, source_root
from platform_assets.vision.formats.archive import ArchiveSource
from platform_assets.vision.formats.dvc_folder import DvcSource
from platform_assets.vision.formats.snapshot import SnapshotSource
from platform_assets.vision.formats.torchvision_set import TorchvisionSource


def project_snapshots(data: Path) -> Snapshots:
    """The snapshots of the project whose data folder this is."""
    return Snapshots(data / "snapshots", data / "cache")


def ready_root(
    source: Format, project: Path, data: Path, on_progress: Callable[[int, int | None], None] | None = None
) -> Path:
    """The folder that the paths of the records start at: pulled, fetched or unpacked, unless all is there already.

    `on_progress` gets what is done of how much, where that is known, of archives and torchvision's sets alone.
    Raises MissingSource, and the errors of the store that brings the files.
    """
    if isinstance(source, DvcSource):
        Datasets(project, data).pull(source.folder_in(project))
        return source.root_in(project)
    if isinstance(source, SnapshotSource):
        return project_snapshots(data).unpacked(source.dataset, source.name)
    if isinstance(source, ArchiveSource):
        return unpacked(source, project, data / "cache", on_progress)
    if isinstance(source, TorchvisionSource):
        return written_set(source, data / "cache", on_progress)
    return source_root(source, project)


def stated_version(source: Format, project: Path, data: Path) -> str | None:
    """The version of a source that states one without its files being here, else None. Nothing is pulled or unpacked."""
    if isinstance(source, DvcSource):
        return source.stated_version(project)
    if isinstance(source, SnapshotSource):
        return project_snapshots(data).get(source.dataset, source.name).version
    if isinstance(source, ArchiveSource) and source.sha256 is not None:
        return _hash_of(source.sha256, source.model_dump_json(include={"format"}))
    if isinstance(source, TorchvisionSource):
        return _hash_of(source.model_dump_json(exclude={"download"}))
    return None


def _hash_of(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
