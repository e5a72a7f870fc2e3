"""Checkpoints: deterministic bytes, and files that refuse to be mixed up."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from platform_assets.vision.datasets.label_map import BadLabelMap, LabelMap, LabelMapMismatch
from platform_assets.vision.networks.checkpoints import (
    CONFIG_FILE,
    LABEL_MAP_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    checkpoint_id,
    load_classifier,
    read_label_map,
    read_trial,
    save_checkpoint,
)
from platform_assets.vision.networks.models import Classifier, initial_classifier, place
from platform_assets.vision.networks.weight_files import WeightPlaces, weights_of
from platform_assets.vision.networks.weights import load_backbone
from platform_assets.vision.recipes.resolving import resolve_trial
from platform_assets.vision.recipes.variants import Variant
from platform_tests.vision.shapes import (
    PROTOCOL,
    SHAPES,
    coloured_shapes,
    randomise_batch_norms,
    shapes_trial,
    small_classifier,
)

IMAGES_BCHW = torch.from_numpy(coloured_shapes(4, seed=0).images_nchw)
OTHER_ORDER = LabelMap(names=tuple(reversed(SHAPES.names)))

SAVED_ELSEWHERE = """
import sys
from pathlib import Path
from platform_tests.vision.networks.test_checkpoints import saved
print(saved(Path(sys.argv[1]))[1])
"""


def saved(folder: Path, *, seed: int = 0) -> tuple[Classifier, str]:
    classifier = small_classifier(seed=seed)
    randomise_batch_norms(classifier)
    return classifier, save_checkpoint(classifier, folder, label_map=SHAPES, trial=shapes_trial(seed=seed))


def test_save_checkpoint__comes_back_to_the_bit(tmp_path: Path) -> None:
    classifier, _ = saved(tmp_path)
    loaded = load_classifier(tmp_path, expect_label_map=SHAPES)
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGES_BCHW), classifier(IMAGES_BCHW))
    assert not loaded.training
    assert (read_trial(tmp_path), read_label_map(tmp_path)) == (shapes_trial(), SHAPES)
    assert loaded.preprocessing == classifier.preprocessing


def test_save_checkpoint__leaves_three_files_and_the_config_is_what_was_hashed(tmp_path: Path) -> None:
    saved(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS_FILE, LABEL_MAP_FILE, CONFIG_FILE}
    assert hashlib.sha256((tmp_path / CONFIG_FILE).read_bytes()).hexdigest() == shapes_trial().config_hash


def test_checkpoint_id__is_the_start_of_the_sha256(tmp_path: Path) -> None:
    _, identity = saved(tmp_path)
    assert identity == hashlib.sha256((tmp_path / WEIGHTS_FILE).read_bytes()).hexdigest()[:16]
    assert identity == checkpoint_id(tmp_path / WEIGHTS_FILE)


def test_checkpoint_id__same_weights_same_id_whatever_the_layout(tmp_path: Path) -> None:
    classifier, identity = saved(tmp_path / "a")
    again = save_checkpoint(place(classifier, "cpu"), tmp_path / "b", label_map=SHAPES, trial=shapes_trial())
    assert again == identity
    assert saved(tmp_path / "c", seed=1)[1] != identity


def test_checkpoint_id__is_the_same_in_another_process(tmp_path: Path) -> None:
    _, identity = saved(tmp_path / "here")
    command = [sys.executable, "-c", SAVED_ELSEWHERE, str(tmp_path / "there")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert done.stdout.strip() == identity


def test_save_checkpoint__one_changed_weight_is_another_id(tmp_path: Path) -> None:
    classifier, identity = saved(tmp_path)
    with torch.no_grad():
        classifier.head.bias[0] += 1e-6
    assert save_checkpoint(classifier, tmp_path, label_map=SHAPES, trial=shapes_trial()) != identity


def test_save_checkpoint__refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    classifier, _ = saved(tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"trial baseline__s0 is of label map"):
        save_checkpoint(classifier, tmp_path / "b", label_map=OTHER_ORDER, trial=shapes_trial())
    other = shapes_trial()
    small = other.preprocessing.model_copy(update={"image_size_px": 48})
    with pytest.raises(CheckpointError, match="is not the one that trial"):
        save_checkpoint(
            classifier, tmp_path / "b", label_map=SHAPES, trial=other.model_copy(update={"preprocessing": small})
        )
    assert not (tmp_path / "b").exists()


def test_load_classifier__refuses_another_label_map(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(LabelMapMismatch, match=r"'ring' at|'cross' at"):
        load_classifier(tmp_path, expect_label_map=OTHER_ORDER)


def test_load_classifier__refuses_files_of_two_checkpoints(tmp_path: Path) -> None:
    for seed in (0, 1):
        saved(tmp_path / str(seed), seed=seed)
    shutil.copy(tmp_path / "1" / WEIGHTS_FILE, tmp_path / "0" / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="the files are of two checkpoints"):
        load_classifier(tmp_path / "0")


def test_load_classifier__refuses_a_label_map_of_another_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / LABEL_MAP_FILE).write_text(OTHER_ORDER.to_json())
    with pytest.raises(CheckpointError, match="is of label map"):
        load_classifier(tmp_path)
    (tmp_path / LABEL_MAP_FILE).write_text(SHAPES.to_json().replace("ring", "disc"))
    with pytest.raises(BadLabelMap):
        load_classifier(tmp_path)


def test_load_classifier__names_damage(tmp_path: Path) -> None:
    saved(tmp_path)
    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(weights[:-10])
    with pytest.raises(CheckpointError, match=r"ckpt\.safetensors is damaged"):
        load_classifier(tmp_path)
    (tmp_path / CONFIG_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json is not a resolved trial"):
        load_classifier(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head.bias": None}, r"head\.bias is missing"),
        ({"extra": torch.zeros(2)}, "extra is not expected"),
        ({"head.bias": torch.zeros(4)}, r"head\.bias is \(4,\) instead of \(3,\)"),
        ({"head.bias": torch.zeros(3, dtype=torch.float16)}, r"head\.bias is torch\.float16"),
    ],
)
def test_load_classifier__verifies_names_shapes_and_types(
    tmp_path: Path, change: dict[str, torch.Tensor | None], said: str
) -> None:
    saved(tmp_path)
    path = tmp_path / WEIGHTS_FILE
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = {name: tensor for name, tensor in (load_file(path) | change).items() if tensor is not None}
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=said):
        load_classifier(tmp_path)


PLUGIN = """
from torch import nn


class Small(nn.Sequential):
    feature_dim = 8


def build(image_size_px):
    return Small(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def _saved_variant(folder: Path, variant: Variant) -> Classifier:
    found = weights_of(variant, WeightPlaces(folder, folder))
    sha256 = found.sha256 if found else None
    trial = resolve_trial(variant, name="v", seed=0, protocol=PROTOCOL, pretrained_sha256=sha256)
    classifier = initial_classifier(trial, len(SHAPES.names), found)
    randomise_batch_norms(classifier)
    save_checkpoint(classifier, folder / "ckpt", label_map=SHAPES, trial=trial)
    return classifier


def test_load_classifier__of_a_transformer_needs_the_folder_alone(tmp_path: Path) -> None:
    """The position embeddings were resampled from another grid, and the pretrained file is gone."""
    torch.manual_seed(7)
    save_file(load_backbone("timm/test_vit", pretrained=False).state_dict(), tmp_path / "w.safetensors")
    classifier = _saved_variant(tmp_path, Variant(backbone="timm/test_vit", mode="finetune", weights="w.safetensors"))
    (tmp_path / "w.safetensors").unlink()
    with torch.inference_mode():
        assert torch.equal(load_classifier(tmp_path / "ckpt")(IMAGES_BCHW), classifier(IMAGES_BCHW))
    trial = read_trial(tmp_path / "ckpt")
    assert trial.architecture is not None
    heads = trial.architecture.model_copy(update={"heads": 4})
    save_checkpoint(
        classifier, tmp_path / "ckpt", label_map=SHAPES, trial=trial.model_copy(update={"architecture": heads})
    )
    with pytest.raises(CheckpointError, match=r"backbone 'timm/test_vit' was .*heads=4 .*, here it is .*heads=2"):
        load_classifier(tmp_path / "ckpt")


def test_load_classifier__of_a_plug_in_wants_the_code_that_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "kestrel_test_checkpoint_plugin.py"
    source.write_text(PLUGIN)
    classifier = _saved_variant(tmp_path, Variant(model=f"{source.stem}:build", mode="scratch"))
    with torch.inference_mode():
        assert torch.equal(load_classifier(tmp_path / "ckpt")(IMAGES_BCHW), classifier(IMAGES_BCHW))
    source.write_text(PLUGIN.replace("ReLU", "GELU"))
    with pytest.raises(CheckpointError, match=r"kestrel_test_checkpoint_plugin:build has changed since .* train again"):
        load_classifier(tmp_path / "ckpt")


def test_load_classifier__missing_weights_are_named(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"ckpt\.safetensors is missing; restore it from its output folder"):
        load_classifier(tmp_path)
