"""What README and docs show as YAML is what the components take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from platform_assets.components.experiment_spec import ExperimentSpec
from platform_assets.components.vision_dataset import VisionDatasetSpec
from platform_assets.vision.variants import Variant

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
VARIANTS = {
    f"{name}:{variant}": options
    for name, block in blocks()
    if isinstance(block, dict)
    for variant, options in block.get("variants", {}).items()
}


@pytest.mark.parametrize("name", COMPONENTS)
def test_docs__a_component_is_one(name: str) -> None:
    block = COMPONENTS[name]
    TypeAdapter(SPECS[block["type"]]).validate_python(block["attributes"])


@pytest.mark.parametrize("name", VARIANTS)
def test_docs__a_variant_is_one(name: str) -> None:
    Variant.model_validate(VARIANTS[name])


def test_docs__there_are_some() -> None:
    assert len(COMPONENTS) >= 3
    assert len(VARIANTS) >= 8
