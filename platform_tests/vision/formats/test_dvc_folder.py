"""The dvc kind: what its YAML may say, and the version that a .dvc file states without any image."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from platform_assets.vision.datasets.source_kinds import SourceSpec
from platform_assets.vision.datasets.sources import BadSource, MissingSource
from platform_assets.vision.formats.dvc_folder import DvcSource, tracked_hash
from platform_assets.vision.formats.folder import FolderSource
from platform_tests.vision.pictures import png, write

DVC_FILE = "outs:\n- md5: 0123abcd.dir\n  size: 10\n  nfiles: 2\n  hash: md5\n  path: images\n"
TABLE = {"kind": "table", "files": "labels.csv", "header": True, "columns": {"path": "file", "label": "class"}}


def parsed(**attributes: object) -> DvcSource:
    source = TypeAdapter(SourceSpec).validate_python({"kind": "dvc", "path": "images", **attributes})
    assert isinstance(source, DvcSource)
    return source


def test_dvc__is_a_folder_of_class_folders_unless_said(tmp_path: Path) -> None:
    write(tmp_path, "images/a/1.png", png(1))
    source = parsed()
    assert isinstance(source.format, FolderSource)
    assert source.read(source.root_in(tmp_path)).rows["path"].to_list() == ["a/1.png"]
    assert source.own_files(source.root_in(tmp_path)) == ()


def test_dvc__reads_any_other_format_and_its_own_files(tmp_path: Path) -> None:
    write(tmp_path, "images/inner/1.png", png(1))
    write(tmp_path, "images/inner/labels.csv", "file,class\n1.png,gull\n")
    source = parsed(format={**TABLE, "folder": "inner"})
    root = source.root_in(tmp_path)
    assert root == tmp_path / "images/inner"
    assert source.read(root).rows["label"].to_list() == ["gull"]
    assert source.own_files(root) == ["labels.csv"]


def test_dvc__states_its_version_without_a_file_there(tmp_path: Path) -> None:
    write(tmp_path, "images.dvc", DVC_FILE)
    assert parsed().stated_version(tmp_path) == "0123abcd.dir"
    with pytest.raises(MissingSource, match=r"images is not there; .*`dvc pull`"):
        parsed().root_in(tmp_path)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"path": ""}, "at least 1 character"),
        ({"package": "elpv_dataset"}, "Extra inputs are not permitted"),
        ({"format": {"kind": "folder", "path": "elsewhere"}}, "the outer source says where the files are"),
        ({"format": {"kind": "dvc"}}, "does not match any of the expected tags"),
    ],
)
def test_dvc__refuses_yaml_that_names_two_places(attributes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        parsed(**attributes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "images.dvc: not there; track the folder with `kestrel data add images`"),
        ("", "images.dvc: not a .dvc file of one folder"),
        ("outs: [", "images.dvc: not a .dvc file of one folder (while parsing"),
        ("outs: []", "images.dvc: not a .dvc file of one folder (not enough values"),
        (DVC_FILE + "- md5: 9\n  path: more\n", "images.dvc: not a .dvc file of one folder (too many values"),
        ("outs:\n- path: images\n", "images.dvc: not a .dvc file of one folder ('md5'); restore it, or track"),
        ("outs:\n- md5: 1\n  path: other\n", "images.dvc: is about 'other', not 'images'; a .dvc file lies beside"),
        ("- 1", "images.dvc: not a .dvc file of one folder"),
    ],
)
def test_tracked_hash__a_bad_file_is_named(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        write(tmp_path, "images.dvc", text)
    with pytest.raises(BadSource) as raised:
        tracked_hash(tmp_path / "images")
    assert said in str(raised.value)
