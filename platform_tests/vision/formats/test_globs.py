"""Patterns over paths: which label a file gets, and files that two entries claim."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from platform_assets.vision.datasets.sources import source_files
from platform_assets.vision.formats.globs import GlobsSource
from platform_tests.vision.pictures import write


def globs(*entries: dict[str, Any], **more: Any) -> GlobsSource:
    return GlobsSource.model_validate({"kind": "globs", "path": "x", "entries": entries, **more})


def fill(root: Path, *paths: str) -> Path:
    for path in paths:
        write(root, path, "bytes are not looked at here")
    return root


def test_globs__labels_of_patterns_and_what_none_fits(tmp_path: Path) -> None:
    fill(tmp_path, "cats/a.png", "cats/deep/b.png", "dogs/deep/c.png", "notes.txt", "dogs/.hidden.png")
    source = globs(
        {"glob": "cats/*.png", "label": "cat", "split": "train"}, {"glob": "dogs/**/*.png", "label": " dog "}
    )
    found = source.read(tmp_path)
    assert found.rows.select("path", "label", "split").rows() == [
        ("cats/a.png", "cat", "train"),
        ("dogs/deep/c.png", "dog", None),
    ]
    assert found.rejected.is_empty()
    assert source_files(source, tmp_path) == ["cats/a.png", "dogs/deep/c.png"]


def test_globs__first_entry_wins_and_two_labels_are_a_conflict(tmp_path: Path) -> None:
    fill(tmp_path, "x/a.png", "x/b.png")
    source = globs(
        {"glob": "x/a.png", "label": "cat", "split": "test"},
        {"glob": "x/*", "label": "cat", "split": "train"},
        {"glob": "x/b*", "label": "dog"},
    )
    found = source.read(tmp_path)
    assert found.rows.select("path", "label", "split").rows() == [("x/a.png", "cat", "test")]
    detail = "entries give it the labels ['cat', 'dog']; narrow their globs"
    assert found.rejected.rows() == [("x/b.png", "conflicting_labels", detail)]


def test_globs__label_part_and_group_from_the_path(tmp_path: Path) -> None:
    fill(tmp_path, "validation/p1_cat_0.png", "train/p2_e\u0301_1.png", "dev/p3_cat_2.png", "odd.png")
    regex = r"(?P<split>\w+)/(?P<group>\w+?)_(?P<label>[^_]+)_\d\.png"
    found = globs({"glob": "**/*.png", "regex": regex}).read(tmp_path)
    assert found.rows.rows() == [
        ("train/p2_e\u0301_1.png", "\u00e9", "train", "p2"),
        ("validation/p1_cat_0.png", "cat", "val", "p1"),
    ]
    assert found.rejected.rows() == [
        ("dev/p3_cat_2.png", "malformed_row", "'dev' is no part; write train, val or test"),
        ("odd.png", "missing_label", "its path does not fit the regex of its entry, or gives an empty label"),
    ]


def test_globs__entry_whose_regex_does_not_fit_says_nothing(tmp_path: Path) -> None:
    fill(tmp_path, "cat-1.png", "x.png")
    found = globs({"glob": "*", "regex": r"(?P<label>\w+)-.*"}, {"glob": "*", "label": "cat"}).read(tmp_path)
    assert found.rows["label"].to_list() == ["cat", "cat"]


def test_globs__own_class_list_rejects_strangers(tmp_path: Path) -> None:
    found = globs({"glob": "*", "label": "cow"}, classes=["dog", "cat"]).read(fill(tmp_path, "a.png"))
    assert found.rejected.rows() == [("a.png", "unknown_label", "label 'cow' is not in classes")]


def test_globs__links_and_pipes_are_rejected(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", "a/b.png")
    fill(tmp_path, "secret.png", "outside/c.png")
    (root / "a" / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "linked").symlink_to(tmp_path / "outside")
    os.mkfifo(root / "a" / "pipe.png")
    found = globs({"glob": "a/*", "label": "x"}, {"glob": "linked/*.png", "label": "x"}).read(root)
    assert found.rows["path"].to_list() == ["a/b.png"]
    assert found.rejected.select("path", "reason").rows() == [
        ("a/out.png", "outside_root"),
        ("a/pipe.png", "not_an_image"),
        ("linked", "outside_root"),
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"glob": "*"}, "give exactly one of `label` and `regex`"),
        ({"glob": "*", "label": "a", "regex": "(?P<label>.)"}, "give exactly one of `label` and `regex`"),
        ({"glob": "../*", "label": "a"}, "leaves the source"),
        ({"glob": "/etc/*", "label": "a"}, "leaves the source"),
        ({"glob": "a**/x", "label": "a"}, "alone between slashes"),
        ({"glob": ".", "label": "a"}, "a name must follow"),
        ({"glob": "*", "label": " "}, "label is blank; name the class"),
        ({"glob": "*", "regex": "("}, "is no regular expression: missing"),
        ({"glob": "*", "regex": "(?P<name>.)"}, r"has the groups \['name'\]; `label` must be one"),
        ({"glob": "*", "regex": "(?P<label>.)(?P<split>.)", "split": "train"}, "both say the part"),
        ({"glob": "*", "label": "a", "split": "dev"}, "Input should be 'train', 'val' or 'test'"),
    ],
)
def test_globs__bad_entry_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        globs(entry)
