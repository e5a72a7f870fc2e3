"""What a source lists: layouts of folders, rows of tables, and nothing from outside of the root."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from platform_assets.vision.datasets.sources import BadSource, Candidates, source_files
from platform_assets.vision.formats.folder import FolderSource, walk
from platform_assets.vision.formats.tables import TableSource
from platform_tests.vision.pictures import png, write

FOLDER = FolderSource(kind="folder", path="x")


def table(**more: Any) -> TableSource:
    spec = {"kind": "table", "path": "x", "files": "t.csv", "header": False, "columns": {"path": 0, "label": 1}}
    return TableSource.model_validate({**spec, **more})


def fill(root: Path, *paths: str) -> Path:
    for path in paths:
        write(root, path, "bytes are not looked at here")
    return root


def rows(found: Candidates) -> list[tuple[str, ...]]:
    return found.rows.rows()


def rejected(found: Candidates) -> list[tuple[str, str]]:
    return found.rejected.select("path", "reason").rows()


def test_folder__class_folders(tmp_path: Path) -> None:
    fill(tmp_path, "dog/b.png", "cat/deep/er/a.png", "dog/a.png")
    assert rows(FOLDER.read(tmp_path)) == [
        ("cat/deep/er/a.png", "cat", None, None),
        ("dog/a.png", "dog", None, None),
        ("dog/b.png", "dog", None, None),
    ]


def test_folder__parts_with_class_folders(tmp_path: Path) -> None:
    fill(tmp_path, "Train/cat/a.png", "valid/cat/a.png", "test/dog/a.png")
    assert [row[:3] for row in rows(FOLDER.read(tmp_path))] == [
        ("Train/cat/a.png", "cat", "train"),
        ("test/dog/a.png", "dog", "test"),
        ("valid/cat/a.png", "cat", "val"),
    ]


def test_folder__class_named_train_is_no_part(tmp_path: Path) -> None:
    fill(tmp_path, "train/a.png", "bus/a.png")
    assert {row[1:3] for row in rows(FOLDER.read(tmp_path))} == {("train", None), ("bus", None)}


def test_folder__parts_beside_other_folders_are_an_error(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat/a.png", "test/cat/a.png", "extra/a.png")
    with pytest.raises(
        BadSource, match=r"\['test', 'train'\] are parts .*, \['extra'\] are not parts; move those away"
    ):
        FOLDER.read(tmp_path)


def test_folder__images_without_class_are_rejected_and_other_files_left(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "a.JPG",
        "README.md",
        "labels.csv",
        "cat/a.png",
        "cat/notes.txt",
        "cat/.hidden",
        "cat/Thumbs.db",
        ".git/x",
    )
    found = FOLDER.read(tmp_path)
    assert [row[0] for row in rows(found)] == ["cat/a.png", "cat/notes.txt"]
    assert rejected(found) == [("a.JPG", "missing_label")]


def test_folder__unlabelled_test_part_is_rejected(tmp_path: Path) -> None:
    found = FOLDER.read(fill(tmp_path, "train/cat/a.png", "test/a.png"))
    assert rejected(found) == [("test/a.png", "missing_label")]


def test_folder__own_class_list_rejects_strangers(tmp_path: Path) -> None:
    spec = FolderSource(kind="folder", path="x", classes=("dog", "cat"))
    found = spec.read(fill(tmp_path, "cat/a.png", "bird/a.png"))
    assert found.classes == ("dog", "cat")
    assert rejected(found) == [("bird/a.png", "unknown_label")]


def test_folder__decomposed_folder_name_is_the_composed_class(tmp_path: Path) -> None:
    found = FOLDER.read(fill(tmp_path, "cafe\u0301/a.png"))
    assert rows(found)[0][1] == "caf\u00e9"


def test_folder__links_do_not_lead_out(tmp_path: Path) -> None:
    root, outside = fill(tmp_path / "root", "cat/a.png"), fill(tmp_path / "outside", "secret.png")
    (root / "cat" / "in.png").symlink_to(root / "cat" / "a.png")
    (root / "cat" / "out.png").symlink_to(outside / "secret.png")
    (root / "cat" / "gone.png").symlink_to(root / "nowhere")
    (root / "cat" / "loop.png").symlink_to(root / "cat" / "loop.png")
    (root / "dog").symlink_to(outside)
    found = FOLDER.read(root)
    assert [row[0] for row in rows(found)] == ["cat/a.png", "cat/in.png"]
    assert rejected(found) == [
        ("cat/gone.png", "missing_file"),
        ("cat/loop.png", "unreadable_file"),
        ("cat/out.png", "outside_root"),
        ("dog", "outside_root"),
    ]


def test_folder__root_may_itself_be_a_link(tmp_path: Path) -> None:
    fill(tmp_path / "real", "cat/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert len(rows(FOLDER.read(tmp_path / "link"))) == 1


def test_folder__pipe_is_rejected_unopened(tmp_path: Path) -> None:
    os.mkfifo(fill(tmp_path, "cat/a.png") / "cat" / "pipe.png")
    assert rejected(FOLDER.read(tmp_path)) == [("cat/pipe.png", "not_an_image")]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems refuse such names")
def test_folder__name_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    fill(tmp_path, "cat/a.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/cat/\xff.png")).touch()
    assert rejected(FOLDER.read(tmp_path)) == [("cat/\\udcff.png", "unreadable_file")]


def test_table__rows_with_part_group_and_extras(tmp_path: Path) -> None:
    fill(tmp_path, "i/a.png", "i/b.png", "i/c.png")
    text = "file,class,part,bird,box\ni/b.png,dog,validation,b1,\n./i//a.png, cat ,TRAIN,,1 2\ni/c.png,cat,,b1,3\n"
    write(tmp_path, "t.csv", text)
    columns = {"path": "file", "label": "class", "split": "part", "group": "bird"}
    found = table(header=True, columns=columns, extra={"box_xy": "box"}).read(tmp_path)
    assert found.rows.columns == ["path", "label", "split", "group", "box_xy"]
    assert rows(found) == [
        ("i/a.png", "cat", "train", None, "1 2"),
        ("i/b.png", "dog", "val", "b1", None),
        ("i/c.png", "cat", None, "b1", "3"),
    ]


def test_table__one_file_a_part(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png")
    write(tmp_path, "tr.txt", "a.png, 1\n")
    write(tmp_path, "te.txt", "b.png, 0\n")
    found = table(files={"train": "tr.txt", "test": "te.txt"}).read(tmp_path)
    assert rows(found) == [("a.png", "1", "train", None), ("b.png", "0", "test", None)]


BAD_ROWS = {
    "a.png": ("a.png", "malformed_row"),
    ",cat": ("t.csv:1", "malformed_row"),
    "a.png,": ("a.png", "missing_label"),
    "a.png,bird": ("a.png", "unknown_label"),
    "nope.png,cat": ("nope.png", "missing_file"),
    "a.png/b.png,cat": ("a.png/b.png", "missing_file"),
    "i\\a.png,cat": ("i\\a.png", "missing_file"),
    "/etc/hostname,cat": ("/etc/hostname", "outside_root"),
    "../secret.png,cat": ("../secret.png", "outside_root"),
    "i/../../secret.png,cat": ("i/../../secret.png", "outside_root"),
    "i/../a.png,cat": ("i/../a.png", "outside_root"),
    "link.png,cat": ("link.png", "outside_root"),
    "linked/secret.png,cat": ("linked/secret.png", "outside_root"),
    "i,cat": ("i", "not_an_image"),
    f"{'x' * 300}.png,cat": (f"{'x' * 300}.png", "unreadable_file"),
    "a\0.png,cat": ("a\0.png", "outside_root"),
    "a.png,cat,dev": ("a.png", "malformed_row"),
}


@pytest.mark.parametrize(("row", "expected"), BAD_ROWS.items(), ids=[repr(row)[:30] for row in BAD_ROWS])
def test_table__bad_row_is_rejected_with_its_line(tmp_path: Path, row: str, expected: tuple[str, str]) -> None:
    root = fill(tmp_path / "root", "a.png", "i/a.png")
    fill(tmp_path, "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "linked").symlink_to(tmp_path)
    write(root, "t.csv", row + "\ni/a.png,cat,train\n")
    columns = {"path": 0, "label": 1} | ({"split": 2} if row.count(",") == 2 else {})
    found = table(columns=columns, classes=["cat", "dog"]).read(root)
    assert rejected(found) == [expected]
    assert found.rejected["detail"][0].startswith("t.csv line 1: ")
    assert [row[0] for row in rows(found)] == ["i/a.png"]


def test_table__backslash_hint(tmp_path: Path) -> None:
    write(fill(tmp_path, "i/a.png"), "t.csv", "i\\a.png,cat\n")
    assert "write / instead" in table().read(tmp_path).rejected["detail"][0]


def test_table__table_behind_a_link_out_is_refused(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", "a.png")
    (root / "t.csv").symlink_to(write(tmp_path, "outside.csv", "a.png,cat\n"))
    with pytest.raises(BadSource, match=r"table t\.csv of .*: links to .* outside of the source"):
        table().read(root)


def test_source_files__images_and_tables_without_what_is_not_there(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "unlisted.png")
    write(tmp_path, "t.csv", "a.png,0\ngone.png,0\n../up.png,0\n")
    write(tmp_path, "c.csv", "id,name\n0,cat\n")
    spec = table(label_names={"file": "c.csv", "id": "id", "name": "name"})
    assert source_files(spec, tmp_path) == ["a.png", "c.csv", "t.csv"]


def test_source_files__folder(tmp_path: Path) -> None:
    assert source_files(FOLDER, fill(tmp_path, "cat/b", "cat/a.png", "README", "x.png")) == [
        "cat/a.png",
        "cat/b",
        "x.png",
    ]


def test_table__coarse_labels_by_their_own_names(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png", "c.png")
    write(tmp_path, "t.csv", "a.png,0,7\nb.png,1,7\nc.png,1,9")
    write(tmp_path, "classes.csv", "name,id,coarse,coarse id\ngala,0,apple,7\nfuji,1,apple,7\nanjou,2,pear,8")
    names = {"file": "classes.csv", "id": "coarse id", "name": "coarse"}
    columns = {"path": 0, "label": 1, "coarse_label": 2}
    spec = table(columns=columns, coarse_names=names)
    found = spec.read(tmp_path)
    assert found.rows.select("path", "label", "coarse_label").rows() == [
        ("a.png", "0", "apple"),
        ("b.png", "1", "apple"),
    ]
    assert rejected(found) == [("c.png", "unknown_label")]
    assert spec.own_files(tmp_path) == ["t.csv", "classes.csv"]


def test_table__coarse_names_without_their_column_are_refused() -> None:
    with pytest.raises(ValueError, match="say which column that is"):
        table(coarse_names={"file": "classes.csv", "id": 0, "name": 1})


def test_walk__a_folder_that_cannot_be_listed_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It and all its files were left out without a word. Root may list any folder, so the system's answer stands here."""
    for label in ("apple", "pear"):
        write(tmp_path, f"{label}/0.png", png())
    plain = os.scandir

    def scandir(place: Path) -> object:
        if Path(place).name == "pear":
            raise PermissionError(13, "Permission denied", str(place))
        return plain(place)

    monkeypatch.setattr(os, "scandir", scandir)
    files, rejected = walk(tmp_path)
    assert files == ["apple/0.png"]
    assert [(path, reason) for path, reason, _ in rejected] == [("pear", "unreadable_file")]
    assert "Permission denied" in rejected[0][2]
