"""README's tree of the package is the package: one line for each folder and module, no more, no fewer."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "platform_assets"


def tree_in(markdown: str) -> dict[str, str]:
    """Path (folders end in /) to its clause, from the fenced block whose first line starts with `platform_assets/`.

    Two spaces of indent a level; two spaces or more between a name and its clause.
    """
    block = re.search(r"^```[a-z]*\n(platform_assets/.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    assert block, "README.md has no fenced block that starts with platform_assets/"
    entries: dict[str, str] = {}
    folders: list[str] = []
    for line in block.group(1).rstrip().splitlines():
        match = re.fullmatch(r"((?:  )*)(\S+)(?:\s{2,}(\S.*))?", line)
        assert match, f"README tree: {line!r} is not `indent name  clause`, with two spaces a level"
        indent, name, clause = match.groups()
        depth = len(indent) // 2
        assert depth <= len(folders), f"README tree: {line!r} is indented below no folder"
        folders = folders[:depth]
        path = "".join(folders) + name
        assert path not in entries, f"README tree: {path} stands twice"
        entries[path] = clause or ""
        if name.endswith("/"):
            folders.append(name)
    return entries


def tree_on_disk(package: Path) -> set[str]:
    """Modules (not __init__.py) and every folder that holds a file, whatever its kind."""
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    modules = {path for path in files if path.suffix == ".py" and path.name != "__init__.py"}
    folders = {parent for path in files for parent in path.parents if parent.is_relative_to(package)}
    top = package.parent
    return {path.relative_to(top).as_posix() for path in modules} | {
        f"{path.relative_to(top).as_posix()}/" for path in folders
    }


def test_readme__tree_is_the_package() -> None:
    written, real = set(tree_in((ROOT / "README.md").read_text())), tree_on_disk(PACKAGE)
    assert sorted(real - written) == [], "not in README's tree"
    assert sorted(written - real) == [], "in README's tree, but not on disk"


def test_readme__every_line_of_the_tree_says_what_it_is() -> None:
    tree = tree_in((ROOT / "README.md").read_text())
    assert [path for path, clause in tree.items() if len(clause.split()) < 2] == []


def test_tree__reads_folders_modules_and_clauses(tmp_path: Path) -> None:
    markdown = (
        "# Title\n\n```text\nplatform_assets/  the package\n  cli.py      the command\n  vision/     pure Python\n"
        "    splits.py   who goes where\n  settings.py   where things are\n```\n"
    )
    tree = tree_in(markdown)
    assert tree["platform_assets/vision/splits.py"] == "who goes where"
    for path in ("cli.py", "settings.py", "vision/splits.py", "vision/__init__.py", "vision/__pycache__/splits.pyc"):
        (tmp_path / "platform_assets" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "platform_assets" / path).touch()
    assert set(tree) == tree_on_disk(tmp_path / "platform_assets")


@pytest.mark.parametrize("line", ["   odd.py  three spaces", "      deep.py  below no folder", "cli.py one space"])
def test_tree__refuses_a_line_it_would_misread(line: str) -> None:
    with pytest.raises(AssertionError, match="README tree"):
        tree_in(f"```\nplatform_assets/  the package\n{line}\n```\n")
