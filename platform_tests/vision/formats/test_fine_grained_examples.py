"""The examples of docs/formats.md, section Fine-grained sets, are sources of the kinds that its table names."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from platform_assets.vision.datasets.source_kinds import SourceSpec
from platform_assets.vision.datasets.sources import Source

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"


def test_examples__one_valid_source_for_each_kind_of_the_table() -> None:
    section = PAGE.read_text().split("## Fine-grained sets\n")[1].split("\n## ")[0]
    kinds = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    block = section.split("```yaml\n")[1].split("```")[0]
    reader: TypeAdapter[Source] = TypeAdapter(SourceSpec)
    sources = [reader.validate_python(example) for example in yaml.safe_load(block)]
    assert [source.model_dump()["kind"] for source in sources] == kinds
    assert len(kinds) == 7
