"""The kinds of source that YAML may name. A new format is one file in `formats/` and one name here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from platform_assets.vision.formats.folder import FolderSource
from platform_assets.vision.formats.tables import TableSource

SourceSpec = Annotated[FolderSource | TableSource, Field(discriminator="kind")]
