"""Code versions: every module that a module imports counts, however the import is written."""

from __future__ import annotations

import ast
from pathlib import Path

from platform_assets.components.specs import PACKAGE, _code_and_imports


def imported(path: Path) -> set[Path]:
    """What Python's own parser finds."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    ours = [name.split(".")[1:] for name in found if name.startswith("platform_assets.")]
    files = {PACKAGE.joinpath(*parts).with_suffix(".py") for parts in ours}
    return {file for file in files if file.is_file()}


def test_code_version__follows_every_import_of_every_module() -> None:
    """An import right after another was swallowed: editing the probe trained nothing again."""
    modules = [path for layer in ("vision", "stores") for path in (PACKAGE / layer).rglob("*.py")]
    assert len(modules) > 100
    missed = {path.name: imported(path) - {Path(file) for file in _code_and_imports(str(path))[1]} for path in modules}
    assert {name: files for name, files in missed.items() if files} == {}
