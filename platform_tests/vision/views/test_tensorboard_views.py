"""The evaluation of a trial, read back as TensorBoard and its projector read it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from sklearn.metrics import precision_score, recall_score
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from tensorboard.util.tensor_util import make_ndarray

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.predictions import predictions_frame
from platform_assets.vision.training.tensorboard_log import EVENT_FILE
from platform_assets.vision.views.tensorboard_views import METADATA, PR_CLASSES, write_evaluation, write_projector
from platform_tests.vision.pictures import encoded, noise

ABC = LabelMap(names=("a", "b\tb", "never"))
IMAGES = 60


def _predictions(label_map: LabelMap = ABC, *, classes: int = 2) -> pl.DataFrame:
    generator = np.random.default_rng(0)
    rows = pl.DataFrame(
        {
            "image_id": [f"{n:064x}" for n in range(IMAGES)],
            "path": [f"{n}.png" for n in range(IMAGES)],
            "part": ["test" if n % 2 else "val" for n in range(IMAGES)],
            "label": [label_map.names[n // 2 % classes] for n in range(IMAGES)],
        }
    )
    logits = generator.normal(size=(IMAGES, len(label_map.names))).astype(np.float32)
    return predictions_frame(rows, logits, label_map)


def test_write_evaluation__curves_are_those_of_scikit_learn(tmp_path: Path) -> None:
    predictions = _predictions()
    write_evaluation(tmp_path, predictions, ABC, {})
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    assert set(events.Tags()["tensors"]) == {"pr/test", "pr/test/a", "pr/test/b\tb"}
    curve = make_ndarray(events.Tensors("pr/test/a")[0].tensor_proto)
    assert curve.shape == (6, 127)
    test = predictions.filter(part="test")
    truth, score = (test["truth"] == "a").to_numpy(), np.array(test["probabilities"].to_list())[:, 0]
    for place in (0, 30, 60):
        said = score >= place / 126
        assert curve[4, place] == pytest.approx(precision_score(truth, said, zero_division=0), abs=1e-6)
        assert curve[5, place] == pytest.approx(recall_score(truth, said), abs=1e-6)


def test_write_evaluation__pictures_and_the_same_bytes_again(tmp_path: Path) -> None:
    picture = encoded(noise(1, width=30, height=20))
    first = write_evaluation(tmp_path, _predictions(), ABC, {"confusion": picture}).read_bytes()
    events = EventAccumulator(str(tmp_path)).Reload()
    image = events.Images("test/confusion")[0]
    assert (image.width, image.height) == (30, 20)
    assert Image.open(io.BytesIO(image.encoded_image_string)).size == (30, 20)
    assert write_evaluation(tmp_path, _predictions(), ABC, {"confusion": picture}).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [EVENT_FILE]


def test_write_evaluation__many_classes_are_bounded(tmp_path: Path) -> None:
    many = LabelMap(names=tuple(f"c{n:02}" for n in range(30)))
    write_evaluation(tmp_path, _predictions(many, classes=30), many, {})
    assert len(EventAccumulator(str(tmp_path)).Reload().Tags()["tensors"]) == PR_CLASSES + 1


def test_write_projector__is_what_the_plugin_opens(tmp_path: Path) -> None:
    predictions = _predictions()
    generator = np.random.default_rng(1)
    vectors = pl.DataFrame(
        {"image_id": predictions["image_id"].reverse(), "vector": generator.normal(size=(IMAGES, 4))},
        schema_overrides={"vector": pl.Array(pl.Float32, 4)},
    )
    write_evaluation(tmp_path / "evaluation", predictions, ABC, {})
    write_projector(tmp_path / "evaluation", predictions, vectors)
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    plugin = ProjectorPlugin(
        TBContext(logdir=str(tmp_path), data_provider=MultiplexerDataProvider(runs, str(tmp_path)))
    )
    plugin._update_configs()
    config = plugin._configs["evaluation"].embeddings[0]
    assert list(config.tensor_shape) == [IMAGES, 4]
    shown = plugin.tensor_cache.get(("evaluation", "embedding"))
    by_id = dict(zip(vectors["image_id"], vectors["vector"].to_numpy(), strict=True))
    np.testing.assert_allclose(shown, [by_id[f"{n:064x}"] for n in range(IMAGES)], atol=1e-4)
    lines = (tmp_path / "evaluation" / METADATA).read_text().splitlines()
    assert lines[0].split("\t") == ["path", "part", "truth", "prediction", "correct", "confidence"]
    assert len(lines) == IMAGES + 1
    assert lines[2].split("\t")[:3] == ["1.png", "test", "a"]
    assert lines[4].split("\t")[2] == "b b"
