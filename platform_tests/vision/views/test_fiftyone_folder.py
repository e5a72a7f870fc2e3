"""The layout of the FiftyOne folder, as release 1.22.1 exported and imported it (tried by hand, 2026-11)."""

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.predictions import predictions_frame
from platform_assets.vision.views.fiftyone_folder import write_fiftyone
from platform_tests.vision.pictures import png, write

LABELS = LabelMap(names=("cat", "Hündchen"))
LOGITS = np.array([[1.0, 0.0], [0.25, 0.75], [2.0, -1.0]], dtype=np.float32)


@pytest.fixture
def predictions() -> pl.DataFrame:
    rows = pl.DataFrame(
        {
            "image_id": ["aa", "bb", "cc"],
            "path": ["x/1.png", "x/2.png", "y/3.png"],
            "part": ["test", "test", "val"],
            "label": ["cat", "cat", "Hündchen"],
        }
    )
    return predictions_frame(rows, LOGITS, LABELS)


def _written(folder: Path, predictions: pl.DataFrame) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    write_fiftyone(folder, predictions, root=Path("/data/pets"), label_map=LABELS)
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    return metadata, json.loads((folder / "samples.json").read_text(encoding="utf-8"))["samples"]


def test_write_fiftyone__one_sample_per_evaluated_image(tmp_path: Path, predictions: pl.DataFrame) -> None:
    _, samples = _written(tmp_path / "fiftyone", predictions)
    assert [sample["filepath"] for sample in samples] == ["x/1.png", "x/2.png", "y/3.png"]
    wrong = samples[1]
    assert wrong["tags"] == ["test"]
    assert (wrong["ground_truth"]["label"], wrong["predictions"]["label"], wrong["correct"]) == (
        "cat",
        "Hündchen",
        False,
    )
    assert wrong["predictions"]["confidence"] == pytest.approx(1 / (1 + np.exp(-0.5)), abs=1e-6)
    assert wrong["ground_truth"]["_cls"] == wrong["predictions"]["_cls"] == "Classification"


def test_write_fiftyone__logits_are_a_compressed_array(tmp_path: Path, predictions: pl.DataFrame) -> None:
    _, samples = _written(tmp_path, predictions)
    logits = _unpacked(samples[2]["predictions"]["logits"])
    assert logits.dtype == np.float32
    assert logits.tolist() == LOGITS[2].tolist()


def test_write_fiftyone__embeddings_of_the_images_that_have_one(tmp_path: Path, predictions: pl.DataFrame) -> None:
    vectors = pl.DataFrame(
        {"image_id": ["cc", "aa"], "vector": [[1.5, -2.0], [3.0, 4.0]]},
        schema_overrides={"vector": pl.Array(pl.Float32, 2)},
    )
    write_fiftyone(tmp_path, predictions, root=Path("/data/pets"), label_map=LABELS, vectors=vectors)
    samples = {s["image_id"]: s for s in json.loads((tmp_path / "samples.json").read_text("utf-8"))["samples"]}
    found = {name: _unpacked(sample["embedding"]).tolist() for name, sample in samples.items() if "embedding" in sample}
    assert found == {"aa": [3.0, 4.0], "cc": [1.5, -2.0]}
    fields = json.loads((tmp_path / "metadata.json").read_text("utf-8"))["sample_fields"]
    assert [f["ftype"] for f in fields if f["name"] == "embedding"] == ["fiftyone.core.fields.VectorField"]


def _unpacked(vector: dict[str, Any]) -> np.ndarray:
    packed = base64.b64decode(vector["$binary"]["base64"])
    return np.load(io.BytesIO(zlib.decompress(packed)), allow_pickle=False)


def test_write_fiftyone__every_field_of_a_sample_is_declared(tmp_path: Path, predictions: pl.DataFrame) -> None:
    """FiftyOne hides a field that the dataset document does not declare."""
    metadata, samples = _written(tmp_path, predictions)
    declared = {field["db_field"]: field for field in metadata["sample_fields"]}
    for sample in samples:
        assert set(sample) <= set(declared)
        inner = {field["db_field"] for field in declared["predictions"]["fields"]}
        assert set(sample["predictions"]) - {"_cls"} <= inner
    assert metadata["default_classes"] == list(LABELS.names)
    assert metadata["info"] == {"rel_dir": "/data/pets", "label_map_checksum": LABELS.checksum}


def test_write_fiftyone__ids_are_distinct_object_ids_and_bytes_repeat(
    tmp_path: Path, predictions: pl.DataFrame
) -> None:
    _, samples = _written(tmp_path / "a", predictions)
    _written(tmp_path / "b", predictions.reverse())
    ids = [part["_id"]["$oid"] for s in samples for part in (s, s["ground_truth"], s["predictions"])]
    assert len(set(ids)) == 9
    assert {len(value) for value in ids} == {24}
    assert all(0 <= sample["_rand"] < 1 for sample in samples)
    for name in ("metadata.json", "samples.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["metadata.json", "samples.json"]


@pytest.mark.slow
def test_write_fiftyone__opens_in_fiftyone(
    tmp_path: Path, predictions: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the environment of `make fiftyone`: secantusdb, a database server for it, is GPL-2, and in no extra."""
    secantus = pytest.importorskip("secantus", reason="no database for FiftyOne here: `make fiftyone`")
    write(tmp_path, "x/1.png", png(1))
    vectors = pl.DataFrame(
        {"image_id": ["aa", "bb", "cc"], "vector": [[1.5, -2.0], [3.0, 4.0], [5.0, 6.0]]},
        schema_overrides={"vector": pl.Array(pl.Float32, 2)},
    )
    write_fiftyone(tmp_path / "fo", predictions, root=tmp_path, label_map=LABELS, vectors=vectors)
    with secantus.SecantusDBServer(storage_path=str(tmp_path / "db")) as server:
        monkeypatch.setenv("FIFTYONE_DATABASE_URI", server.uri)
        monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
        fo = pytest.importorskip("fiftyone")
        kind = fo.types.FiftyOneDataset
        dataset = fo.Dataset.from_dir(str(tmp_path / "fo"), dataset_type=kind, rel_dir=str(tmp_path))
        assert dataset.count("predictions") == 3
        assert dataset.match_tags("val").first()["ground_truth"].label == "Hündchen"
        assert [list(value) for value in dataset.sort_by("image_id").values("embedding")] == vectors["vector"].to_list()
        found = dataset.evaluate_classifications("predictions", gt_field="ground_truth")
        assert found.metrics()["accuracy"] == pytest.approx(1 / 3)
