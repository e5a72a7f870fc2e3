"""Mistakes in YAML: each error names the file, the line and the key."""

from collections.abc import Callable
from typing import Any

import pytest

from platform_assets.vision.images.decoding import MAX_PIXELS
from platform_tests.components.projects import CNN, Project, dataset_yaml, experiment_yaml

Document = dict[str, Any]


def _unknown_key(dataset: Document, experiment: Document) -> None:
    dataset["attributes"]["licens"] = "MIT"


def _wrong_type(dataset: Document, experiment: Document) -> None:
    dataset["attributes"]["max_rejected_fraction"] = "few"


def _more_pixels_than_training_decodes(dataset: Document, experiment: Document) -> None:
    dataset["attributes"]["max_pixels"] = MAX_PIXELS + 1


def _unknown_kind(dataset: Document, experiment: Document) -> None:
    dataset["attributes"]["source"]["kind"] = "foldr"


def _unknown_backbone(dataset: Document, experiment: Document) -> None:
    experiment["attributes"]["variants"] = {"cnn": {**CNN, "backbone": "resnet9000"}}


def _no_mode(dataset: Document, experiment: Document) -> None:
    experiment["attributes"]["variants"] = {"cnn": {"backbone": "baseline_cnn"}}


def _no_dataset(dataset: Document, experiment: Document) -> None:
    experiment["attributes"]["dataset"] = "fotos"


def _no_baseline(dataset: Document, experiment: Document) -> None:
    experiment["attributes"]["baseline"] = "vit"


def _option_of_another_mode(dataset: Document, experiment: Document) -> None:
    experiment["attributes"]["variants"]["cnn"] = {**CNN, "probe": {"points": 5}}


def _finetune_without_probe(dataset: Document, experiment: Document) -> None:
    experiment["attributes"]["variants"]["tuned"] = {"backbone": "tf_efficientnet_lite1", "mode": "finetune"}


def _finetune_of_ones_own(dataset: Document, experiment: Document) -> None:
    tuned = {"model": "my.networks:build", "mode": "finetune", "weights": "own.safetensors"}
    experiment["attributes"]["variants"]["tuned"] = tuned


def _search_over_backbones_without_probe(dataset: Document, experiment: Document) -> None:
    attributes, probed = experiment["attributes"], "tf_efficientnet_lite0"
    attributes["variants"]["tuned"] = {"backbone": probed, "mode": "finetune"}
    space = {"backbone": {"choices": [probed, "tf_efficientnet_lite1"]}}
    attributes["tune"] = {"networks": {"variant": "tuned", "trials": 2, "space": space}}


def _needless_waiver(dataset: Document, experiment: Document) -> None:
    waiver = {"reason": "it would take too long", "date": "2026-11-25"}
    experiment["attributes"]["without_probe"] = {"tf_efficientnet_lite0": waiver}


def _warmup_of_one_cycle(dataset: Document, experiment: Document) -> None:
    experiment["attributes"]["variants"]["cnn"] = {**CNN, "train": {"schedule": "one_cycle", "warmup_epochs": 2}}


def _frozen_from_scratch(dataset: Document, experiment: Document) -> None:
    experiment["attributes"]["variants"]["cnn"] = {**CNN, "train": {"frozen_layers": 2}}


def _head_first_from_scratch(dataset: Document, experiment: Document) -> None:
    experiment["attributes"]["variants"]["cnn"] = {**CNN, "train": {"freeze_backbone_epochs": 1}}


def _more_parts_than_patches(dataset: Document, experiment: Document) -> None:
    parts = {"selector": "glsim", "top_k": 20}
    vit = {"backbone": "vit_tiny_patch16_224.augreg_in21k", "mode": "scratch", "image_size_px": 64, "parts": parts}
    experiment["attributes"]["variants"]["vit"] = vit


def _more_parts_than_patches_at_the_shared_size(dataset: Document, experiment: Document) -> None:
    _more_parts_than_patches(dataset, experiment)
    experiment["attributes"]["image_size_px"] = experiment["attributes"]["variants"]["vit"].pop("image_size_px")


def _unknown_rule(dataset: Document, experiment: Document) -> None:
    experiment["attributes"]["gate"] = {"minimum": 0.5, "max_regresion": 0.1}


def _approval_by_nobody(dataset: Document, experiment: Document) -> None:
    experiment["attributes"]["gate"] = {"approval": {"required": True}}


def _waiver_without_reason(dataset: Document, experiment: Document) -> None:
    _finetune_without_probe(dataset, experiment)
    experiment["attributes"]["without_probe"] = {"tf_efficientnet_lite1": {"date": "2026-11-25"}}


@pytest.mark.parametrize(
    ("spoil", "file", "key", "said"),
    [
        (_unknown_key, "photos", "licens", "Extra inputs are not permitted"),
        (_wrong_type, "photos", "max_rejected_fraction", "valid number"),
        (_more_pixels_than_training_decodes, "photos", "max_pixels", "less than or equal to 50000000"),
        (_unknown_kind, "photos", "source", "'foldr'"),
        (_unknown_backbone, "first", "variants.cnn.backbone", "'resnet9000' is not known; use one of baseline_cnn"),
        (_no_mode, "first", "variants.cnn.mode", "Field required"),
        (_no_dataset, "first", "dataset", "no VisionDataset is named 'fotos' (defined: photos)"),
        (_no_baseline, "first", "attributes", "baseline 'vit' is not a variant; name one of cnn, probe"),
        (
            _finetune_without_probe,
            "first",
            "attributes",
            "'tf_efficientnet_lite1' is finetuned and no variant probes it",
        ),
        (
            _search_over_backbones_without_probe,
            "first",
            "attributes",
            "'tf_efficientnet_lite1' is finetuned and no variant probes it",
        ),
        (
            _finetune_of_ones_own,
            "first",
            "attributes",
            "no variant probes it; say under without_probe.my.networks:build for which reason",
        ),
        (_needless_waiver, "first", "attributes", "without_probe.tf_efficientnet_lite0: nothing is waived"),
        (_waiver_without_reason, "first", "without_probe.tf_efficientnet_lite1.reason", "Field required"),
        (_unknown_rule, "first", "gate.max_regresion", "Extra inputs are not permitted"),
        (_approval_by_nobody, "first", "gate.approval", "name who may approve"),
        (
            _warmup_of_one_cycle,
            "first",
            "variants.cnn.train",
            "'warmup_epochs' 2.0 has no meaning without a schedule other than one_cycle",
        ),
        (_frozen_from_scratch, "first", "variants.cnn", "'train.frozen_layers' 2 has no meaning in mode 'scratch'"),
        (
            _head_first_from_scratch,
            "first",
            "variants.cnn",
            "'train.freeze_backbone_epochs' 1 has no meaning in mode 'scratch'",
        ),
        (_more_parts_than_patches, "first", "variants.vit", "parts.top_k 20 is more than the 16 patches"),
        (
            _more_parts_than_patches_at_the_shared_size,
            "first",
            "attributes",
            "variants.vit.parts.top_k 20 is more than the 16 patches of 16 pixels in images of 64",
        ),
        (_option_of_another_mode, "first", "variants.cnn", "option 'probe' has no meaning in mode 'scratch'"),
    ],
)
def test_yaml__error_names_file_line_and_key(
    photos: Project, spoil: Callable[[Document, Document], None], file: str, key: str, said: str
) -> None:
    dataset, experiment = dataset_yaml("images"), experiment_yaml()
    spoil(dataset, experiment)
    paths = {"photos": photos.write("photos", dataset), "first": photos.write("first", experiment)}
    with pytest.raises(Exception, match="Error while") as caught:
        photos.load()
    error: BaseException | None = caught.value
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    lines = paths[file].read_text().splitlines()
    wanted = key.split(".")[-1]
    near = [number for number, line in enumerate(lines, 1) if line.strip().startswith(f"{wanted}:")]
    assert said in text
    assert key in text
    assert any(f"{paths[file]}:{number}" in text for number in near) or f"{paths[file]}:" in text
