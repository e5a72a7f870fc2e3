"""Source specs: what YAML may say, and where the root is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from platform_assets.vision.datasets.source_kinds import SourceSpec
from platform_assets.vision.datasets.sources import MissingSource, source_root
from platform_assets.vision.formats.folder import FolderSource
from platform_assets.vision.formats.tables import TableSource

TABLE: dict[str, Any] = {
    "kind": "table",
    "path": "x",
    "files": "labels.csv",
    "header": True,
    "columns": {"path": "file", "label": "class"},
}


def parse(spec: Any) -> FolderSource | TableSource:
    return TypeAdapter[FolderSource | TableSource](SourceSpec).validate_python(spec)


def test_spec__kind_chooses_the_model() -> None:
    assert isinstance(parse({"kind": "folder", "path": "x"}), FolderSource)
    assert isinstance(parse(TABLE), TableSource)


def test_spec__yaml_positions_and_names() -> None:
    spec = parse(
        yaml.safe_load("""
        kind: table
        package: some_package
        folder: data
        files: {train: a.txt, test: b.txt}
        separator: whitespace
        header: false
        columns: {path: 0, label: 1}
        extra: {cell_type: 2}
        label_bins: {breaks: [0.5], names: [functional, defective]}
        """)
    )
    assert isinstance(spec, TableSource)
    assert spec.column_refs() == {"path": 0, "label": 1, "cell_type": 2}
    assert spec.tables() == [("train", "a.txt"), ("test", "b.txt")]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no place": ({"path": None}, "exactly one of `path` and `package`"),
    "two places": ({"package": "numpy"}, "exactly one of `path` and `package`"),
    "package with a dot": ({"path": None, "package": "os.path"}, "pattern"),
    "folder leaves": ({"folder": "../y"}, "leaves the source"),
    "table leaves": ({"files": "/etc/passwd"}, "leaves the source"),
    "table of a part leaves": ({"files": {"train": "a/../../b"}}, "leaves the source"),
    "unknown part": ({"files": {"dev": "a.txt"}}, "'train', 'val' or 'test'"),
    "no tables": ({"files": {}}, "name at least one table"),
    "unknown key": ({"seperator": ";"}, "Extra inputs are not permitted"),
    "unknown column key": ({"columns": {"path": 0, "label": 1, "labels": 2}}, "Extra inputs are not permitted"),
    "negative position": ({"columns": {"path": -1, "label": 1}}, "greater than or equal to 0"),
    "separator": ({"separator": ", "}, "neither one character nor the word whitespace"),
    "name without header": ({"header": False}, "the table has no header"),
    "extra takes a name": ({"extra": {"width": "w"}}, "names that the records table uses"),
    "part twice": (
        {"files": {"train": "a"}, "columns": {"path": "p", "label": "l", "split": "s"}},
        "both say the part",
    ),
    "classes twice": (
        {"classes": ["a", "b"], "label_bins": {"breaks": [1], "names": ["a", "b"]}},
        "each define the class list",
    ),
    "repeated class": ({"classes": ["a", "a"]}, "more than once"),
    "bins short": ({"label_bins": {"breaks": [1, 2], "names": ["a", "b"]}}, "2 breaks make 3 bins, but 2 names"),
    "bins unordered": ({"label_bins": {"breaks": [2, 1], "names": ["a", "b", "c"]}}, "must be finite and ascending"),
    "bins infinite": ({"label_bins": {"breaks": [float("inf")], "names": ["a", "b"]}}, "must be finite"),
    "bins with one name": ({"label_bins": {"breaks": [1], "names": ["a", "a"]}}, "more than once"),
}


@pytest.mark.parametrize(("change", "said"), BAD.values(), ids=list(BAD))
def test_spec__what_cannot_be_meant_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        parse({**TABLE, **change})


def test_spec__unknown_kind_lists_the_known() -> None:
    with pytest.raises(ValidationError, match="'folder', 'table'"):
        parse({"kind": "zip", "path": "x"})


def test_root__relative_absolute_and_inner_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert source_root(FolderSource(kind="folder", path="a"), tmp_path) == tmp_path / "a"
    assert source_root(FolderSource(kind="folder", path="a", folder="b"), tmp_path) == tmp_path / "a" / "b"
    assert source_root(FolderSource(kind="folder", path=str(tmp_path)), Path("/elsewhere")) == tmp_path


def test_root__absent_folder_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(MissingSource, match=f"{tmp_path / 'a'} is not there; put the files there"):
        source_root(FolderSource(kind="folder", path="a"), tmp_path)


def test_root__package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "kestrel_test_photos"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = FolderSource(kind="folder", package="kestrel_test_photos", folder="data")
    assert source_root(spec, Path("/")) == package / "data"
    assert "kestrel_test_photos" not in sys.modules


def test_root__absent_package_names_the_extra() -> None:
    with pytest.raises(MissingSource, match=r"'no_such_photos' is not installed; .* extra `demo`"):
        source_root(FolderSource(kind="folder", package="no_such_photos"), Path("/"))
