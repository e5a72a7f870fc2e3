"""The datasets of a project: what their YAML says, and what is on this machine of each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from platform_assets.components.project_specs import components_of
from platform_assets.components.specs import SLUG
from platform_assets.settings import Settings
from platform_assets.stores.source_roots import project_snapshots, ready_root
from platform_assets.stores.tables import BadTableName, MissingTable, Tables

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.vision.datasets.label_map import LabelMap

CURRENT = "current"


class UnknownDataset(ValueError):
    """No dataset of that name in the project."""


class UnknownVersion(ValueError):
    """No version or snapshot of that name."""


class CannotRegister(ValueError):
    """A folder that cannot become a dataset of the project."""


@dataclass(frozen=True)
class ProjectDatasets:
    """The VisionDataset components of the project in `root`, and their tables, snapshots and files."""

    root: Path
    package: str
    data: Path

    @classmethod
    def here(cls, package: str) -> ProjectDatasets:
        settings = Settings()
        return cls(settings.root.resolve(), package, settings.data_dir.resolve())

    @property
    def tables(self) -> Tables:
        return Tables(self.data / "tables")

    def specs(self) -> dict[str, VisionDatasetSpec]:
        """By name, sorted; nothing but the YAML files is read. Raises BadYaml."""
        from platform_assets.components import VisionDataset

        found = components_of(self.root, VisionDataset)
        return {spec.name: spec for spec in sorted((component.spec for component in found), key=lambda spec: spec.name)}

    def spec(self, name: str) -> VisionDatasetSpec:
        """Raises UnknownDataset."""
        specs = self.specs()
        if name not in specs:
            raise UnknownDataset(f"{name}: no such dataset here; defined are {', '.join(specs) or 'none'}")
        return specs[name]

    def files(self, spec: VisionDatasetSpec) -> Path:
        return ready_root(spec.source, self.root, self.data)

    def version(self, name: str) -> str | None:
        """The version of the current records, None before they are materialized."""
        key = (name, "records")
        return self.tables.current_version(key) if self.tables.exists(key) else None

    def versions(self, name: str) -> list[str]:
        """The versions of the records in the order in which they were made; the last is the current one."""
        key = (name, "records_versions")
        return list(self.tables.read(key)["version"]) if self.tables.exists(key) else []

    def records(self, name: str, version: str = CURRENT) -> pl.DataFrame:
        """The records of a version: `current`, a version that is kept, or a snapshot. Raises UnknownVersion, MissingTable."""
        if version == CURRENT:
            return self.tables.read((name, "records"))
        snapshots = project_snapshots(self.data)
        if version in (kept := snapshots.names(name)):
            return snapshots.records(name, version)
        try:
            return self.tables.read((name, "records"), version=version)
        except (BadTableName, MissingTable):
            known = f"{CURRENT}, its snapshots ({', '.join(kept) or 'none'})"
            versions = ", ".join(self.versions(name)) or "not materialized"
            raise UnknownVersion(f"{name}: {version!r} is none of {known} and its versions ({versions})") from None

    def label_map(self, name: str) -> LabelMap:
        """Raises MissingTable."""
        from platform_assets.vision.datasets.label_map import LabelMap

        return LabelMap(names=tuple(self.tables.read((name, "label_map"))["name"]))

    def register(self, name: str, attributes: dict[str, Any], comment: str) -> Path:
        """Write the YAML of a new dataset; the graph has it from the next load on. Raises CannotRegister."""
        path = self._yaml_of(name)
        document = {"type": "platform_assets.components.VisionDataset", "attributes": {"name": name, **attributes}}
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {comment}\n{text}", encoding="utf-8")
        return path

    def require_free(self, name: str) -> None:
        """Raises CannotRegister unless a dataset may take this name."""
        if not re.fullmatch(SLUG, name):
            raise CannotRegister(f"name {name!r}: lower-case words joined by _ are needed, such as {slug(name)!r}")
        if name in self.specs() or self._yaml_of(name).exists():
            raise CannotRegister(f"{name}: the project has a dataset of this name; choose another with --name")

    def _yaml_of(self, name: str) -> Path:
        return self.root / self.package / "defs" / name / "defs.yaml"


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What materializing would find. `failures` are the reasons for which a blocking check would fail.

    `unlooked` says why nobody looked for near duplicates, if so.
    """

    records: pl.DataFrame
    rejected: pl.DataFrame
    leaks: pl.DataFrame
    failures: tuple[str, ...]
    unlooked: str | None


def validate(
    spec: VisionDatasetSpec, root: Path, project: Path, progress: Callable[[str], Callable[[int, int], None]]
) -> Validation:
    """Read, decode, review and split as the records asset does; nothing is written.

    `progress` makes of the name of a part what its progress is told to.
    Raises BadSource, EmptyDataset, BadReview, BadSplit, TooManyPairs.
    """
    from platform_assets.components.quality_steps import near_pairs
    from platform_assets.components.records_steps import divided, reviewed
    from platform_assets.vision.datasets.scanning import scan
    from platform_assets.vision.datasets.splits import split_leaks

    reading = progress("reading images")
    found = scan(spec.source.read(root), root, max_pixels=spec.max_pixels, leaks=spec.leaks, on_progress=reading)
    rows, _ = reviewed(spec, found.records, found.label_map, project)
    near = near_pairs(spec, rows, root, progress("near duplicates"))
    records = divided(spec, rows, near.pairs)
    leaks = split_leaks(records, group_by=spec.split.group_by or "group", near=near.pairs)
    alike = leaks.filter(leaks["kind"] == "near_duplicate").height
    fraction = found.rejected.height / (found.rejected.height + records.height)
    failures = []
    if leaks.height > alike:
        failures.append(f"{leaks.height - alike} images or groups stand in two parts, 0 are allowed")
    if alike and spec.near_duplicates == "fail":
        failures.append(f"{alike} pairs of near duplicates stand in two parts, 0 are allowed")
    if fraction > spec.max_rejected_fraction:
        failures.append(f"{fraction:.2%} of the files are rejected, {spec.max_rejected_fraction:.2%} are allowed")
    return Validation(
        records=records, rejected=found.rejected, leaks=leaks, failures=tuple(failures), unlooked=near.unlooked
    )


def described(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The format of a folder as a source without its place, and the split that fits its parts. Raises UnknownFormat."""
    from pydantic import TypeAdapter

    from platform_assets.vision.datasets.format_detection import detect
    from platform_assets.vision.datasets.format_kinds import NestedFormat
    from platform_assets.vision.datasets.sources import Format, source_root

    found = detect(folder)
    adapter: TypeAdapter[Format] = TypeAdapter(NestedFormat)
    source = adapter.validate_python(found)
    parts = set(source.read(source_root(source, folder)).rows["split"])
    if {"train", "test"} <= parts and None not in parts:
        return found, {"kind": "official"}
    return found, {"kind": "stratified", "train": 0.7, "val": 0.1, "test": 0.2, "seed": 0}


def licence_of(spec: VisionDatasetSpec) -> str | None:
    """The id of the licence, whether YAML gives the id alone or more."""
    said = spec.model_dump(mode="json")["licence"]
    return said.get("id") if isinstance(said, dict) else said


def slug(text: str) -> str:
    """The nearest name that a dataset may have."""
    word = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return word if word[:1].isalpha() else f"dataset_{word}".rstrip("_")
