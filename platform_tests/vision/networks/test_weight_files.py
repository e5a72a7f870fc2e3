"""Where weights are looked for, and that no other bytes are taken for those that were used first."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from platform_assets.vision.networks.weight_files import (
    BadLock,
    NoPretrainedWeights,
    WeightPlaces,
    WeightsChanged,
    WeightsMissing,
    find_weights,
    locate,
    locked,
    packaged_file,
    verified_package,
    weights_of,
    whereabouts,
)
from platform_assets.vision.recipes.backbones import BACKBONES, HubWeights, PackagedWeights, get_backbone
from platform_assets.vision.recipes.variants import Variant
from platform_tests.vision.hub_server import Hub, hub_server

NAME = "resnet18.a1_in1k"
RESNET = get_backbone(NAME)
ON_THE_HUB = f"/timm/{NAME}/resolve/main/model.safetensors"
OTHER_SHA256 = "ab" * 32

# Each step in turn, in a process that an environment sends to another hub; the answer is one JSON value a step.
STEPS = """
import json, sys
from pathlib import Path
from platform_assets.vision.recipes.backbones import get_backbone
from platform_assets.vision.networks.weight_files import *
backbone, places = get_backbone(sys.argv[1]), WeightPlaces(Path(sys.argv[2]), Path(sys.argv[2], "data"))
said = []
for step in sys.argv[3:]:
    try:
        if step == "find":
            found = find_weights(backbone, places, say=said.append)
            answer = [found.origin, found.sha256, len(said)]
        elif step == "where":
            answer = whereabouts(backbone, places)
        elif step == "spoil":
            path = cached_file(backbone.hub).resolve()
            path.write_bytes(path.read_bytes()[:-1] + b"!")
            answer = None
    except ValueError as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer))
"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WeightPlaces:
    """A project with nothing in it, and an empty cache of the hub's client."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return WeightPlaces(tmp_path, tmp_path / "data")


def _put(places: WeightPlaces, content: bytes = b"weights") -> str:
    path = places.file_of(RESNET)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _steps(project: Path, environment: dict[str, str], *steps: str) -> list[Any]:
    command = [sys.executable, "-c", STEPS, NAME, str(project), *steps]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_find_weights__takes_the_placed_file_and_takes_its_bytes_down(places: WeightPlaces) -> None:
    sha256 = _put(places)
    assert locate(RESNET, places) == find_weights(RESNET, places)
    found = find_weights(RESNET, places)
    assert (found.path, found.sha256, found.origin) == (places.data / "weights" / f"{NAME}.safetensors", sha256, "file")
    assert json.loads((places.data / "weights.lock.json").read_text()) == {NAME: sha256}


def test_locate__writes_nothing(places: WeightPlaces) -> None:
    _put(places)
    assert locate(RESNET, places) is not None
    assert not places.lock.exists()


def test_find_weights__another_file_under_the_name_is_refused(places: WeightPlaces) -> None:
    first = _put(places)
    find_weights(RESNET, places)
    second = _put(places, b"Weights")
    for find in (find_weights, locate):
        with pytest.raises(WeightsChanged, match=f"{second}, .*weights.lock.json has {first} since its first use"):
            find(RESNET, places)
    assert locked(places) == {NAME: first}
    _put(places)
    assert find_weights(RESNET, places).sha256 == first


def test_find_weights__keeps_what_others_took_down(places: WeightPlaces) -> None:
    places.data.mkdir()
    places.lock.write_text(json.dumps({"other": OTHER_SHA256}))
    sha256 = _put(places)
    find_weights(RESNET, places)
    assert locked(places) == {NAME: sha256, "other": OTHER_SHA256}
    assert {path.name for path in places.data.iterdir()} <= {"weights", "weights.lock.json", ".weights.lock"}


@pytest.mark.parametrize("content", ["{", "[]", '{"a": "b"}', '{"a": 3}'])
def test_locked__refuses_a_damaged_lock(places: WeightPlaces, content: str) -> None:
    places.data.mkdir()
    places.lock.write_text(content)
    with pytest.raises(BadLock, match=r"weights\.lock\.json is not .*restore the file, or remove it"):
        locked(places)


def test_find_weights__downloads_once_and_verifies_what_the_hub_states(tmp_path: Path) -> None:
    with hub_server(Hub(ON_THE_HUB, b"from the hub")) as hub:
        online = hub.environment(tmp_path / "home")
        found = _steps(tmp_path, online, "where", "find", "where", "find", "spoil", "find")
        assert found[0] == "to be downloaded"
        assert found[1] == ["cache", hub.stated, 1]
        assert found[2] == "cache"
        assert found[3] == ["cache", hub.stated, 1], "it was downloaded twice"
        assert found[5].startswith("WeightsChanged: ")
        assert f"the hub states {hub.stated}; remove " in found[5]
        assert [line for line in hub.asked if ON_THE_HUB in line] == [f"HEAD {ON_THE_HUB}", f"GET {ON_THE_HUB}"]
    assert locked(WeightPlaces(tmp_path, tmp_path / "data")) == {NAME: hub.stated}


def test_find_weights__other_bytes_than_the_hub_states_are_refused_and_not_locked(tmp_path: Path) -> None:
    with hub_server(Hub(ON_THE_HUB, b"from the hub", stated=OTHER_SHA256)) as hub:
        (answer,) = _steps(tmp_path, hub.environment(tmp_path / "home"), "find")
    assert answer.startswith("WeightsChanged: ")
    assert f"the hub states {OTHER_SHA256}" in answer
    assert not (tmp_path / "data" / "weights.lock.json").exists()


def test_find_weights__a_download_that_the_lock_does_not_know_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "weights.lock.json").write_text(json.dumps({NAME: OTHER_SHA256}))
    with hub_server(Hub(ON_THE_HUB, b"from the hub")) as hub:
        (answer,) = _steps(tmp_path, hub.environment(tmp_path / "home"), "find")
    assert answer.startswith(f"WeightsChanged: backbone '{NAME}'")
    assert f"has {OTHER_SHA256} since its first use" in answer


def test_find_weights__offline_names_the_file_and_both_cures(tmp_path: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    (answer,) = _steps(tmp_path, offline, "find")
    assert answer.startswith(
        f"WeightsMissing: backbone '{NAME}': model.safetensors of timm/{NAME} is not on this machine"
    )
    assert f"put the file at {tmp_path}/data/weights/{NAME}.safetensors, or name one with `weights: PATH`" in answer


def test_find_weights__of_a_model_that_is_on_no_hub(places: WeightPlaces) -> None:
    with pytest.raises(
        WeightsMissing, match=r"'timm/test_vit4' is on no hub; put the file at .*test_vit4\.safetensors"
    ):
        find_weights(get_backbone("timm/test_vit4"), places)
    with pytest.raises(
        NoPretrainedWeights, match="'baseline_cnn' has no pretrained weights; use it with mode 'scratch'"
    ):
        find_weights(get_backbone("baseline_cnn"), places)


def test_weights_of__a_variant_starts_from_its_own_file(places: WeightPlaces) -> None:
    (places.root / "mine.pth").write_bytes(b"mine")
    variant = Variant(backbone=NAME, mode="finetune", weights="mine.pth")
    found = weights_of(variant, places)
    assert found is not None
    assert (found.path, found.sha256) == (places.root / "mine.pth", hashlib.sha256(b"mine").hexdigest())
    assert not places.lock.exists(), "its bytes are named by the trial, not by the lock"
    (places.root / "mine.pth").write_bytes(b"other")
    again = weights_of(variant, places)
    assert again is not None
    assert again.sha256 == hashlib.sha256(b"other").hexdigest()
    with pytest.raises(WeightsMissing, match=r"weights: .*/none\.pth is missing; correct the path"):
        weights_of(variant.model_copy(update={"weights": "none.pth"}), places)


def test_weights_of__a_finetune_without_its_weights_is_told_how_to_do_without(places: WeightPlaces) -> None:
    """Of a head on a frozen backbone random weights are never meant."""
    said = []
    for mode in ("finetune", "linear_probe"):
        with pytest.raises(WeightsMissing, match="'timm/test_vit4' is on no hub; put the file at ") as caught:
            weights_of(Variant.model_validate({"backbone": "timm/test_vit4", "mode": mode}), places)
        said.append("`pretrained: false`" in str(caught.value))
    assert said == [True, False]


def test_weights_of__random_starts_have_no_file(places: WeightPlaces) -> None:
    assert weights_of(Variant(backbone=NAME, mode="scratch"), places) is None
    assert weights_of(Variant(backbone=NAME, mode="finetune", pretrained=False), places) is None


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedWeights:
    """An installed package with a weights file, which must not be imported to find the file."""
    folder = tmp_path / "kestrel_test_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    (folder / "w.pth").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    return PackagedWeights(package=folder.name, file="w.pth", sha256=hashlib.sha256(b"weights").hexdigest())


def test_verified_package__finds_the_file_without_importing_the_package(package: PackagedWeights) -> None:
    assert verified_package(package).read_bytes() == b"weights"


def test_verified_package__one_other_byte_is_refused_before_it_is_read(package: PackagedWeights) -> None:
    packaged_file(package).write_bytes(b"Weights")
    with pytest.raises(WeightsChanged, match=rf"w\.pth: SHA-256 is .* expected {package.sha256}; install the package"):
        verified_package(package)


def test_verified_package__what_is_missing_is_named(package: PackagedWeights) -> None:
    with pytest.raises(WeightsMissing, match="'no_such_weights' is not installed; install the extra 'demo'"):
        verified_package(package.model_copy(update={"package": "no_such_weights"}))
    with pytest.raises(WeightsMissing, match=r"v2\.pth is missing"):
        verified_package(package.model_copy(update={"file": "v2.pth"}))


def test_whereabouts__says_it_in_a_few_words(places: WeightPlaces, package: PackagedWeights) -> None:
    packaged = RESNET.model_copy(update={"weights": package})
    absent = RESNET.model_copy(update={"weights": package.model_copy(update={"package": "no_such_weights"})})
    assert whereabouts(packaged, places) == "package"
    assert whereabouts(absent, places) == "package no_such_weights, not installed"
    assert whereabouts(BACKBONES["baseline_cnn"], places) == "none"
    assert whereabouts(RESNET.model_copy(update={"hub": HubWeights(repo="timm/x")}), places) == "to be downloaded"
    _put(places)
    assert whereabouts(RESNET, places) == "file"
