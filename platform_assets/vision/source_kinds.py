"""The kinds of source that YAML may name: every format with its place, and sources that first bring their files."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from platform_assets.vision.format_kinds import FormatSpec
from platform_assets.vision.formats.archive import ArchiveSource
from platform_assets.vision.formats.dvc_folder import DvcSource
from platform_assets.vision.formats.snapshot import SnapshotSource
from platform_assets.vision.formats.torchvision_set import TorchvisionSource

SourceSpec = Annotated[
    FormatSpec | ArchiveSource | DvcSource | SnapshotSource | TorchvisionSource, Field(discriminator="kind")
]
