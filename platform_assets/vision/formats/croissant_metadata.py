"""What a Croissant file says of images that were copied beside it, in the classes of mlcroissant."""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from platform_assets.vision.cards.dataset_facts import ResponsibleAI
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.sources import Spec
from platform_assets.vision.formats.copies import CopiedImage

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

_ENCODINGS = {
    **{".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".jpe": "image/jpeg", ".jfif": "image/jpeg", ".mpo": "image/jpeg"},
    **{".png": "image/png", ".gif": "image/gif", ".bmp": "image/bmp", ".tif": "image/tiff", ".tiff": "image/tiff"},
    ".webp": "image/webp",
}


class MissingCroissant(ImportError):
    """mlcroissant is not installed."""


class CroissantAbout(Spec):
    """What a Croissant file must or should say of its dataset beside the images."""

    name: Text
    description: Text
    licence: Text = Field(description="SPDX id, name or address")
    citation: Text
    creator: Text
    url: Text
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    published: datetime.date
    responsible_ai: ResponsibleAI = ResponsibleAI()


def mlcroissant_module() -> Any:
    """Raises MissingCroissant."""
    try:
        return importlib.import_module("mlcroissant")
    except ImportError as error:
        raise MissingCroissant(
            "Croissant needs the extra `croissant`: `uv pip install 'kestrel-vision[croissant]'`"
        ) from error


def croissant_metadata(images: Sequence[CopiedImage], label_map: LabelMap, about: CroissantAbout, sha256: str) -> Any:
    """mlcroissant's Metadata of `images/` and records.parquet; `sha256` is that of the table."""
    mlc = mlcroissant_module()
    context = mlc.Context(conforms_to="http://mlcommons.org/croissant/1.0")
    suffixes = sorted({PurePosixPath(image.name).suffix for image in images})
    table = mlc.FileObject(
        ctx=context,
        id="records.parquet",
        name="records.parquet",
        description="One row an image.",
        content_url="records.parquet",
        encoding_formats=["application/x-parquet"],
        sha256=sha256,
    )
    files = mlc.FileSet(
        ctx=context,
        id="images",
        name="images",
        description="The images, named by the SHA-256 of their bytes.",
        includes=[f"images/*{suffix}" for suffix in suffixes],
        encoding_formats=sorted({_ENCODINGS[suffix] for suffix in suffixes}),
    )
    return mlc.Metadata(
        ctx=context,
        name=about.name,
        description=about.description,
        license=[about.licence],
        cite_as=about.citation,
        creators=[mlc.Organization(ctx=context, name=about.creator)],
        url=about.url,
        version=about.version,
        date_published=datetime.datetime.combine(about.published, datetime.time.min),
        distribution=[table, files],
        record_sets=[_label_set(mlc, context, label_map), _image_set(mlc, context)],
        **_responsible_ai(mlc, about.responsible_ai),
    )


def _responsible_ai(mlc: Any, said: ResponsibleAI) -> dict[str, Any]:
    """The properties of RAI 1.0 that are stated, as mlcroissant takes them: one text, or a list of texts or days."""
    fields: dict[str, Any] = {}
    for name, value in said.model_dump(exclude_defaults=True).items():
        values = [value] if isinstance(value, str) else list(value)
        if name == "data_collection_timeframe":
            # A year or a month begins on its first day.
            values = [datetime.datetime.fromisoformat(f"{day}{'-01' * (2 - day.count('-'))}") for day in values]
        many = mlc.Metadata.__dataclass_fields__[name].metadata["cardinality"] == "MANY"
        fields[name] = values if many else "; ".join(values)
    return fields


def _label_set(mlc: Any, context: Any, label_map: LabelMap) -> Any:
    name = mlc.Field(
        ctx=context, id="labels/name", name="name", description="The class name.", data_types=[mlc.DataType.TEXT]
    )
    return mlc.RecordSet(
        ctx=context,
        id="labels",
        name="labels",
        description="The classes, in the order of the label map.",
        data_types=["https://schema.org/Enumeration"],
        key=["labels/name"],
        fields=[name],
        data=[{"labels/name": label} for label in label_map.names],
    )


def _image_set(mlc: Any, context: Any) -> Any:
    def column(name: str, text: str, data_types: Sequence[Any], references: Any = None) -> Any:
        source = mlc.Source(ctx=context, file_object="records.parquet", extract=mlc.Extract(ctx=context, column=name))
        more = {} if references is None else {"references": references}
        return mlc.Field(
            ctx=context, id=f"records/{name}", name=name, description=text, data_types=data_types, source=source, **more
        )

    kinds = mlc.DataType
    by_name = mlc.Extract(ctx=context, file_property="filename")
    content = mlc.Extract(ctx=context, file_property="content")
    image = mlc.Field(
        ctx=context,
        id="records/image",
        name="image",
        description="The picture.",
        data_types=[kinds.IMAGE_OBJECT],
        source=mlc.Source(ctx=context, file_set="images", extract=content),
    )
    of_file = mlc.Source(ctx=context, file_set="images", extract=by_name)
    of_label = mlc.Source(ctx=context, field="labels/name")
    return mlc.RecordSet(
        ctx=context,
        id="records",
        name="records",
        description="One record an image.",
        fields=[
            column("file_name", "The name of the image file.", [kinds.TEXT], of_file),
            column("path", "The image file, from the folder of this file.", [kinds.TEXT]),
            image,
            column("label", "The class.", [kinds.TEXT], of_label),
            column("split", "The part: train, val or test.", [kinds.TEXT, kinds.SPLIT]),
            column("box", "x, y, width, height in pixels of the stored file.", [kinds.BOUNDING_BOX]),
            column("sha256", "SHA-256 of the image file.", [kinds.TEXT]),
        ],
    )
