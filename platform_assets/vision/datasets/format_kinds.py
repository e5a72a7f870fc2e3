"""The formats that files on disk may have, by `kind`. A new one is a file in `formats/` and a name here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, SerializeAsAny, WithJsonSchema
from pydantic_core import PydanticKnownError

from platform_assets.vision.datasets.sources import Format, Source

# Modules are imported when a YAML names their kind: all of them would cost a third of a second in every process.
FORMATS = {
    "folder": "FolderSource",
    "table": "TableSource",
    "coco": "CocoSource",
    "croissant": "CroissantSource",
    "cub": "CubSource",
    "dice": "DiceSource",
    "fgvc_aircraft": "FgvcAircraftSource",
    "fiftyone": "FiftyOneSource",
    "globs": "GlobsSource",
    "inaturalist": "InaturalistSource",
    "nabirds": "NabirdsSource",
    "oxford_pet": "OxfordPetSource",
    "parquet": "ParquetSource",
    "stanford_cars": "StanfordCarsSource",
    "stanford_dogs": "StanfordDogsSource",
    "yolo": "YoloSource",
}
"""Class of each kind. Its module has the name of the kind; that of `table` is tables."""

_MODULES = {"table": "tables", "dvc": "dvc_folder", "torchvision": "torchvision_set"}


def parsed(given: Any, kinds: Mapping[str, str]) -> Any:
    """The source of one of `kinds` that a mapping describes; a Format stays what it is."""
    if isinstance(given, Format):
        return given
    if not isinstance(given, Mapping) or "kind" not in given:
        raise PydanticKnownError("union_tag_not_found", {"discriminator": "'kind'"})
    kind = given["kind"]
    if kind not in kinds:
        expected = ", ".join(f"'{name}'" for name in kinds)
        context = {"discriminator": "'kind'", "tag": str(kind), "expected_tags": expected}
        raise PydanticKnownError("union_tag_invalid", context)
    module = import_module(f"platform_assets.vision.formats.{_MODULES.get(kind, kind)}")
    return getattr(module, kinds[kind]).model_validate(given)


def schema_of(kinds: Mapping[str, str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "object", "properties": {"kind": {"enum": sorted(kinds)}}, "required": ["kind"]})


FormatSpec = Annotated[SerializeAsAny[Format], PlainValidator(lambda given: parsed(given, FORMATS)), schema_of(FORMATS)]
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
