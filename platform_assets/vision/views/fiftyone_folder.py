"""The predictions of a trial as a folder that FiftyOne opens, written without FiftyOne and the database it needs."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from platform_assets.vision.datasets.label_map import LabelMap

# The release whose export this layout copies; FiftyOne refuses folders of a release newer than itself.
FIFTYONE_VERSION = "1.22.1"

# Level 6 takes twice the time for 4 % fewer bytes of features (2026-11).
_COMPRESSION = 1

Json = dict[str, Any]


def write_fiftyone(
    folder: Path, predictions: pl.DataFrame, *, root: Path, label_map: LabelMap, vectors: pl.DataFrame | None = None
) -> None:
    """Write metadata.json and samples.json, one sample per image: tags (the part), ground_truth, predictions, correct.

    `vectors` (image_id, vector) adds the field embedding to the images that have one.

    Images stay where they are and are named relative to `root`, so that the folder can move between machines. Open it
    with `fo.Dataset.from_dir(folder, dataset_type=fo.types.FiftyOneDataset, rel_dir=root)`; `root` is in the dataset's
    info. Ids are hashes of the content: the same predictions give the same bytes.
    Format: fiftyone.utils.data.exporters.FiftyOneDatasetExporter.
    """
    folder.mkdir(parents=True, exist_ok=True)
    embedded = {} if vectors is None else dict(zip(vectors["image_id"], vectors["vector"].to_numpy(), strict=True))
    samples = [_sample(row, embedded.get(row["image_id"])) for row in predictions.sort("part", "path").to_dicts()]
    _write(folder / "samples.json", {"samples": samples})
    _write(folder / "metadata.json", _dataset(label_map, root, embedded=vectors is not None))


def _write(path: Path, document: Json) -> None:
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    beside.replace(path)


def _sample(row: Mapping[str, Any], embedding_d: Iterable[float] | None) -> Json:
    key = f"{row['part']}/{row['path']}/{row['image_id']}"
    return {
        "_id": _object_id(f"sample/{key}"),
        "filepath": row["path"],
        "tags": [row["part"]],
        "_media_type": "image",
        "_rand": int(_digest(key)[:8], 16) / 2**32,
        "image_id": row["image_id"],
        "ground_truth": _classification(f"truth/{key}", row["truth"]),
        "predictions": {
            **_classification(f"prediction/{key}", row["prediction"]),
            "confidence": row["confidence"],
            "logits": _vector(row["logits"]),
        },
        "correct": row["correct"],
        **({} if embedding_d is None else {"embedding": _vector(embedding_d)}),
    }


def _classification(key: str, label: str) -> Json:
    return {"_id": _object_id(key), "_cls": "Classification", "tags": [], "label": label}


def _vector(values: Iterable[float]) -> Json:
    """FiftyOne keeps a vector as a compressed .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, dtype=np.float32), allow_pickle=False)
    packed = base64.b64encode(zlib.compress(buffer.getvalue(), _COMPRESSION)).decode()
    return {"$binary": {"base64": packed, "subType": "00"}}


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _object_id(key: str) -> Json:
    return {"$oid": _digest(key)[:24]}


def _dataset(label_map: LabelMap, root: Path, *, embedded: bool) -> Json:
    return {
        "version": FIFTYONE_VERSION,
        "media_type": "image",
        "tags": [],
        "info": {"rel_dir": str(root), "label_map_checksum": label_map.checksum},
        "app_config": {},
        "classes": {},
        "default_classes": list(label_map.names),
        "mask_targets": {},
        "default_mask_targets": {},
        "skeletons": {},
        "sample_fields": [*_sample_fields(), *([_field("embedding", "Vector")] if embedded else [])],
        "frame_fields": [],
        "saved_views": [],
        "workspaces": [],
        "annotation_runs": {},
        "brain_methods": {},
        "evaluations": {},
        "runs": {},
    }


def _sample_fields() -> list[Json]:
    label = [
        _field("id", "ObjectId", stored_as="_id"),
        _field("tags", "List", items="String"),
        _field("label", "String"),
        _field("confidence", "Float"),
        _field("logits", "Vector"),
    ]
    image = [_field("size_bytes", "Int"), _field("mime_type", "String")]
    image += [_field(name, "Int") for name in ("width", "height", "num_channels")]
    return [
        _field("id", "ObjectId", stored_as="_id"),
        _field("filepath", "String"),
        _field("tags", "List", items="String"),
        _field("metadata", "EmbeddedDocument", document="metadata.ImageMetadata", fields=image),
        _field("created_at", "DateTime", read_only=True),
        _field("last_modified_at", "DateTime", read_only=True),
        _field("_media_type", "String"),
        _field("_rand", "Float"),
        _field("_dataset_id", "ObjectId"),
        _field("image_id", "String"),
        _field("ground_truth", "EmbeddedDocument", document="labels.Classification", fields=label),
        _field("predictions", "EmbeddedDocument", document="labels.Classification", fields=label),
        _field("correct", "Boolean"),
    ]


def _field(
    name: str,
    kind: str,
    *,
    stored_as: str | None = None,
    items: str | None = None,
    document: str | None = None,
    fields: list[Json] | None = None,
    read_only: bool = False,
) -> Json:
    return {
        "name": name,
        "ftype": f"fiftyone.core.fields.{kind}Field",
        "embedded_doc_type": f"fiftyone.core.{document}" if document else None,
        "subfield": f"fiftyone.core.fields.{items}Field" if items else None,
        "fields": fields or [],
        "db_field": stored_as or name,
        "description": None,
        "info": None,
        "read_only": read_only,
    }
