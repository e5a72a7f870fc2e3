"""The `kestrel backbones` commands as they are typed, in projects with and without files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from platform_assets.cli import main
from platform_assets.vision.networks.timm_facts import read_backbone
from platform_assets.vision.networks.weight_files import WeightPlaces, find_weights
from platform_assets.vision.networks.weights import load_backbone
from platform_assets.vision.recipes import backbones
from platform_assets.vision.recipes.backbones import get_backbone

NAME = "test_vit"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WeightPlaces:
    """A project whose registry has nothing but a tiny transformer and the baseline, with an empty hub cache."""
    from huggingface_hub import constants

    (tmp_path / "dagster.yaml").touch()
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("KESTREL_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    registry = {"baseline_cnn": get_backbone("baseline_cnn"), NAME: read_backbone(NAME, name=NAME)}
    monkeypatch.setattr(backbones, "BACKBONES", registry)
    return WeightPlaces(tmp_path, tmp_path / "data")


def _said(*arguments: str, code: int) -> str:
    result = CliRunner().invoke(main, ["backbones", *arguments])
    assert result.exit_code == code, result.output
    return result.stdout + result.stderr


def _put(places: WeightPlaces, *, seed: int = 0) -> Path:
    path = places.file_of(get_backbone(NAME))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_file(load_backbone(NAME, pretrained=False).state_dict(), path)
    return path


def test_help__shows_examples_and_what_the_words_mean() -> None:
    assert "kestrel backbones check vit_small_patch14_dinov2.lvd142m" in _said("--help", code=0)
    assert "to be downloaded" in _said("list", "--help", code=0)
    assert "Exit code 1" in re.sub(r"\s+", " ", _said("check", "--help", code=0))


def test_list__says_where_the_weights_are_now(project: WeightPlaces) -> None:
    row = r"\ntest_vit\s+0\.3 M\s+160\s+bicubic\s+half\s+apache-2\.0\s+"
    source = r"\s+timm/test_vit\.r160_in1k\s+"
    assert re.search(row + "to be downloaded" + source + "-\n", _said("list", code=0))
    _put(project)
    assert re.search(row + "file" + source + "-\n", _said("list", code=0))
    assert re.search(r"\nbaseline_cnn\s+1\.2 M\s+96\s+bilinear\s+half\s+-\s+none\s+-\s+-\n", _said("list", code=0))
    assert not project.lock.exists()
    sha256 = find_weights(get_backbone(NAME), project).sha256
    assert re.search(row + "file" + source + sha256[:12] + "\n", _said("list", code=0))
    project.lock.write_text("[]")
    assert "weights.lock.json is not a map" in _said("list", code=1)


def test_check__of_sound_files(project: WeightPlaces) -> None:
    assert "no weights are on this machine yet" in _said("check", code=0)
    path = _put(project)
    said = _said("check", code=0)
    assert re.search(rf"1 of 1: {NAME}", said)
    assert re.search(rf"good  {NAME}  file {path}, SHA-256 [0-9a-f]{{12}}, not used yet", said)
    assert not project.lock.exists(), "a check trusts nothing on first use"
    find_weights(get_backbone(NAME), project)
    assert "not used yet" not in _said("check", NAME, code=0)


def test_check__a_changed_file_is_exit_code_1(project: WeightPlaces) -> None:
    _put(project)
    find_weights(get_backbone(NAME), project)
    _put(project, seed=1)
    assert re.search(rf"BAD  {NAME}  backbone 'test_vit': .* since its first use", _said("check", code=1))


def test_check__a_damaged_file_or_one_of_another_architecture_is_exit_code_1(project: WeightPlaces) -> None:
    path = _put(project)
    path.write_bytes(path.read_bytes()[:-50])
    assert "is not a whole safetensors file" in _said("check", code=1)
    save_file({"a": torch.zeros(1)}, path)
    assert re.search(r"a is not expected; .*is missing; .*in all\)", _said("check", code=1))


def test_check__what_is_asked_for_has_to_be_here(project: WeightPlaces) -> None:
    assert "its weights are not on this machine" in _said("check", NAME, code=1)
    assert "'baseline_cnn' has no pretrained weights" in _said("check", "baseline_cnn", code=1)
    assert "'resnet9000' is not known" in _said("check", "resnet9000", code=1)
    project.data.mkdir()
    project.lock.write_text("[]")
    _put(project)
    assert "weights.lock.json is not a map" in _said("check", NAME, code=1)
    project.lock.write_text(json.dumps({}))
    assert "good" in _said("check", NAME, code=0)
