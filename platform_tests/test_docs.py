"""What README and docs show as YAML is what the components take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import TypeAdapter

from platform_assets.components.experiment_spec import ExperimentSpec
from platform_assets.components.vision_dataset import VisionDatasetSpec

ROOT = Path(__file__).parents[1]
SPECS = {
    "platform_assets.components.Experiment": ExperimentSpec,
    "platform_assets.components.VisionDataset": VisionDatasetSpec,
}


def blocks() -> list[tuple[str, Any]]:
    """Every YAML block with the page it stands on."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [
        (f"{page.name}:{number}", yaml.safe_load(text))
        for page in pages
        for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
    ]


COMPONENTS = {name: block for name, block in blocks() if isinstance(block, dict) and "type" in block}
# What stands for itself, to be written into an experiment.
PIECES = {
    f"{name}:{key}": (key, value)
    for name, block in blocks()
    if isinstance(block, dict) and "type" not in block
    for key, value in block.items()
    if key in ExperimentSpec.model_fields
}


@pytest.mark.parametrize("name", COMPONENTS)
def test_docs__a_component_is_one(name: str) -> None:
    block = COMPONENTS[name]
    TypeAdapter(SPECS[block["type"]]).validate_python(block["attributes"])


@pytest.mark.parametrize("name", PIECES)
def test_docs__a_piece_of_an_experiment_is_one(name: str) -> None:
    key, value = PIECES[name]
    field = ExperimentSpec.model_fields[key]
    TypeAdapter(Annotated[field.annotation, field]).validate_python(value)


def test_docs__there_are_some() -> None:
    assert len(COMPONENTS) >= 3
    assert {key for key, _ in PIECES.values()} >= {"tune", "folds", "variants", "uncertainty"}
