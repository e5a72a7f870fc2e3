"""A classification set that torchvision knows by name, once its images are written out as files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from platform_assets.vision.datasets.sources import BadSource, Candidates, Format
from platform_assets.vision.formats.folder import FolderSource

SET_MANIFEST = "manifest.json"

SetOption = StrictInt | StrictStr


class TorchvisionSource(Format):
    """A set by torchvision's own name, such as CIFAR10, with its official parts and its own class order.

    `stores.torchvision_sets.written_set` writes the images once and gives the root to read.
    """

    kind: Literal["torchvision"]
    name: str = Field(pattern=r"^[A-Za-z]\w*$", description="class name in torchvision.datasets")
    download: bool = Field(False, description="whether torchvision may fetch files that are not there")
    options: dict[str, SetOption] = Field(
        default_factory=dict, description="further arguments of the class, such as `size: 160px` of Imagenette"
    )

    def read(self, root: Path) -> Candidates:
        """One row an image of the folders that the set was written to. Raises BadSource when they are not whole."""
        import polars as pl

        manifest = read_manifest(root)
        folders = {written.folder: written.label for written in manifest.classes}
        found = FolderSource(kind="folder", path=".", classes=tuple(folders)).read(root)
        if (count := found.rows.height) != manifest.images:
            raise BadSource(f"{root}: {count:,} images, {SET_MANIFEST} says {manifest.images:,}; delete the folder")
        rows = found.rows.with_columns(pl.col("label").replace_strict(folders, return_dtype=pl.String))
        return Candidates(rows=rows, rejected=found.rejected, classes=tuple(folders.values()))

    def own_files(self, root: Path) -> list[str]:
        return [SET_MANIFEST]


class WrittenClass(BaseModel):
    """A class of the set: its name, and the folder, which may not hold a slash, with its images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    label: str


class SetManifest(BaseModel):
    """What was written out of a set: its classes in its own order, and how many images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    options: dict[str, SetOption]
    classes: tuple[WrittenClass, ...]
    images: int


def read_manifest(root: Path) -> SetManifest:
    """Raises BadSource when it is missing or not its own."""
    place, cure = root / SET_MANIFEST, f"delete {root}, the set is then written again"
    try:
        return SetManifest.model_validate_json(place.read_bytes())
    except FileNotFoundError:
        raise BadSource(f"{place}: not there; {cure}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise BadSource(f"{place}: {field + ': ' if field else ''}{first['msg']}; {cure}") from error
