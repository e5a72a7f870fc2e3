"""COCO annotation files: categories, images and the annotations that join them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.sources import BadSource, Candidates, FileName, Source, require_inside
from platform_assets.vision.datasets.splits import Part
from platform_assets.vision.formats.annotations import Annotation, Listing, Refused, Several, checked_box
from platform_assets.vision.formats.copies import (
    CopiedImage,
    coarse_labels,
    copied_images,
    copy_image,
    new_folder,
    present_parts,
    stored_header,
    write_json,
)
from platform_assets.vision.formats.documents import ClassName, Document, read_json

if TYPE_CHECKING:
    import polars as pl

Id = int | str
"""COCO's ids are integers; iNaturalist and camera-trap sets have text."""


class CocoSource(Source):
    """COCO json, one file or one a part: `{train: annotations/instances_train.json, test: ...}`.

    An image's label is the category of its annotation, its box that annotation's, its coarse label the supercategory.
    Crowd annotations do not count. Classes are the categories in order of their ids. `images` is the folder that file
    names start at, one for all or one a part.
    Format: Lin et al. 2014 (arXiv 1405.0312), "Data format" of the COCO site; annotations without a box as in the
    iNaturalist 2017 competition files (Van Horn et al. 2018, arXiv 1707.06642).
    """

    kind: Literal["coco"]
    annotations: FileName | dict[Part, FileName]
    images: str | dict[Part, str] = Field("", description="folder that the file names start at")
    several: Several = "reject"

    @field_validator("annotations", "images")
    @classmethod
    def _inside(cls, value: str | dict[Part, str]) -> str | dict[Part, str]:
        if not value and isinstance(value, dict):
            raise ValueError("no part is named; name at least one")
        for name in [value] if isinstance(value, str) else value.values():
            require_inside(name)
        return value

    @model_validator(mode="after")
    def _same_parts(self) -> CocoSource:
        if isinstance(self.images, dict):
            parts = set(self.annotations) if isinstance(self.annotations, dict) else set()
            if parts != set(self.images):
                raise ValueError(
                    "images has other parts than annotations; give one folder, or one for each of its parts"
                )
        return self

    def own_files(self, root: Path) -> list[str]:
        return [file for _, file in self._files()]

    def read(self, root: Path) -> Candidates:
        """One row an image of the files. Raises BadSource when ids repeat, lead nowhere or differ between files."""
        listing = Listing(root.resolve(), self.several)
        known: dict[Id, _Category] = {}
        for part, file in self._files():
            document = read_json(_Coco, root, file)
            categories = _categories(document, file)
            known = known or categories
            if known != categories:
                raise BadSource(
                    f"{file}: its categories are not those of {self.own_files(root)[0]}; use the same in all"
                )
            folder = self.images if isinstance(self.images, str) else self.images[part or "train"]
            _list_images(document, categories, listing, (file, folder, part))
        return listing.candidates(tuple(category.name for category in known.values()))

    def _files(self) -> list[tuple[Part | None, str]]:
        return [(None, self.annotations)] if isinstance(self.annotations, str) else list(self.annotations.items())


class _Category(Document):
    id: Id
    name: ClassName
    supercategory: str | None = None


class _Image(Document):
    id: Id
    file_name: str = Field(min_length=1)


class _Annotation(Document):
    image_id: Id
    category_id: Id
    bbox: list[float] | None = None
    iscrowd: bool | int = 0


class _Coco(Document):
    categories: list[_Category] = Field(min_length=1)
    images: list[_Image]
    annotations: list[_Annotation]


def _list_images(
    document: _Coco, categories: Mapping[Id, _Category], listing: Listing, where: tuple[str, str, Part | None]
) -> None:
    file, folder, part = where
    images = _by_id(document.images, f"{file}: images")
    found: dict[Id, list[tuple[int, _Annotation]]] = defaultdict(list)
    for index, annotation in enumerate(document.annotations):
        if annotation.image_id not in images:
            raise BadSource(
                f"{file}: annotations.{index}: image_id {annotation.image_id!r} is none of images; "
                "list the image, or remove the annotation"
            )
        if not annotation.iscrowd:
            found[annotation.image_id].append((index, annotation))
    for image in images.values():
        path = (PurePosixPath(folder) / image.file_name).as_posix()
        place = f"{file} image {image.id!r}"
        try:
            annotations = [_read(annotation, categories, index) for index, annotation in found[image.id]]
        except Refused as refused:
            listing.reject(path, refused, place)
        else:
            listing.add(path, annotations, place, part)


def _read(annotation: _Annotation, categories: Mapping[Id, _Category], index: int) -> Annotation:
    if annotation.category_id not in categories:
        raise Refused(
            "unknown_label", f"annotations.{index}: category_id {annotation.category_id!r} is none of categories"
        )
    try:
        box = None if annotation.bbox is None else checked_box(annotation.bbox)
    except Refused as refused:
        raise Refused(refused.reason, f"annotations.{index}: {refused.detail}") from None
    category = categories[annotation.category_id]
    return Annotation(category.name, box, category.supercategory)


_Entry = TypeVar("_Entry", _Category, _Image)


def _by_id(entries: Sequence[_Entry], where: str) -> dict[Id, _Entry]:
    """The entries in order of their ids. Raises BadSource when one repeats."""
    if repeated := _repeated(entry.id for entry in entries):
        raise BadSource(f"{where}: ids {repeated} stand more than once; give every entry its own")
    return {entry.id: entry for entry in sorted(entries, key=lambda entry: (isinstance(entry.id, str), entry.id))}


def _categories(document: _Coco, file: str) -> dict[Id, _Category]:
    categories = _by_id(document.categories, f"{file}: categories")
    if repeated := _repeated(category.name for category in categories.values()):
        raise BadSource(f"{file}: categories: names {repeated} have more than one id; give every id its own name")
    return categories


def _repeated(values: Iterable[Id]) -> list[Id]:
    return sorted((value for value, count in Counter(values).items() if count > 1), key=str)


def write_coco(records: pl.DataFrame, label_map: LabelMap, root: Path, folder: Path) -> None:
    """`images/<part>/` and `annotations/instances_<part>.json` (without the part where images have none).

    Category ids count from 1 in the order of the label map. An image without a box gets an annotation without one.
    Sizes and boxes are in pixels of the stored file. Raises CannotWrite before anything is written.
    """
    images = copied_images(records, label_map, "COCO")
    above = coarse_labels(images, "COCO")
    categories = [
        {"id": index, "name": name} | ({"supercategory": above[name]} if name in above else {})
        for index, name in enumerate(label_map.names, 1)
    ]
    ids = {name: index for index, name in enumerate(label_map.names, 1)}
    with new_folder(folder) as fresh:
        parts: list[Part | None] = [*present_parts(images)] or [None]
        for part in parts:
            entries, annotations = [], []
            for number, image in enumerate((image for image in images if image.split == part), 1):
                copy_image(image, root, fresh / "images" / image.part_folder / image.name)
                header = stored_header(image, root)
                size = {"width": header.width, "height": header.height}
                entries.append({"id": number, "file_name": image.name} | size)
                annotations.append({"id": number, "image_id": number, "category_id": ids[image.label]} | _boxed(image))
            content = {
                "info": {},
                "licenses": [],
                "images": entries,
                "annotations": annotations,
                "categories": categories,
            }
            write_json(fresh / "annotations" / f"instances{f'_{part}' if part else ''}.json", content)


def _boxed(image: CopiedImage) -> dict[str, Any]:
    if image.box is None:
        return {}
    return {"bbox": list(image.box), "area": image.box[2] * image.box[3], "iscrowd": 0, "segmentation": []}
