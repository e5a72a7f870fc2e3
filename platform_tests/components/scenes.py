"""A dataset of few soft pictures, and what its tests ask of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from PIL import Image

from platform_assets.stores.tables import Tables
from platform_tests.components.projects import Project, dataset_yaml, write_images

PARTS = {"train": 4, "val": 2, "test": 2}
OFFICIAL = {"kind": "official"}
VECTORS = 'key:"photos/first/embeddings" or key:"photos/first/label_issues"'
SIDE_PX = 32


def write_scenes(folder: Path) -> Path:
    """Eight pictures a class of soft shapes, which a copy in another size or format still shows."""
    for place in write_images(folder, per_class=8, side=6).rglob("*.png"):
        with Image.open(place) as image:
            soft = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
        soft.save(place)
    return folder


def table(project: Project, name: str) -> pl.DataFrame:
    return Tables(project.data / "tables").read(["photos", name])


def check(result: dg.ExecuteInProcessResult, name: str) -> tuple[bool, str, dict[str, Any]]:
    """Whether it passed, what it says, and its metadata."""
    found = next(each for each in result.get_asset_check_evaluations() if each.check_name == name)
    return found.passed, found.description or "", {key: value.value for key, value in found.metadata.items()}


def data_versions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    found = [event.materialization for event in result.get_asset_materialization_events()]
    return {each.asset_key.path[-1]: each.tags["dagster/data_version"] for each in found}


def in_parts(project: Project) -> Path:
    """The pictures moved into the folders of official parts, and the YAML saying so."""
    images = project.folder.parent / "images"
    root = images.parent / "official"
    for folder in sorted(images.iterdir()):
        pictures = iter(sorted(folder.iterdir()))
        for part, count in PARTS.items():
            (root / part / folder.name).mkdir(parents=True)
            for _ in range(count):
                picture = next(pictures)
                picture.rename(root / part / folder.name / picture.name)
    project.write("photos", dataset_yaml(root, split=OFFICIAL))
    return root


def copy_resized(picture: Path, to: Path) -> Path:
    """The same picture in another size and format."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(picture) as image:
        image.resize((40, 40), Image.Resampling.BICUBIC).save(to, "JPEG", quality=85)
    return to


def steps_done(result: dg.ExecuteInProcessResult) -> set[str]:
    return {str(event.step_key) for event in result.all_events if event.is_step_success}
