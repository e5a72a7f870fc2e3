"""Served files: image bytes in, labels out, and every file that must not be served refused with its reason."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from platform_assets.vision.datasets.label_map import LabelMap, LabelMapMismatch
from platform_assets.vision.evaluation.calibration import Calibration
from platform_assets.vision.images.decoding import UnreadableImage
from platform_assets.vision.networks.exporting import export_onnx
from platform_assets.vision.networks.models import build_classifier
from platform_assets.vision.networks.onnx_classifier import OnnxClassifier, OnnxFileError
from platform_assets.vision.recipes.preprocessing import Preprocessing

LABELS = LabelMap(names=("dark", "red"))
PIXELS = Preprocessing(
    image_size_px=16, resize="squash", interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)


class RednessBackbone(torch.nn.Module):
    """Features are the channel means: a network whose answers are known by hand."""

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        means_bc = x_bchw.mean(dim=(2, 3))
        return torch.nn.functional.pad(means_bc, (0, 253))


def _picture(colour: tuple[int, int, int], kind: str = "PNG", size: tuple[int, int] = (20, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    classifier = build_classifier("baseline_cnn", 2, PIXELS, pretrained=False, seed=0)
    classifier.backbone = RednessBackbone()
    weight_kd = torch.zeros(2, 256)
    weight_kd[0, 0], weight_kd[1, 0] = -1.0, 1.0
    classifier.head.load_state_dict({"weight": weight_kd, "bias": torch.zeros(2)})
    path = tmp_path_factory.mktemp("served") / "model.onnx"
    export_onnx(classifier, path, label_map=LABELS, checkpoint_id="feedfacefeedface")
    return path


@pytest.fixture(scope="module")
def calibrated(exported: Path) -> Path:
    """The same file with a calibration: sets of what is likelier than a third, sure from 0.9 on."""
    fitted = Calibration(
        images=50,
        temperature=2.0,
        coverage=0.9,
        sets="lac",
        set_threshold=2 / 3,
        precision=0.95,
        precision_level=0.9,
        answer_from=0.9,
    )
    model, path = onnx.load(exported), exported.with_name("calibrated.onnx")
    model.metadata_props.add(key="calibration", value=fitted.model_dump_json())
    onnx.save(model, path)
    return path


def test_predict__says_how_sure_it_is_after_its_calibration(exported: Path, calibrated: Path) -> None:
    pictures = [_picture((level, 0, 0)) for level in (0, 100, 128, 255)]
    plain, sure = OnnxClassifier(exported), OnnxClassifier(calibrated)
    logits_bk = plain.logits_of_files(pictures).astype(np.float64)
    wanted_bk = np.exp(logits_bk / 2) / np.exp(logits_bk / 2).sum(axis=1, keepdims=True)
    for before, after, wanted_k in zip(plain.predict(pictures), sure.predict(pictures), wanted_bk, strict=True):
        assert (before.labels, before.is_sure) == (None, None)
        assert after.label == before.label
        assert after.probabilities == pytest.approx(wanted_k.tolist())
        likely = sorted((name for name, p in zip(LABELS.names, wanted_k, strict=True) if p >= 1 / 3), key=LABELS.index)
        assert sorted(after.labels or (), key=LABELS.index) == likely
        assert after.labels is not None
        assert after.labels[0] == after.label
        assert after.is_sure == (wanted_k.max() >= 0.9)


def _with_props(exported: Path, target: Path, **changed: str | None) -> Path:
    model = onnx.load(exported)
    props = {entry.key: entry.value for entry in model.metadata_props} | changed
    onnx.helper.set_model_props(model, {key: value for key, value in props.items() if value is not None})
    onnx.save_model(model, target)
    return target


def test_predict__known_answers_from_files_of_any_kind(exported: Path) -> None:
    model = OnnxClassifier(exported, expect_label_map=LABELS)
    red, dark = model.predict([_picture((255, 0, 0), "JPEG"), _picture((0, 0, 0), "GIF")])
    assert (red.label, dark.label) == ("red", "dark")
    # The red channel is +1 after normalisation: logits -1 and 1, so e / (e + 1/e). JPEG stores red as 254.
    assert red.confidence == pytest.approx(1 / (1 + np.exp(-2)), abs=2e-3)
    assert dark.probabilities == pytest.approx((1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))), abs=1e-6)


def test_predict__facts_travel_with_the_file(exported: Path) -> None:
    model = OnnxClassifier(exported, threads=1)
    assert model.label_map == LABELS
    assert model.preprocessing == PIXELS
    assert model.checkpoint_id == "feedfacefeedface"


def test_predict__any_batch_gives_the_same_answer(exported: Path) -> None:
    model = OnnxClassifier(exported)
    files = [_picture((20 * i, 0, 200), size=(16 + i, 40)) for i in range(9)]
    together = model.predict(files)
    assert together == [model.predict([file])[0] for file in files]
    assert model.predict([]) == []


def test_predict__unreadable_and_oversized_images_are_refused(exported: Path) -> None:
    model = OnnxClassifier(exported)
    with pytest.raises(UnreadableImage, match="not_an_image"):
        model.predict([_picture((1, 2, 3)), b"hello, I am no image at all"])
    with pytest.raises(UnreadableImage, match="too_many_pixels"):
        model.predict([_picture((1, 2, 3), size=(100, 100))], max_pixels=9999)


def test_onnx_classifier__another_label_map_is_refused(exported: Path) -> None:
    with pytest.raises(LabelMapMismatch, match="moved: 'red' at 1 instead of 0"):
        OnnxClassifier(exported, expect_label_map=LabelMap(names=("red", "dark")))


def test_onnx_classifier__edited_labels_are_refused(exported: Path, tmp_path: Path) -> None:
    edited = _with_props(exported, tmp_path / "m.onnx", labels=json.dumps(["red", "dark"]))
    with pytest.raises(OnnxFileError, match="edited after the export"):
        OnnxClassifier(edited)


@pytest.mark.parametrize("key", ["labels", "label_map_checksum", "preprocessing", "checkpoint_id"])
def test_onnx_classifier__file_without_a_record_is_refused(exported: Path, tmp_path: Path, key: str) -> None:
    foreign = _with_props(exported, tmp_path / "m.onnx", **{key: None})
    with pytest.raises(OnnxFileError, match=f"holds no {key}"):
        OnnxClassifier(foreign)


@pytest.mark.parametrize("changed", [{"labels": "[1"}, {"preprocessing": "{}"}, {"labels": '["a","a"]'}])
def test_onnx_classifier__damaged_record_is_refused(exported: Path, tmp_path: Path, changed: dict[str, str]) -> None:
    with pytest.raises(OnnxFileError, match="damaged"):
        OnnxClassifier(_with_props(exported, tmp_path / "m.onnx", **changed))


@pytest.mark.parametrize("data", [b"", b"not a model", None])
def test_onnx_classifier__file_that_is_no_model_is_refused(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "m.onnx"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(OnnxFileError, match=r"m\.onnx: not an ONNX file that runs here"):
        OnnxClassifier(path)


def test_onnx_classifier__truncated_file_is_refused(exported: Path, tmp_path: Path) -> None:
    whole = exported.read_bytes()
    (tmp_path / "m.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OnnxFileError):
        OnnxClassifier(tmp_path / "m.onnx")


def test_onnx_classifier__weights_outside_of_the_file_are_refused(exported: Path, tmp_path: Path) -> None:
    """A file's external data could name any file of the server."""
    model = onnx.load(exported)
    (tmp_path / "served").mkdir()
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=1024)
    onnx.save_model(model, tmp_path / "served" / "m.onnx")
    (tmp_path / "served" / "weights.bin").rename(tmp_path / "weights.bin")
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    (tmp_path / "served" / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match="escapes model directory"):
        OnnxClassifier(tmp_path / "served" / "m.onnx")


def test_onnx_classifier__needs_no_torch(exported: Path) -> None:
    """A server without torch has a third of the memory."""
    code = (
        "import sys; from pathlib import Path; from platform_assets.vision.networks.onnx_classifier import OnnxClassifier; "
        f"OnnxClassifier(Path({str(exported)!r})); print([m for m in ('torch', 'timm', 'dagster') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
