"""Text tables: cells by name or position, labels by id or range, errors with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platform_assets.vision.datasets.label_map import UnknownLabel
from platform_assets.vision.datasets.sources import BadSource
from platform_assets.vision.formats.label_tables import label_reader, table_rows
from platform_assets.vision.formats.tables import LabelBins, LabelNames, TableColumns, TableSource
from platform_tests.vision.pictures import write


def spec(**more: object) -> TableSource:
    columns = TableColumns(path=0, label=1)
    return TableSource.model_validate(
        {"kind": "table", "path": "x", "files": "t.csv", "header": False, "columns": columns, **more}
    )


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("a.png, cat\nb.png,dog\n", ","),
        ("a.png \t cat\n\nb.png dog", "whitespace"),
        ("a.png|cat\r\n|\r\nb.png|dog\r\n", "|"),
    ],
)
def test_rows__cells_are_stripped_and_blank_lines_skipped(tmp_path: Path, text: str, separator: str) -> None:
    rows = table_rows(write(tmp_path, "t", text), separator, header=False, columns={"path": 0, "label": 1})
    assert [cells for _, cells in rows] == [{"path": "a.png", "label": "cat"}, {"path": "b.png", "label": "dog"}]


def test_rows__header_names_quotes_and_byte_order_mark(tmp_path: Path) -> None:
    table = write(tmp_path, "t", '\ufeffclass,file\n"cat, big","a ""1"".png"\n')
    rows = list(table_rows(table, ",", header=True, columns={"path": "file", "label": "class"}))
    assert rows == [(2, {"path": 'a "1".png', "label": "cat, big"})]


def test_rows__short_line_lacks_its_cells(tmp_path: Path) -> None:
    rows = table_rows(write(tmp_path, "t", "a.png\n"), ",", header=False, columns={"path": 0, "label": 1})
    assert list(rows) == [(1, {"path": "a.png"})]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"file,label\n", r"columns \['class'\] do not stand once in its header \['file', 'label'\]"),
        (b"class,class\n", r"columns \['class'\] do not stand once"),
        (b"", r"do not stand once in its header \[\]"),
        (b"class\n\xff\xfe", "not UTF-8 at byte 6; save the table as UTF-8"),
        (b"class\n" + b"x" * 200_000, "line 2: field larger than field limit"),
    ],
)
def test_rows__unusable_table_is_an_error_with_its_name(tmp_path: Path, text: bytes, said: str) -> None:
    with pytest.raises(BadSource, match=said):
        list(table_rows(write(tmp_path, "t", text), ",", header=True, columns={"label": "class"}))


def test_rows__absent_table(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match=r"t: No such file or directory; correct the table's name"):
        list(table_rows(tmp_path / "t", ",", header=False, columns={"label": 0}))


def test_labels__as_they_stand_when_nothing_else_is_said(tmp_path: Path) -> None:
    classes, to_label = label_reader(spec(), tmp_path)
    assert classes is None
    assert to_label("cafe\u0301") == "caf\u00e9"


def test_labels__own_class_list(tmp_path: Path) -> None:
    classes, to_label = label_reader(spec(classes=["dog", "cat"]), tmp_path)
    assert classes == ("dog", "cat")
    assert to_label("cat") == "cat"
    with pytest.raises(UnknownLabel, match="label 'bird' is not in classes"):
        to_label("bird")


def test_labels__ids_are_named_in_order_of_the_integers(tmp_path: Path) -> None:
    write(tmp_path, "classes.csv", "name;id;more\nten;10;x\ntwo;2;\nnone;-1;\n")
    names = LabelNames(file="classes.csv", id="id", name="name", separator=";")
    classes, to_label = label_reader(spec(label_names=names), tmp_path)
    assert classes == ("none", "two", "ten")
    assert to_label("10") == "ten"
    with pytest.raises(UnknownLabel, match=r"label '3' is not in classes.csv"):
        to_label("3")


def test_labels__word_ids_keep_the_order_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, "classes.csv", "id,name\nn02,tench\nn01,shark\nn02,tench\n")
    names = LabelNames(file="classes.csv", id="id", name="name")
    assert label_reader(spec(label_names=names), tmp_path)[0] == ("tench", "shark")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("0,a\n0,b\n", "line 3: id 0 is 'b' here and 'a' above"),
        ("0,a\n1,a\n", r"classes \['a'\] have more than one id"),
        ("0,a\n1,\n", "line 3: id or name is missing"),
        ("0\n", "line 2: id or name is missing"),
    ],
)
def test_labels__ambiguous_class_table_is_an_error(tmp_path: Path, rows: str, said: str) -> None:
    write(tmp_path, "classes.csv", "id,name\n" + rows)
    with pytest.raises(BadSource, match=said):
        label_reader(spec(label_names=LabelNames(file="classes.csv", id="id", name="name")), tmp_path)


def test_labels__break_belongs_to_the_bin_below(tmp_path: Path) -> None:
    bins = LabelBins(breaks=(0.5, 0.9), names=("low", "middle", "high"))
    classes, to_label = label_reader(spec(label_bins=bins), tmp_path)
    assert classes == ("low", "middle", "high")
    cells = ["-inf", "0.5", "0.5000001", "0.9", "1e0", "inf"]
    assert [to_label(cell) for cell in cells] == ["low", "low", "middle", "middle", "high", "high"]


@pytest.mark.parametrize("cell", ["poly", "nan", "0,7"])
def test_labels__what_is_no_number_fits_no_bin(tmp_path: Path, cell: str) -> None:
    _, to_label = label_reader(spec(label_bins=LabelBins(breaks=(0.5,), names=("a", "b"))), tmp_path)
    with pytest.raises(UnknownLabel, match=f"label '{cell}' is not a number"):
        to_label(cell)


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=6, unique=True).map(sorted),
    st.floats(allow_nan=False),
)
def test_labels__every_number_is_in_the_bin_whose_lower_breaks_it_exceeds(breaks: list[float], value: float) -> None:
    names = tuple(f"bin {index}" for index in range(len(breaks) + 1))
    _, to_label = label_reader(spec(label_bins=LabelBins(breaks=tuple(breaks), names=names)), Path())
    assert to_label(repr(value)) == f"bin {sum(value > at for at in breaks)}"
