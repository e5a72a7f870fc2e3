"""Written and read again, records are the same; what a format cannot hold is refused before anything is written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from platform_assets.vision.datasets.label_map import LabelMap, normal_label
from platform_assets.vision.datasets.scanning import scan
from platform_assets.vision.formats.copies import CannotWrite
from platform_assets.vision.formats.dice import write_dice
from platform_assets.vision.formats.folder import FolderSource, write_folder
from platform_tests.vision.formats.exchange import (
    HEIGHT,
    MADE,
    WIDTH,
    Made,
    records_of,
    rows_expected,
    rows_of,
    sha256,
    source_of,
    write_as,
)

KINDS = ("folder", "yolo", "coco", "dice", "croissant")
ODD_NAMES = (
    "two words",
    'it\'s "quoted"',
    "Größe 猫",
    "007",
    "1",
    "NA",
    "null",
    "yes",
    "1.0",
    "a/b",
    "Cat",
    "cat",
    "- x",
)
ODD_NAMES += (
    "#hash",
    "a: b",
    "{}",
    "train",
    "\u0301a",
    "e\u0301".upper(),
    "tab\there",
    "back\\slash",
    "%20",
    "null\u200b",
    "next\u0085line",
)


def folder_names(names: list[str]) -> bool:
    """Whether folders can have these names on every system."""
    plain = all(
        n.isprintable() and not n.startswith(".") and n.casefold() != "classes.txt" and not {"/", "\\"}.intersection(n)
        for n in names
    )
    return (
        plain and len({name.casefold() for name in names}) == len(names) and all(len(n.encode()) < 255 for n in names)
    )


NAMES = st.one_of(st.sampled_from(ODD_NAMES), st.text(min_size=1, max_size=8)).map(normal_label).filter(bool)
CORNERS = st.tuples(
    *(st.floats(0, end - 1, width=32) for end in (WIDTH, HEIGHT)), *(st.floats(0.25, 1, width=32) for _ in range(2))
)
BOXES = st.none() | CORNERS.map(
    lambda box: (box[0], box[1], max(0.1, (WIDTH - box[0]) * box[2]), max(0.1, (HEIGHT - box[1]) * box[3]))
)


@st.composite
def drawn_records(draw: st.DrawFn, kind: str) -> tuple[list[Any], LabelMap]:
    fits: Callable[[list[str]], bool] = folder_names if kind == "folder" else bool
    names = draw(st.lists(NAMES, min_size=2, max_size=4, unique=True).filter(fits))
    parts = st.sampled_from(("train", "val", "test"))
    splits = parts if kind in ("folder", "yolo") or draw(st.booleans()) else st.none()
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from(MADE), st.sampled_from(names), splits, BOXES),
            min_size=1,
            max_size=4,
            unique_by=lambda row: (row[0].name, row[2]),
        )
    )
    return rows, LabelMap(names=tuple(names))


@pytest.mark.parametrize("kind", KINDS)
def test_exchange__read_again_records_are_the_same(kind: str) -> None:
    @settings(max_examples=5 if kind == "croissant" else 15, suppress_health_check=list(HealthCheck))
    @given(drawn_records(kind))
    def round_trip(drawn: tuple[list[Any], LabelMap]) -> None:
        rows, label_map = drawn
        with tempfile.TemporaryDirectory() as place:
            root, folder = Path(place, "root"), Path(place, "out")
            records = records_of(root, rows)
            write_as(kind, records, label_map, root, folder)
            found = source_of(kind, folder, label_map).read(folder)
            assert found.classes == label_map.names
            read, expected = rows_of(found, folder), rows_expected(records)
            assert [row[:3] for row in read] == [row[:3] for row in expected]
            for got, wanted in zip(read, expected, strict=True):
                if kind != "folder":
                    whole = (0, 0, WIDTH, HEIGHT) if kind == "yolo" else None
                    assert got.box == (wanted.box and pytest.approx(wanted.box, abs=1e-3)) or got.box == whole

    round_trip()


def three(root: Path) -> pl.DataFrame:
    return records_of(
        root,
        [(MADE[0], "b", "train", (1, 2, 3, 4)), (MADE[3], "a", "val", None), (MADE[6], "b", "test", (5, 5, 1.5, 2.25))],
    )


AB = LabelMap(names=("b", "a"))


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_exchange__every_odd_name_comes_back(kind: str, tmp_path: Path) -> None:
    names = tuple(dict.fromkeys(filter(None, map(normal_label, ODD_NAMES))))
    records = records_of(tmp_path / "root", [(MADE[0], name, "train", None) for name in names[:1]])
    write_as(kind, records, LabelMap(names=names), tmp_path / "root", tmp_path / "out")
    assert source_of(kind, tmp_path / "out", LabelMap(names=names)).read(tmp_path / "out").classes == names


@pytest.mark.parametrize("kind", KINDS)
def test_exchange__same_records_give_the_same_bytes(kind: str, tmp_path: Path) -> None:
    records = three(tmp_path / "root")
    for name, frame in (("one/out", records), ("two/out", records.reverse())):
        write_as(kind, frame, AB, tmp_path / "root", tmp_path / name)
    one, two = (
        {p.relative_to(top).as_posix(): p.read_bytes() for p in top.rglob("*") if p.is_file()}
        for top in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two


@pytest.mark.parametrize("kind", KINDS)
def test_exchange__what_was_written_passes_a_whole_scan(kind: str, tmp_path: Path) -> None:
    write_as(kind, three(tmp_path / "root"), AB, tmp_path / "root", tmp_path / "out")
    found = scan(source_of(kind, tmp_path / "out", AB).read(tmp_path / "out"), tmp_path / "out")
    assert found.rejected.is_empty()
    assert found.records.height == 3
    assert found.label_map == AB


@pytest.mark.parametrize("kind", KINDS)
def test_exchange__folder_in_use_is_refused_and_left_alone(kind: str, tmp_path: Path) -> None:
    records = three(tmp_path / "root")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(CannotWrite, match=r"out is there and not an empty folder; name a new one, or remove it$"):
        write_as(kind, records, AB, tmp_path / "root", tmp_path / "out")
    assert listed(tmp_path / "out") == ["mine.txt"]


@pytest.mark.parametrize("kind", KINDS)
def test_exchange__changed_image_leaves_nothing_behind(kind: str, tmp_path: Path) -> None:
    records = three(tmp_path / "root")
    (tmp_path / "root" / MADE[6].name).write_bytes(MADE[0].data)
    with pytest.raises(CannotWrite, match=r"c\.webp: its bytes give \w{12}, the records say \w{12}; materialize"):
        write_as(kind, records, AB, tmp_path / "root", tmp_path / "out")
    assert listed(tmp_path) == ["root"]


def test_exchange__empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_dice(three(tmp_path / "root"), AB, tmp_path / "root", tmp_path / "out")
    assert listed(tmp_path / "out") == ["annotations_classification.json", "images"]


def test_exchange__copy_has_an_ending_that_fits_its_format(tmp_path: Path) -> None:
    records = records_of(tmp_path / "root", [(made, "a", None, None) for made in MADE])
    write_folder(records, LabelMap(names=("a",)), tmp_path / "root", tmp_path / "out")
    endings = {path.stem: path.suffix for path in (tmp_path / "out" / "a").iterdir()}
    by_name = {row["path"]: endings[row["image_id"]] for row in records.to_dicts()}
    assert by_name == {
        **{"a.png": ".png", "odd name.PNG": ".png", "deep/er/wrong.jpg": ".png", "b.jpeg": ".jpeg"},
        **{"turned.jpg": ".jpg", "mirrored": ".jpg", "c.webp": ".webp", "d.gif": ".gif"},
    }


def test_exchange__same_bytes_in_two_parts_stay_two_records(tmp_path: Path) -> None:
    records = records_of(tmp_path / "root", [(MADE[0], "a", "train", None), (MADE[0], "a", "test", None)])
    for kind in KINDS:
        write_as(kind, records, AB, tmp_path / "root", tmp_path / kind)
        found = source_of(kind, tmp_path / kind, AB).read(tmp_path / kind)
        assert sorted(found.rows["split"]) == ["test", "train"], kind


A, B = MADE[0], MADE[3]
REFUSED: dict[str, tuple[str, tuple[str, ...], list[tuple[Made, str, str | None, tuple[float, ...] | None]], str]] = {
    "slash": (
        "folder",
        ("a/b", "c"),
        [(A, "c", None, None)],
        "class 'a/b' has a slash or a control character; rename it",
    ),
    "hidden": (
        "folder",
        (".a", "c"),
        [(A, "c", None, None)],
        "class '.a' would be a hidden folder or the list of classes; rename it",
    ),
    "list": (
        "folder",
        ("Classes.txt", "c"),
        [(A, "c", None, None)],
        "class 'Classes.txt' would be a hidden folder or the list of classes; rename it",
    ),
    "case": (
        "folder",
        ("Cat", "cat"),
        [(A, "cat", None, None)],
        "classes 'Cat' and 'cat' are one folder on macOS and Windows; rename one",
    ),
    "long": (
        "folder",
        ("ü" * 128, "c"),
        [(A, "c", None, None)],
        f"class '{'ü' * 20}'... is too long for a folder; shorten it to 255 bytes",
    ),
    "parts": (
        "folder",
        ("train", "test"),
        [(A, "train", None, None), (B, "test", None, None)],
        "classes ['train', 'test'] would be read as parts; rename one, or assign splits first",
    ),
    "background": (
        "dice",
        ("__background__", "c"),
        [(A, "c", None, None)],
        "class '__background__' means there that an image shows nothing; rename the class",
    ),
    "no part": (
        "yolo",
        ("a",),
        [(A, "a", None, None)],
        "its images stand in train, val and test, these have no part; assign splits first",
    ),
    "box outside": (
        "yolo",
        ("a",),
        [(A, "a", "train", (0, 0, 21, 5))],
        "a.png: box [0.0, 0.0, 21.0, 5.0] leaves the picture; correct the box",
    ),
    "some parts": (
        "coco",
        ("a",),
        [(A, "a", "train", None), (B, "a", None, None)],
        "1 of 2 images have no part (e.g. b.jpeg); assign splits first",
    ),
    "twice": (
        "dice",
        ("a",),
        [(A, "a", "train", None), (A, "a", "train", None)],
        "image {id} stands 2 times in a part; keep one of them",
    ),
    "strange label": (
        "croissant",
        ("a",),
        [(A, "b", "train", None)],
        "a.png: label 'b' is not one of the 1 classes; nearest: ['a']; use the label map of these records",
    ),
    "nothing": ("coco", ("a",), [], "there are no records to write; make the records first"),
}
TITLES = {"folder": "ImageFolder", "yolo": "YOLO", "coco": "COCO", "dice": "DICE", "croissant": "Croissant"}


@pytest.mark.parametrize("case", REFUSED)
def test_exchange__what_a_format_cannot_hold_is_refused(case: str, tmp_path: Path) -> None:
    kind, names, rows, message = REFUSED[case]
    records = records_of(tmp_path / "root", rows)
    with pytest.raises(CannotWrite) as refused:
        write_as(kind, records, LabelMap(names=names), tmp_path / "root", tmp_path / "out")
    assert str(refused.value) == f"{TITLES[kind]}: {message.replace('{id}', sha256(A.data)[:12])}"
    assert not (tmp_path / "out").exists()


def test_exchange__unknown_picture_format_is_refused(tmp_path: Path) -> None:
    records = three(tmp_path / "root").with_columns(format=pl.lit("ICO"))
    with pytest.raises(CannotWrite, match=r"^COCO: a\.png: format 'ICO' is not one of \['BMP'"):
        write_as("coco", records, AB, tmp_path / "root", tmp_path / "out")


@pytest.mark.parametrize("kind", ["coco", "dice"])
def test_exchange__coarse_labels_are_kept(kind: str, tmp_path: Path) -> None:
    records = three(tmp_path / "root").with_columns(coarse_label=pl.Series(["bee", None, "bee"]))
    write_as(kind, records, AB, tmp_path / "root", tmp_path / "out")
    found = source_of(kind, tmp_path / "out", AB).read(tmp_path / "out")
    assert dict(found.rows.select("label", "coarse_label").iter_rows()) == {"b": "bee", "a": None}
    many = records.with_columns(coarse_label=pl.Series(["bee", None, "bug"]))
    with pytest.raises(
        CannotWrite, match=r"label 'b' has coarse labels \['bee', 'bug'\]; the format holds one a label$"
    ):
        write_as(kind, many, AB, tmp_path / "root", tmp_path / "two")


def test_folder__classes_file_is_the_label_map_and_no_class(tmp_path: Path) -> None:
    write_folder(three(tmp_path / "root"), AB, tmp_path / "root", tmp_path / "out")
    assert (tmp_path / "out" / "classes.txt").read_text() == "b\na\n"
    found = FolderSource(kind="folder", path="x").read(tmp_path / "out")
    assert (sorted(set(found.rows["label"])), found.rejected.height) == (["a", "b"], 0)
