"""DICE folders: images, and annotations_classification.json with classes, images, their annotations and statistics."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.sources import (
    BadSource,
    Candidates,
    FileName,
    Source,
    part_named,
    refusal,
    require_inside,
)
from platform_assets.vision.formats.annotations import Annotation, Listing, Refused, Several, checked_box
from platform_assets.vision.formats.copies import (
    CannotWrite,
    CopiedImage,
    coarse_labels,
    copied_images,
    copy_image,
    new_folder,
    stored_header,
    write_json,
)
from platform_assets.vision.formats.documents import ClassName, Document, read_json

if TYPE_CHECKING:
    import polars as pl

BACKGROUND = "__background__"
"""The class of images that show nothing; no class to learn."""


class DiceSource(Source):
    """A DICE folder: `images/` and a json of the nested variant, `classes` and `images` with `annotations` inside.

    A file name starts at `images/`, at the folder of its part in there, or names `images/` itself; the first that is
    there counts. Classes come in order of their ids. `__background__` is no class, its annotations do not count.
    Statistics that are given must agree with the content.
    Format: DICE (Dataset Interchange and Cataloging Engine) 1.0, Vision AI Platform, "DICE Annotation Format
    Specification". Its COCO variant, with `categories`, is the kind `coco`.
    """

    kind: Literal["dice"]
    file: FileName = Field("annotations_classification.json", description="the annotation file")
    several: Several = "reject"

    @field_validator("file")
    @classmethod
    def _inside(cls, file: str) -> str:
        return require_inside(file)

    def own_files(self, root: Path) -> list[str]:
        return [self.file]

    def read(self, root: Path) -> Candidates:
        """One row an image of the file. Raises BadSource when ids repeat or statistics disagree."""
        document = read_json(_Dice, root, self.file)
        classes = _classes(document, self.file)
        _require_statistics(document, classes, self.file)
        listing = Listing(root.resolve(), self.several)
        for image in document.images:
            path = _path(image, listing.real_root)
            place = f"{self.file} image {image.id}"
            try:
                part = part_named(image.split) if image.split else None
                if image.split and part is None:
                    raise Refused("malformed_row", f"{image.split!r} is no part; write train, val or test")
                annotations = [_read(annotation, classes) for annotation in image.all_annotations()]
            except Refused as refused:
                listing.reject(path, refused, place)
            else:
                listing.add(path, [found for found in annotations if found.label != BACKGROUND], place, part)
        return listing.candidates(tuple(entry.name for entry in classes.values() if entry.name != BACKGROUND))


class _Class(Document):
    id: int = Field(ge=0)
    name: ClassName
    supercategory: str | None = None


class _Annotation(Document):
    class_id: int
    class_name: ClassName | None = None
    bbox: list[float] | None = None
    bbox_format: Literal["xywh"] | None = None


class _Image(Document):
    id: int
    file_name: str = Field(min_length=1)
    split: str | None = None
    annotations: list[_Annotation] = Field(default_factory=list)
    annotation: _Annotation | None = None

    def all_annotations(self) -> list[_Annotation]:
        """Its annotations; early files have a single one under `annotation`."""
        return self.annotations + ([self.annotation] if self.annotation else [])


class _Statistics(Document):
    total_images: int | None = None
    total_annotations: int | None = None
    labeled_images: int | None = None
    unlabeled_images: int | None = None
    avg_annotations_per_image: float | None = None
    class_distribution: dict[str, int] | None = None
    split_distribution: dict[str, int] | None = None


class _Dice(Document):
    format_version: Literal["1.0"]
    classes: list[_Class] = Field(min_length=1)
    images: list[_Image]
    statistics: _Statistics | None = None


def _classes(document: _Dice, file: str) -> dict[int, _Class]:
    """Classes in order of their ids. Raises BadSource when ids or names repeat."""
    for what, values in (
        ("classes: ids", [entry.id for entry in document.classes]),
        ("classes: names", [entry.name for entry in document.classes]),
        ("images: ids", [image.id for image in document.images]),
    ):
        if repeated := sorted(value for value, count in Counter[Any](values).items() if count > 1):
            raise BadSource(f"{file}: {what} {repeated[:5]} stand more than once; give every entry its own")
    return {entry.id: entry for entry in sorted(document.classes, key=lambda entry: entry.id)}


def _read(annotation: _Annotation, classes: Mapping[int, _Class]) -> Annotation:
    found = classes.get(annotation.class_id)
    if found is None:
        raise Refused("unknown_label", f"class_id {annotation.class_id} is none of classes")
    if annotation.class_name not in (None, found.name):
        raise Refused(
            "conflicting_labels", f"class_id {found.id} is {found.name!r}, class_name {annotation.class_name!r}"
        )
    box = None if annotation.bbox is None else checked_box(annotation.bbox)
    return Annotation(found.name, box, found.supercategory)


def _path(image: _Image, real_root: Path) -> str:
    """Where the image is; where it should be when it is nowhere."""
    named = PurePosixPath(image.file_name)
    below = [PurePosixPath("images") / named, PurePosixPath("images") / (image.split or "") / named]
    places = [path.as_posix() for path in ([named] if named.parts[:1] == ("images",) else [])] + [
        path.as_posix() for path in below
    ]
    return next((place for place in places if not refusal(real_root, place)), places[0])


def _require_statistics(document: _Dice, classes: Mapping[int, _Class], file: str) -> None:
    """Raises BadSource, naming what is said and what is there. Zero counts may be left out."""
    if document.statistics is None:
        return
    counted = _counted(document.images, classes)
    for name, said in document.statistics.model_dump(exclude_none=True).items():
        found = counted[name]
        if isinstance(said, float):
            agrees = math.isclose(said, found, abs_tol=0.00501)  # it is published with two decimals
        elif isinstance(said, dict):
            agrees = {key: count for key, count in said.items() if count} == found
        else:
            agrees = said == found
        if not agrees:
            raise BadSource(f"{file}: statistics.{name} is {said}, the content gives {found}; write the file again")


def _counted(images: Sequence[_Image], classes: Mapping[int, _Class]) -> dict[str, Any]:
    found = [image.all_annotations() for image in images]
    names = [classes[one.class_id].name for each in found for one in each if one.class_id in classes]
    return _statistics([len(each) for each in found], names, [image.split for image in images])


def _statistics(per_image: Sequence[int], names: Sequence[str], splits: Sequence[str | None]) -> dict[str, Any]:
    labelled = sum(count > 0 for count in per_image)
    return {
        "total_images": len(per_image),
        "total_annotations": sum(per_image),
        "labeled_images": labelled,
        "unlabeled_images": len(per_image) - labelled,
        "avg_annotations_per_image": round(sum(per_image) / len(per_image), 2) if per_image else 0.0,
        "class_distribution": dict(sorted(Counter(names).items())),
        "split_distribution": dict(sorted(Counter(split for split in splits if split).items())),
    }


def write_dice(records: pl.DataFrame, label_map: LabelMap, root: Path, folder: Path) -> None:
    """`images/<part>/` and annotations_classification.json; class ids are those of the label map.

    A box stands with the annotation, in pixels of the stored file, as DICE writes it for detection. There is no time in
    the file, and its dataset_id follows from the content. Raises CannotWrite before anything is written.
    """
    images = copied_images(records, label_map, "DICE")
    if BACKGROUND in label_map.names:
        raise CannotWrite(f"DICE: class {BACKGROUND!r} means there that an image shows nothing; rename the class")
    above = coarse_labels(images, "DICE")
    content_id = " ".join([label_map.checksum, *(f"{image.split}:{image.image_id}" for image in images)])
    with new_folder(folder) as fresh:
        entries = []
        for number, image in enumerate(images, 1):
            copy_image(image, root, fresh / "images" / image.part_folder / image.name)
            entries.append(_image_entry(number, image, root, label_map))
        content = {
            "format_version": "1.0",
            "dataset_id": str(uuid.uuid5(uuid.NAMESPACE_OID, content_id)),
            "dataset_name": folder.name,
            "task_type": "classification",
            "version": 1,
            "classes": [
                {"id": index, "name": name} | ({"supercategory": above[name]} if name in above else {})
                for index, name in enumerate(label_map.names)
            ],
            "images": entries,
            "statistics": _statistics(
                [1] * len(images), [image.label for image in images], [image.split for image in images]
            ),
        }
        write_json(fresh / "annotations_classification.json", content)


def _image_entry(number: int, image: CopiedImage, root: Path, label_map: LabelMap) -> dict[str, Any]:
    header = stored_header(image, root)
    annotation: dict[str, Any] = {"id": number, "image_id": number, "class_id": label_map.index(image.label)}
    annotation |= {"class_name": image.label, "attributes": {}}
    if image.box is not None:
        area = image.box[2] * image.box[3]
        annotation |= {"bbox": list(image.box), "bbox_format": "xywh", "area": area, "iscrowd": 0}
    entry = {"id": number, "file_name": f"{image.part_folder}/{image.name}".lstrip("/")}
    entry |= {"width": header.width, "height": header.height}
    return entry | ({"split": image.split} if image.split else {}) | {"annotations": [annotation]}
