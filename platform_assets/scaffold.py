"""A new project that holds only YAML and data: what `kestrel init` writes."""

from __future__ import annotations

import getpass
import json
import re
from importlib.util import find_spec
from pathlib import Path
from string import Template

from platform_assets.instance import write_env
from platform_assets.vision.recipes.backbones import get_backbone

TEMPLATES = Path(__file__).parent / "templates"
PROBE_BACKBONE = "tf_efficientnet_lite0"


class ProjectExists(ValueError):
    """The folder already holds a project's files."""


def create_project(folder: Path, *, images: Path | None = None, name: str | None = None) -> list[Path]:
    """Write a project into `folder`; `images` is a folder of class folders, `folder/images` unless given.

    Returns the files written. Raises ProjectExists when one of them is there already: nothing is overwritten.
    """
    package = _slug(name or folder.resolve().name)
    facts = {
        "package": package,
        "images": str(images.resolve()) if images else "images",
        "probe": _probe_variant(),
        "user": json.dumps(_user()),
    }
    texts = {
        "dagster.yaml": (TEMPLATES / "dagster.yaml").read_text(encoding="utf-8"),
        "workspace.yaml": _fill("workspace.yaml", facts),
        "pyproject.toml": _fill("pyproject.toml.txt", facts),
        ".gitignore": "data/\n.env\n__pycache__/\n",
        "README.md": _fill("README.md.txt", facts),
        f"{package}/__init__.py": "",
        f"{package}/definitions.py": _fill("definitions.py.txt", facts),
        f"{package}/defs/photos/defs.yaml": _fill("dataset.yaml", facts),
        f"{package}/defs/photos_first/defs.yaml": _fill("experiment.yaml", facts),
    }
    if present := sorted(name for name in texts if (folder / name).exists()):
        raise ProjectExists(f"{folder}: {', '.join(present)} exist already; choose an empty folder")
    for file, text in texts.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if images is None:
        (folder / "images").mkdir(exist_ok=True)
    return [folder / file for file in texts] + [write_env(folder)]


def _slug(text: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return slug if slug[:1].isalpha() else f"project_{slug}".rstrip("_")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "the owner of this project"


def _fill(template: str, facts: dict[str, str]) -> str:
    return Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(facts)


def _probe_variant() -> str:
    """A probe beside the baseline where the pretrained weights are installed; else a line that says how to get them."""
    weights = get_backbone(PROBE_BACKBONE).weights
    if weights is not None and find_spec(weights.package):
        return f"probe: {{backbone: {PROBE_BACKBONE}, mode: linear_probe, image_size_px: 224}}"
    return (
        f"# probe: {{backbone: {PROBE_BACKBONE}, mode: linear_probe, image_size_px: 224}}  # needs kestrel-vision[demo]"
    )
