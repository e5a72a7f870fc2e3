"""The kinds of source: each names a class that says so of itself, and none is loaded before a YAML names it."""

import subprocess
import sys
from importlib import import_module
from typing import get_args

import pytest

from platform_assets.vision.datasets.format_kinds import _MODULES
from platform_assets.vision.datasets.source_kinds import SOURCES
from platform_assets.vision.datasets.sources import Format


@pytest.mark.parametrize("kind", SOURCES)
def test_kinds__each_names_the_class_of_its_module(kind: str) -> None:
    module = import_module(f"platform_assets.vision.formats.{_MODULES.get(kind, kind)}")
    source = getattr(module, SOURCES[kind])
    assert issubclass(source, Format)
    assert get_args(source.model_fields["kind"].annotation) == (kind,)


def test_kinds__no_format_is_loaded_with_the_list_of_them() -> None:
    code = "import sys, platform_assets.vision.datasets.source_kinds; print([m for m in sys.modules if 'vision.formats.' in m])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
