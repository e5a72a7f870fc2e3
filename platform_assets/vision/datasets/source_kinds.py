"""The kinds of source that YAML may name: every format with its place, and sources that first bring their files."""

from __future__ import annotations

from typing import Annotated

from pydantic import PlainValidator, SerializeAsAny

from platform_assets.vision.datasets.format_kinds import FORMATS, parsed, schema_of
from platform_assets.vision.datasets.sources import Format

SOURCES = FORMATS | {
    "archive": "ArchiveSource",
    "dvc": "DvcSource",
    "snapshot": "SnapshotSource",
    "torchvision": "TorchvisionSource",
}

SourceSpec = Annotated[SerializeAsAny[Format], PlainValidator(lambda given: parsed(given, SOURCES)), schema_of(SOURCES)]
