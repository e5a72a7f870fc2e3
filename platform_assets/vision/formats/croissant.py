"""Croissant files: JSON-LD that describes local images, their labels and parts, read and checked by mlcroissant."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue, RootModel, field_validator

from platform_assets.vision.datasets.label_map import LabelMap, normal_label
from platform_assets.vision.datasets.sources import (
    BadSource,
    Candidates,
    ClassList,
    FileName,
    Source,
    Spec,
    part_named,
    require_inside,
)
from platform_assets.vision.formats.annotations import Annotation, Listing, Refused, checked_box
from platform_assets.vision.formats.boxes import Box
from platform_assets.vision.formats.copies import CannotWrite, CopiedImage, copied_images, copy_image, new_folder
from platform_assets.vision.formats.croissant_metadata import CroissantAbout, croissant_metadata, mlcroissant_module
from platform_assets.vision.formats.croissant_records import RecordSet, require_local
from platform_assets.vision.formats.documents import class_list, read_json

if TYPE_CHECKING:
    import polars as pl


class CroissantFields(Spec):
    """Which field of the record set says what, by its name or id."""

    path: FileName
    label: FileName
    split: FileName | None = None
    box: FileName | None = Field(None, description="x, y, width, height in pixels, blanks between")


class CroissantSource(ClassList, Source):
    """A Croissant file whose images lie beside it. Nothing is fetched: a remote file or context is an error.

    Fields are inline, columns of one table (CSV, TSV, Parquet, JSON lines), or parts of the paths of a file set. The
    classes are those that the label field refers to, unless `classes` lists them. RAI properties are not looked at.
    Format: MLCommons Croissant 1.0 and 1.1 (Akhtar et al. 2024, arXiv 2403.19546).
    """

    kind: Literal["croissant"]
    file: FileName = Field("croissant.json", description="the JSON-LD file")
    record_set: FileName
    fields: CroissantFields

    @field_validator("file")
    @classmethod
    def _inside(cls, file: str) -> str:
        return require_inside(file)

    def own_files(self, root: Path) -> list[str]:
        tables = self._record_set(root).tables()
        return [self.file, *((PurePosixPath(self.file).parent / table).as_posix() for table in tables)]

    def read(self, root: Path) -> Candidates:
        """One row a record. Raises BadSource, MissingCroissant."""
        records = self._record_set(root)
        classes = self.classes or self._class_list(records)
        listing = Listing(root.resolve())
        for number, cells in records.rows(self.fields.model_dump(exclude_none=True)):
            place = f"{records.where} record {number}"
            path = (PurePosixPath(self.file).parent / cells["path"]).as_posix()
            if not cells["path"]:
                listing.reject(f"{self.file}:{number}", Refused("malformed_row", "the path is empty"), place)
                continue
            try:
                split = cells.get("split", "").strip()
                part = part_named(split) if split else None
                if split and part is None:
                    raise Refused("malformed_row", f"{split!r} is no part; write train, val or test")
                annotation = Annotation(_label(cells["label"], classes), _box(cells.get("box", "")))
            except Refused as refused:
                listing.reject(path, refused, place)
            else:
                listing.add(path, [annotation], place, part)
        return listing.candidates(classes)

    def _record_set(self, root: Path) -> RecordSet:
        document = read_json(_JsonObject, root, self.file).root
        metadata = _checked_by_mlcroissant(document, self.file)
        require_local(metadata, self.file)
        return RecordSet(metadata, self.record_set, root / PurePosixPath(self.file).parent, self.file)

    def _class_list(self, records: RecordSet) -> tuple[str, ...] | None:
        names = records.classes(self.fields.label)
        return None if names is None else class_list(names, f"{records.where}: {self.fields.label}")


class _JsonObject(RootModel[dict[str, JsonValue]]):
    pass


def _label(text: str, classes: Sequence[str] | None) -> str:
    label = normal_label(text)
    if not label:
        raise Refused("missing_label", "the label is empty")
    if classes is not None and label not in classes:
        raise Refused("unknown_label", f"label {label!r} is none of the classes")
    return label


def _box(text: str) -> Box | None:
    if not text.strip():
        return None
    try:
        values = [float(part) for part in text.split()]
    except ValueError:
        raise Refused("malformed_row", f"box {text[:80]!r} is not x y width height") from None
    return checked_box(values)


def _checked_by_mlcroissant(document: dict[str, Any], file: str) -> Any:
    """The file as mlcroissant's Metadata. Raises BadSource with the first of its errors."""
    if not isinstance(context := document.get("@context"), dict):
        raise BadSource(f"{file}: @context is not an object but {context!r}; write it out, contexts are not fetched")
    if any(_loads_context(value) for value in document.values()):
        raise BadSource(f"{file}: it has an @context or @import below its own @context; write all of it there")
    mlcroissant = mlcroissant_module()
    try:
        return mlcroissant.Dataset(document).metadata
    except mlcroissant.ValidationError as error:
        first = next((line for line in str(error).splitlines() if line.startswith("  -  ")), str(error))
        raise BadSource(f"{file}: {first.removeprefix('  -  ')}; correct the file") from None
    # What else mlcroissant 1.1.1, rdflib and networkx raise for JSON-LD that is no Croissant; tests mutate a file to see.
    except (AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise BadSource(f"{file}: no Croissant file: {str(error) or repr(error)}; correct the file") from None


def _loads_context(value: object) -> bool:
    """Whether something in a JSON value would make the JSON-LD parser fetch a document."""
    if isinstance(value, dict):
        return not {"@context", "@import"}.isdisjoint(value) or any(map(_loads_context, value.values()))
    return isinstance(value, list) and any(map(_loads_context, value))


def write_croissant(
    records: pl.DataFrame, label_map: LabelMap, root: Path, folder: Path, *, about: CroissantAbout
) -> None:
    """croissant.json, records.parquet and `images/`, as MLCommons Croissant 1.0; read with record set `records`.

    Its fields are path, image, label, split, box and sha256; labels refer to the record set `labels`, in the order of
    the label map. Equal bytes in two parts are one file. mlcroissant must find neither error nor warning.
    Raises CannotWrite before anything is left behind, MissingCroissant.
    """
    mlcroissant = mlcroissant_module()
    images = copied_images(records, label_map, "Croissant")
    with new_folder(folder) as fresh:
        for image in images:
            copy_image(image, root, fresh / "images" / image.name)
        _write_table(images, fresh / "records.parquet")
        sha256 = hashlib.sha256((fresh / "records.parquet").read_bytes()).hexdigest()
        try:
            document = croissant_metadata(images, label_map, about, sha256).to_json()
        except mlcroissant.ValidationError as error:
            raise CannotWrite(f"Croissant: {error}; correct what is said about the dataset") from None
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        (fresh / "croissant.json").write_text(text, encoding="utf-8")
        issues = mlcroissant.Dataset(json.loads(text)).metadata.ctx.issues
        if issues.errors or issues.warnings:
            raise CannotWrite(f"Croissant: {issues.report()}; correct what is said about the dataset")


def _write_table(images: Sequence[CopiedImage], place: Path) -> None:
    import polars as pl

    rows = [
        {
            "file_name": image.name,
            "path": f"images/{image.name}",
            "label": image.label,
            "split": image.split,
            "box": None if image.box is None else " ".join(f"{value:.9g}" for value in image.box),
            "sha256": image.image_id,
        }
        for image in images
    ]
    pl.DataFrame(rows, schema=dict.fromkeys(rows[0], pl.String)).write_parquet(place)
