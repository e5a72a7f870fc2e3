"""docs/backbones.md: its table is the registry, its YAML are variants, its network is a plug-in that passes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from platform_assets.vision.networks.plugins import check_plugin
from platform_assets.vision.recipes.backbones import BACKBONES, Backbone
from platform_assets.vision.recipes.variants import Variant

PAGE = (Path(__file__).parents[3] / "docs" / "backbones.md").read_text(encoding="utf-8")
COLUMNS = ("name", "M parameters", "px", "patch", "tokens before the patches", "features", "normalization", "licence")


def _row(backbone: Backbone) -> tuple[str, ...]:
    tokens = backbone.transformer
    before = "" if tokens is None else f"{'class' if tokens.class_token else 'none'}{_registers(backbone)}"
    return (
        f"`{backbone.name}`",
        f"{(backbone.parameters or 0) / 1e6:.1f}",
        str(backbone.image_size_px),
        str(tokens.patch_px) if tokens else "",
        before,
        str(backbone.feature_dim),
        backbone.normalization,
        backbone.weights_licence or "no weights",
    )


def _registers(backbone: Backbone) -> str:
    count = backbone.transformer.register_tokens if backbone.transformer else 0
    return f", {count} registers" if count else ""


def registry_table() -> str:
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_row(backbone) for backbone in BACKBONES.values())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_page__its_table_is_the_registry() -> None:
    table = re.search(r"<!-- the registry -->\n\n(.*?)\n<!-- end -->", PAGE, re.DOTALL)
    assert table, "docs/backbones.md has no table between <!-- the registry --> and <!-- end -->"
    assert table[1] == registry_table()


def test_page__its_yaml_are_variants() -> None:
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    variants = [Variant.model_validate(value) for block in blocks for value in block["variants"].values()]
    assert len(variants) >= 5
    assert {variant.model for variant in variants} - {None} == {"my_project.networks:build"}


def test_page__its_network_is_a_sound_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "kestrel_test_page_plugin.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    check_plugin("kestrel_test_page_plugin:build", image_size_px=64)
