"""The formats that a dataset is exported to, and what a format wants to be told beside the records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.vision.datasets.label_map import LabelMap
    from platform_assets.vision.formats.croissant_metadata import CroissantAbout

    Write = Callable[[pl.DataFrame, LabelMap, Path, Path], None]
    """Writes records and label map of files below a root into a new folder."""

ExportFormat = Literal["imagefolder", "yolo", "coco", "dice", "croissant"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)


class CannotExport(ValueError):
    """A format that wants to be told more than the dataset's YAML says."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """What Croissant wants to know of a published dataset and YAML does not say."""

    creator: str | None
    url: str | None
    version: str
    published: date | None


def writer(to: ExportFormat, spec: VisionDatasetSpec, release: Release) -> Write:
    """The function that writes the format. Raises CannotExport."""
    from platform_assets.vision.formats import coco, croissant, dice, folder, yolo

    if to == "croissant":
        return partial(croissant.write_croissant, about=_about(spec, release))
    plain: dict[ExportFormat, Write] = {
        "imagefolder": folder.write_folder,
        "yolo": yolo.write_yolo,
        "coco": coco.write_coco,
        "dice": dice.write_dice,
    }
    return plain[to]


def _about(spec: VisionDatasetSpec, release: Release) -> CroissantAbout:
    from pydantic import ValidationError

    from platform_assets.commands.project_datasets import licence_of
    from platform_assets.vision.formats.croissant_metadata import CroissantAbout

    in_yaml = {"licence": licence_of(spec), "citation": spec.citation}
    as_options = {"creator": release.creator, "url": release.url, "published": release.published}
    lacking = [f"`{name}` in the dataset's YAML" for name, value in in_yaml.items() if not value]
    lacking += [f"--{name}" for name, value in as_options.items() if not value]
    if lacking:
        raise CannotExport(f"Croissant wants to know more of {spec.name}: give {', '.join(lacking)}")
    said: dict[str, object] = {"responsible_ai": spec.responsible_ai}
    said |= {"name": spec.name, "description": spec.description, "version": release.version, **in_yaml, **as_options}
    try:
        return CroissantAbout.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        raise CannotExport(f"Croissant: {first['loc'][0]} {first['input']!r}: {first['msg']}; correct it") from error
