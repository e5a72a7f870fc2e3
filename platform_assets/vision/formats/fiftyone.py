"""FiftyOne dataset folders: metadata.json, samples.json and the files that the samples name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError, field_validator

from platform_assets.vision.datasets.sources import BadSource, Candidates, Source, part_named, require_inside
from platform_assets.vision.datasets.splits import Part
from platform_assets.vision.formats.annotations import Annotation, Listing, Refused, Several, box_from_fractions
from platform_assets.vision.formats.documents import ClassName, Document, class_list, read_json


class FiftyOneSource(Source):
    """A FiftyOneDataset: the label of a sample is that of its field, its part the one tag that names a part.

    `dataset` is the folder of samples.json below the root, and file paths start at the root, FiftyOne's `rel_dir`; an
    export with its media has both in one place. Fields of Classification, Detection, and lists of them are read; boxes
    are fractions of the upright picture. The classes are those of the field, else the default ones, when it lists any.
    Format: FiftyOne, "FiftyOneDataset" (fiftyone.utils.data.exporters.FiftyOneDatasetExporter, 1.22).
    """

    kind: Literal["fiftyone"]
    dataset: str = Field("", description="folder of metadata.json and samples.json, when it is not the root")
    label_field: str = Field("ground_truth", min_length=1)
    several: Several = "reject"

    @field_validator("dataset")
    @classmethod
    def _inside(cls, dataset: str) -> str:
        return require_inside(dataset)

    def own_files(self, root: Path) -> list[str]:
        return [(PurePosixPath(self.dataset) / name).as_posix() for name in ("metadata.json", "samples.json")]

    def read(self, root: Path) -> Candidates:
        """One row a sample. Raises BadSource when no sample has the field, or its classes repeat."""
        metadata_file, samples_file = self.own_files(root)
        classes = self._classes(read_json(_Metadata, root, metadata_file), metadata_file)
        samples = read_json(_Samples, root, samples_file).samples
        if samples and not any(self.label_field in (sample.model_extra or {}) for sample in samples):
            raise BadSource(f"{samples_file}: no sample has a field {self.label_field!r}; correct label_field")
        listing = Listing(root.resolve(), self.several)
        for index, sample in enumerate(samples):
            place = f"{samples_file} sample {index}"
            try:
                part = _part(sample.tags)
                labels = _labels((sample.model_extra or {}).get(self.label_field), self.label_field)
                annotations = [_read(label, classes, sample.filepath, listing) for label in labels]
            except Refused as refused:
                listing.reject(sample.filepath, refused, place)
            else:
                listing.add(sample.filepath, annotations, place, part)
        return listing.candidates(classes)

    def _classes(self, metadata: _Metadata, file: str) -> tuple[str, ...] | None:
        names = metadata.classes.get(self.label_field) or metadata.default_classes
        return class_list(names, file) if names else None


class _Metadata(Document):
    default_classes: list[ClassName] = Field(default_factory=list)
    classes: dict[str, list[ClassName]] = Field(default_factory=dict)


class _Sample(Document, extra="allow"):
    filepath: str = Field(min_length=1)
    tags: list[str] = Field(default_factory=list)
    __pydantic_extra__: dict[str, JsonValue]


class _Samples(Document):
    samples: list[_Sample]


class _Label(Document):
    cls: Literal["Classification", "Detection"] = Field(alias="_cls")
    label: ClassName
    bounding_box: list[float] | None = None


class _Classifications(Document):
    cls: Literal["Classifications"] = Field(alias="_cls")
    classifications: list[_Label]


class _Detections(Document):
    cls: Literal["Detections"] = Field(alias="_cls")
    detections: list[_Label]


def _labels(value: Any, field: str) -> list[_Label]:
    """The labels in a field's value. Raises Refused when it holds something else."""
    if value is None:
        return []
    kind = value.get("_cls") if isinstance(value, Mapping) else None
    try:
        if kind == "Classifications":
            return _Classifications.model_validate(value).classifications
        if kind == "Detections":
            return _Detections.model_validate(value).detections
        return [_Label.model_validate(value)]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (field, *first["loc"])))
        raise Refused("malformed_row", f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


def _read(label: _Label, classes: tuple[str, ...] | None, path: str, listing: Listing) -> Annotation:
    if classes is not None and label.label not in classes:
        raise Refused("unknown_label", f"{label.label!r} is none of the classes of metadata.json")
    if label.bounding_box is None:
        return Annotation(label.label)
    return Annotation(label.label, box_from_fractions(label.bounding_box, listing.header(path)))


def _part(tags: list[str]) -> Part | None:
    parts = sorted({part for tag in tags if (part := part_named(tag))})
    if len(parts) > 1:
        raise Refused("malformed_row", f"tags {tags} name several parts; keep one")
    return parts[0] if parts else None
