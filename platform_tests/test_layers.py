"""Each layer, imported whole in a fresh interpreter, loads nothing of the layers above it."""

import json
import subprocess
import sys

import pytest

LOADED_BY_IMPORTING = """
import importlib, json, pkgutil, sys
layer = importlib.import_module(sys.argv[1])
names = [layer.__name__]
names += [module.name for module in pkgutil.walk_packages(getattr(layer, "__path__", []), layer.__name__ + ".")]
for name in names:
    importlib.import_module(name)
json.dump({"imported": names, "loaded": sorted(sys.modules)}, sys.stdout)
"""

# Importing platform_assets.definitions only names the function that builds the graph. A code server calls it, as here.
LOADED_BY_THE_CODE_LOCATION = """
import json, sys
from platform_assets.definitions import defs
assets = [key.to_user_string() for key in defs().resolve_asset_graph().get_all_asset_keys()]
json.dump({"imported": assets, "loaded": sorted(sys.modules)}, sys.stdout)
"""

DAGSTER = {"dagster", "dagster_shared", "dagster_mlflow"}
STORES = {"mlflow", "dvc", "duckdb"}
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "mlflow",
    "optuna",
    "sklearn",
    "matplotlib",
    "openvino",
    "onnxruntime",
    "onnx",
    "tensorboard",
    # Light beside the others, and a tenth of what loading may take over dagster itself.
    "numpy",
    "scipy",
    "polars",
}


def test_layers__vision_is_importable_alone() -> None:
    report = run_python(LOADED_BY_IMPORTING, "platform_assets.vision")
    assert len(report["imported"]) > 1
    assert loaded(report, DAGSTER | STORES | {"platform_assets.stores", "platform_assets.components"}) == set()


def test_layers__stores_know_no_dagster() -> None:
    report = run_python(LOADED_BY_IMPORTING, "platform_assets.stores")
    assert len(report["imported"]) > 1
    assert loaded(report, DAGSTER | {"platform_assets.components", "platform_assets.defs"}) == set()


def test_layers__loading_the_code_location_costs_no_heavy_import() -> None:
    report = run_python(LOADED_BY_THE_CODE_LOCATION)
    assert report["imported"], "the code location has no assets"
    assert loaded(report, HEAVY) == set()


@pytest.mark.parametrize("module", ["platform_assets", "platform_assets.instance"])
def test_layers__setup_runs_before_anything_is_worth_loading(module: str) -> None:
    report = run_python(f"import json, sys, {module}\njson.dump({{'loaded': sorted(sys.modules)}}, sys.stdout)")
    assert loaded(report, HEAVY | DAGSTER | STORES | {"pydantic", "numpy", "polars"}) == set()


def run_python(code: str, *arguments: str) -> dict[str, list[str]]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def loaded(report: dict[str, list[str]], forbidden: set[str]) -> set[str]:
    return {name for name in forbidden if name in report["loaded"]}
