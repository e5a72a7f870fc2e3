"""A classifier as files: weights, label map and config, which vouch for each other."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.heads.modules import head_of_tensors
from platform_assets.vision.networks.ensembles import Combination, Ensemble
from platform_assets.vision.networks.models import Classifier, build_classifier
from platform_assets.vision.networks.plugins import plugin_sha256
from platform_assets.vision.recipes.backbones import get_backbone
from platform_assets.vision.recipes.resolving import ResolvedTrial

WEIGHTS_FILE, LABEL_MAP_FILE, CONFIG_FILE = "ckpt.safetensors", "labelmap.json", "config.json"
CLASSIFIER_FILES = (WEIGHTS_FILE, LABEL_MAP_FILE, CONFIG_FILE)
LAST_FILE = "last.safetensors"
# One key only: safetensors writes several in no fixed order, and the bytes have to follow from the content.
_METADATA_KEY = "kestrel"


class CheckpointError(ValueError):
    """Files that are not one whole checkpoint."""


def save_checkpoint(classifier: Classifier, folder: Path, *, label_map: LabelMap, trial: ResolvedTrial) -> str:
    """Write weights, `labelmap.json` and `config.json` (the bytes that `config_hash` is of); returns the checkpoint id.

    The same weights, label map and trial give the same bytes. Raises CheckpointError when they do not belong together.
    """
    _require_belongs(classifier, label_map, trial)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(classifier.state_dict().items())}
    _write(folder / LABEL_MAP_FILE, label_map.to_json().encode())
    _write(folder / CONFIG_FILE, trial.canonical_json().encode())
    _write(
        folder / WEIGHTS_FILE,
        save(tensors, metadata={_METADATA_KEY: _bond(trial.config_hash, trial.label_map_checksum)}),
    )
    return checkpoint_id(folder / WEIGHTS_FILE)


def save_last(weights: dict[str, torch.Tensor], folder: Path) -> None:
    """The weights after the last epoch, beside those of the best one that the checkpoint has."""
    _write(folder / LAST_FILE, save({name: tensor.contiguous() for name, tensor in sorted(weights.items())}))


def checkpoint_id(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a weights file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_trial(folder: Path) -> ResolvedTrial:
    """What the checkpoint was asked to be."""
    try:
        return ResolvedTrial.model_validate_json((folder / CONFIG_FILE).read_bytes())
    except ValidationError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is not a resolved trial: {error}; restore the file") from error


def read_label_map(folder: Path) -> LabelMap:
    return LabelMap.from_json((folder / LABEL_MAP_FILE).read_text(encoding="utf-8"))


def load_classifier(folder: Path, *, expect_label_map: LabelMap | None = None) -> Classifier:
    """The classifier of a folder, on the CPU in evaluation mode.

    Raises LabelMapMismatch when its label map is not `expect_label_map`, and CheckpointError when a file is damaged or
    belongs to another checkpoint.
    """
    trial, label_map = read_trial(folder), read_label_map(folder)
    if expect_label_map is not None:
        expect_label_map.require_same(label_map, what=str(folder))
    # The bytes of the config are hashed, not the record they parse to: a later Kestrel may know more options.
    config_hash = hashlib.sha256((folder / CONFIG_FILE).read_bytes()).hexdigest()
    tensors = _read_tensors(folder / WEIGHTS_FILE, _bond(config_hash, trial.label_map_checksum))
    for network in trial.networks:
        _require_same_code(folder, network)
    classes = len(label_map.names)
    build = _ensemble_of_tensors if trial.mode == "ensemble" else _network_of_tensors
    classifier = build(trial, tensors, classes)
    _require_belongs(classifier, label_map, trial)
    _require_same_shapes(folder / WEIGHTS_FILE, tensors, classifier.state_dict())
    classifier.load_state_dict(tensors)
    return classifier


def _network_of_tensors(
    trial: ResolvedTrial, tensors: dict[str, torch.Tensor], num_classes: int, *, prefix: str = ""
) -> Classifier:
    """The network of a trial with the head that the tensors name; their values are still to be loaded."""
    classifier = build_classifier(
        trial.backbone,
        num_classes,
        trial.preprocessing,
        pretrained=False,
        seed=0,
        features=trial.features,
        parts=trial.parts,
    )
    classifier.head = head_of_tensors(classifier.head, tensors, prefix=f"{prefix}head.")
    return classifier


def _ensemble_of_tensors(trial: ResolvedTrial, tensors: dict[str, torch.Tensor], num_classes: int) -> Ensemble:
    """Of the members that have tensors: val may have left others out."""
    prefixes = {member.trial.trial: f"members.{member.trial.trial}." for member in trial.members}
    found = {key for key, prefix in prefixes.items() if any(name.startswith(prefix) for name in tensors)}
    members = {
        network.trial: _network_of_tensors(network, tensors, num_classes, prefix=prefixes[network.trial])
        for network in trial.networks
        if network.trial in found or not found
    }
    head = Combination(torch.ones(len(members)), votes=trial.combine == "vote")
    return Ensemble(members, head, preprocessing=trial.preprocessing).eval()


def _require_same_code(folder: Path, trial: ResolvedTrial) -> None:
    """What no tensor shows: the heads of a transformer, the forward of a plug-in."""
    backbone = get_backbone(trial.backbone)
    if trial.architecture is not None and trial.architecture != backbone.transformer:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: backbone {trial.backbone!r} was {trial.architecture}, here it is "
            f"{backbone.transformer}; use the version of Kestrel that trained it"
        )
    if trial.plugin_sha256 is not None and plugin_sha256(trial.backbone) != trial.plugin_sha256:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: the source of model {trial.backbone} has changed since it was trained "
            f"(SHA-256 was {trial.plugin_sha256[:12]}...); restore that version, or train again"
        )


def _bond(config_hash: str, label_map_checksum: str) -> str:
    """What a weights file says of the files beside it."""
    facts = {"config_hash": config_hash, "label_map_checksum": label_map_checksum}
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))


def _require_belongs(classifier: Classifier, label_map: LabelMap, trial: ResolvedTrial) -> None:
    if label_map.checksum != trial.label_map_checksum:
        raise CheckpointError(
            f"trial {trial.trial} is of label map {trial.label_map_checksum[:12]}, not {label_map.checksum[:12]}; "
            "use the label map of the trial's dataset version"
        )
    given = (classifier.backbone_name, classifier.num_classes, classifier.preprocessing, classifier.feature_kind)
    wanted = (trial.backbone, len(label_map.names), trial.preprocessing, trial.features)
    if given != wanted:
        raise CheckpointError(f"classifier {given} is not the one that trial {trial.trial} asks for: {wanted}")


def _read_tensors(path: Path, expected_bond: str) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            bond = (file.metadata() or {}).get(_METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; restore it from its output folder") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}; restore it from its output folder") from error
    if bond != expected_bond:
        raise CheckpointError(
            f"{path} says {bond}, the files beside it {expected_bond}; "
            "the files are of two checkpoints, restore them together"
        )
    return tensors


def _require_same_shapes(path: Path, found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    wrong = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    wrong += [f"{name} is not expected" for name in found.keys() - wanted.keys()]
    for name in wanted.keys() & found.keys():
        if found[name].shape != wanted[name].shape:
            wrong.append(f"{name} is {tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}")
        elif found[name].dtype != wanted[name].dtype:
            wrong.append(f"{name} is {found[name].dtype} instead of {wanted[name].dtype}")
    if wrong:
        raise CheckpointError(f"{path} does not fit its config: {'; '.join(sorted(wrong)[:5])} ({len(wrong)} in all)")


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.partial")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
