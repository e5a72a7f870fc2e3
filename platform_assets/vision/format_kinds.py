"""The formats that files on disk may have, by `kind`. A new one is a file in `formats/` and a name here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from platform_assets.vision.formats.coco import CocoSource
from platform_assets.vision.formats.croissant import CroissantSource
from platform_assets.vision.formats.cub import CubSource
from platform_assets.vision.formats.dice import DiceSource
from platform_assets.vision.formats.fgvc_aircraft import FgvcAircraftSource
from platform_assets.vision.formats.fiftyone import FiftyOneSource
from platform_assets.vision.formats.folder import FolderSource
from platform_assets.vision.formats.globs import GlobsSource
from platform_assets.vision.formats.inaturalist import InaturalistSource
from platform_assets.vision.formats.nabirds import NabirdsSource
from platform_assets.vision.formats.oxford_pet import OxfordPetSource
from platform_assets.vision.formats.parquet import ParquetSource
from platform_assets.vision.formats.stanford_cars import StanfordCarsSource
from platform_assets.vision.formats.stanford_dogs import StanfordDogsSource
from platform_assets.vision.formats.tables import TableSource
from platform_assets.vision.formats.yolo import YoloSource
from platform_assets.vision.sources import Source

FormatSpec = Annotated[
    FolderSource
    | TableSource
    | ParquetSource
    | GlobsSource
    | CocoSource
    | YoloSource
    | DiceSource
    | CroissantSource
    | FiftyOneSource
    | CubSource
    | FgvcAircraftSource
    | InaturalistSource
    | NabirdsSource
    | OxfordPetSource
    | StanfordCarsSource
    | StanfordDogsSource,
    Field(discriminator="kind"),
]
"""A format with its place."""


def _at_the_root(spec: Any) -> Any:
    """The spec with the path `.`: `source_root(nested, outer root)` is then its root, `folder` included."""
    given = spec.model_dump() if isinstance(spec, Source) else spec
    if not isinstance(given, Mapping):
        return given
    if given.get("path", ".") not in (None, ".") or given.get("package") is not None:
        raise ValueError("the outer source says where the files are; leave out `path` and `package`")
    return {**given, "path": "."}


NestedFormat = Annotated[FormatSpec, BeforeValidator(_at_the_root)]
"""A format without a place of its own, inside of a source that brings the files: an archive, a DVC folder."""
