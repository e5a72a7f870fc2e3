"""The scan: every file is a record or has a reason, read again only when it changed; hashes are reused and pinned."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal
from pydantic import TypeAdapter

from platform_assets.vision.datasets import scanning
from platform_assets.vision.datasets.inspection import Known
from platform_assets.vision.datasets.scanning import EmptyDataset, Scan, hash_files, source_version
from platform_assets.vision.datasets.source_kinds import SourceSpec
from platform_assets.vision.datasets.sources import source_files, source_root
from platform_assets.vision.datasets.splits import SplitRule, assign_splits
from platform_assets.vision.formats.folder import FolderSource
from platform_assets.vision.formats.tables import TableSource
from platform_tests.vision.pictures import encoded, noise, png, write

FOLDER = FolderSource(kind="folder", path="x")
GROCERY = Path(__file__).parents[4] / "shared" / "data" / "grocery"


def table(root: Path, *rows: str, **more: Any) -> TableSource:
    write(root, "t.csv", "\n".join(rows))
    columns = {"path": 0, "label": 1, "split": 2}
    spec = {"kind": "table", "path": "x", "files": "t.csv", "header": False, "columns": columns, **more}
    return TableSource.model_validate(spec)


def scan(spec: FolderSource | TableSource, root: Path, **more: Any) -> Scan:
    return scanning.scan(spec.read(root), root, **more)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    for seed, path in enumerate(["cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png"]):
        write(tmp_path, path, png(seed))
    return tmp_path


def rejected(found: Scan) -> list[tuple[str, str]]:
    return found.rejected.select("path", "reason").rows()


def test_scan__records_of_good_images(tmp_path: Path) -> None:
    jpeg = encoded(noise(7, width=30, height=10).convert("L"), "JPEG")
    write(tmp_path, "b.jpg", jpeg)
    write(tmp_path, "a.jpg", png(1))
    spec = table(tmp_path, "b.jpg,dog,train,g1,mono", "a.jpg,cat,test,,poly", extra={"cell_type": 4})
    spec = spec.model_copy(update={"columns": spec.columns.model_copy(update={"group": 3})})
    found = scan(spec, tmp_path)
    assert found.records.schema == {
        **{"image_id": pl.String, "path": pl.String, "label": pl.String, "split": pl.String, "group": pl.String},
        **{"width": pl.Int32, "height": pl.Int32, "mode": pl.String, "format": pl.String, "bytes": pl.Int64},
        **{"phash": pl.String, "pixel_mean": pl.Array(pl.Float32, 3), "pixel_std": pl.Array(pl.Float32, 3)},
        "cell_type": pl.String,
    }
    columns = ["image_id", "path", "label", "split", "group", "width", "height", "mode", "format", "bytes", "cell_type"]
    assert found.records.select(columns).rows() == [
        (hashlib.sha256(png(1)).hexdigest(), "a.jpg", "cat", "test", None, 20, 14, "RGB", "PNG", len(png(1)), "poly"),
        (hashlib.sha256(jpeg).hexdigest(), "b.jpg", "dog", "train", "g1", 30, 10, "L", "JPEG", len(jpeg), "mono"),
    ]
    assert found.label_map.names == ("cat", "dog")
    assert found.rejected.is_empty()


DAMAGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.png": (lambda: b"", "empty_file"),
    "cut.png": (lambda: png()[:400], "truncated"),
    "notes.txt": (lambda: b"two cats", "not_an_image"),
    "page.jpg": (lambda: b"<html>404</html>", "not_an_image"),
    "drawing.jpg": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported_format"),
    "wide.png": (lambda: encoded(noise(width=60, height=20)), "too_many_pixels"),
    "padded.png": (lambda: png() + bytes(1 << 21), "too_many_bytes"),
}


def test_scan__damaged_files_are_listed_and_the_rest_read(animals: Path) -> None:
    for name, (data, _) in DAMAGED.items():
        write(animals, f"cat/{name}", data())
    found = scan(FOLDER, animals, max_pixels=1_000)
    assert len(found.records) == 4
    assert rejected(found) == sorted((f"cat/{name}", reason) for name, (_, reason) in DAMAGED.items())


def test_scan__png_and_gif_named_jpg_are_what_they_are(animals: Path) -> None:
    write(animals, "cat/gif.jpg", encoded(noise(8), "GIF"))
    found = scan(FOLDER, animals).records
    assert found.filter(pl.col("path") == "cat/gif.jpg")["format"].to_list() == ["GIF"]


def test_scan__progress_counts_every_file_in_the_callers_thread(animals: Path) -> None:
    seen: list[tuple[int, int]] = []
    thread = threading.get_ident()

    def on_progress(done: int, total: int) -> None:
        assert threading.get_ident() == thread
        seen.append((done, total))

    scan(FOLDER, animals, on_progress=on_progress)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_scan__rejected_of_every_kind_are_sorted_by_path(animals: Path) -> None:
    for path, data in {"b.png": png(), "cat/z.png": png(0), "dog/0.png": b""}.items():
        write(animals, path, data)
    assert rejected(scan(FOLDER, animals)) == [
        ("b.png", "missing_label"),
        ("cat/z.png", "duplicate_bytes"),
        ("dog/0.png", "empty_file"),
    ]


def test_repeats__same_label_keeps_the_first_path(animals: Path) -> None:
    write(animals, "cat/0.png", png(0))
    found = scan(FOLDER, animals)
    assert "cat/0.png" in found.records["path"]
    assert rejected(found) == [("cat/a.png", "duplicate_bytes")]
    assert found.rejected["detail"][0].endswith("are kept as cat/0.png")


def test_repeats__two_labels_reject_every_copy(animals: Path) -> None:
    write(animals, "dog/0.png", png(0))
    found = scan(FOLDER, animals)
    assert found.records["path"].to_list() == ["cat/b.png", "dog/a.png", "dog/b.png"]
    assert rejected(found) == [("cat/a.png", "conflicting_labels"), ("dog/0.png", "conflicting_labels")]


OFFICIAL = ["a.png,cat,train", "a2.png,cat,val", "a3.png,cat,test", "a4.png,cat,test", "a5.png,cat,", "b.png,dog,train"]


@pytest.mark.parametrize(
    ("leaks", "kept"),
    [
        ("fail", [("a.png", "train"), ("a2.png", "val"), ("a3.png", "test"), ("b.png", "train")]),
        ("drop", [("a3.png", "test"), ("b.png", "train")]),
    ],
)
def test_repeats__across_official_parts(
    tmp_path: Path, leaks: Literal["fail", "drop"], kept: list[tuple[str, str]]
) -> None:
    for row in OFFICIAL:
        write(tmp_path, row.split(",")[0], png(row.startswith("b")))
    found = scan(table(tmp_path, *OFFICIAL), tmp_path, leaks=leaks)
    assert found.records.select("path", "split").rows() == kept
    assert set(found.rejected["reason"]) == {"duplicate_bytes"}
    assert len(found.records) + len(found.rejected) == len(OFFICIAL)


@pytest.mark.parametrize(
    ("again", "reasons"),
    [("a.png,cat,", ["duplicate_path"]), ("./a.png,dog,", ["conflicting_labels"] * 2)],
)
def test_repeats__path_listed_twice(animals: Path, again: str, reasons: list[str]) -> None:
    write(animals, "a.png", png(9))
    rows = ["a.png,cat,", again, "cat/a.png,cat,", "dog/a.png,dog,"]
    found = scan(table(animals, *rows), animals)
    assert found.rejected["reason"].to_list() == reasons


def test_scan__own_class_list_keeps_classes_without_images(animals: Path) -> None:
    spec = table(animals, "dog/a.png,2,", "cat/a.png,0,", label_names={"file": "c.csv", "id": "id", "name": "name"})
    write(animals, "c.csv", "id,name\n0,cat\n1,emu\n2,dog\n")
    assert scan(spec, animals).label_map.names == ("cat", "emu", "dog")


def test_scan__empty_folder(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataset, match=r"0 readable images of 0 classes .*\(the source lists nothing"):
        scan(FOLDER, tmp_path)


def test_scan__nothing_readable_gives_counts_and_the_worst_reasons(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path, f"cat/{name}.png", b"text")
    write(tmp_path, "dog/a.png", b"")
    said = (
        r"0 readable images of 0 classes .* 4 rejected \(3 not_an_image, 1 empty_file\); first: cat/a\.png: starts with"
    )
    with pytest.raises(EmptyDataset, match=said):
        scan(FOLDER, tmp_path)


def test_scan__one_class_is_not_enough(tmp_path: Path) -> None:
    write(tmp_path, "cat/a.png", png())
    with pytest.raises(EmptyDataset, match=r"1 readable images of 1 classes \['cat'\], at least two"):
        scan(FOLDER, tmp_path)


def known_of(found: Scan, root: Path, code: str = "1") -> Known:
    return Known(hashes=hash_files(root, source_files(FOLDER, root)), facts=found.facts, code=code)


def first_scan(root: Path, **more: Any) -> Scan:
    hashes = hash_files(root, source_files(FOLDER, root))
    return scan(FOLDER, root, known=Known(hashes=hashes, facts=None, code="1"), **more)


def assert_same_result(one: Scan, other: Scan) -> None:
    assert_frame_equal(one.records, other.records)
    assert_frame_equal(one.rejected, other.rejected)
    assert_frame_equal(one.facts, other.facts)
    assert one.label_map == other.label_map


@pytest.fixture
def mixed(animals: Path) -> Path:
    """Four images, a copy of one, two damaged files."""
    for path, data in {"cat/copy.png": png(0), "dog/empty.png": b"", "dog/notes.txt": b"two dogs"}.items():
        write(animals, path, data)
    return animals


def test_again__unchanged_files_are_not_opened(mixed: Path) -> None:
    first = first_scan(mixed)
    known = known_of(first, mixed)
    # Other bytes of the same size and time: whoever opened a file would see them.
    for path in known.hashes["path"]:
        times = (mixed / path).stat()
        (mixed / path).write_bytes(bytes(times.st_size))
        os.utime(mixed / path, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = scan(FOLDER, mixed, known=known)
    assert (first.files_read, again.files_read) == (7, 0)
    assert_same_result(again, first)


@pytest.mark.parametrize("data", [png(77), b"no image any more"])
def test_again__one_changed_image_is_the_one_that_is_read(mixed: Path, data: bytes) -> None:
    first = first_scan(mixed)
    write(mixed, "dog/b.png", data)
    again = scan(FOLDER, mixed, known=known_of(first, mixed))
    assert again.files_read == 1
    assert_same_result(again, first_scan(mixed))


def test_again__a_file_changed_after_it_was_hashed_is_read(mixed: Path) -> None:
    known = known_of(first_scan(mixed), mixed)
    write(mixed, "dog/b.png", png(78))
    (mixed / "cat/b.png").unlink()
    again = scan(FOLDER, mixed, known=known)
    assert again.files_read == 1
    assert again.records.filter(pl.col("path") == "dog/b.png")["image_id"].to_list() == [
        hashlib.sha256(png(78)).hexdigest()
    ]


def test_again__a_renamed_or_copied_image_has_its_facts(mixed: Path) -> None:
    first = first_scan(mixed)
    (mixed / "dog/b.png").rename(mixed / "dog/renamed.png")
    write(mixed, "cat/second_copy.png", png(1))
    again = scan(FOLDER, mixed, known=known_of(first, mixed))
    assert again.files_read == 0
    assert_same_result(again, first_scan(mixed))


def test_again__facts_of_other_code_or_limit_are_made_anew(mixed: Path) -> None:
    first = first_scan(mixed)
    assert scan(FOLDER, mixed, known=known_of(first, mixed, code="2")).files_read == 7
    narrow = scan(FOLDER, mixed, known=known_of(first, mixed), max_pixels=20 * 14)
    assert narrow.files_read == 7
    assert scan(FOLDER, mixed, known=known_of(narrow, mixed), max_pixels=20 * 14).files_read == 0


def test_again__facts_survive_a_parquet_file(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    first = first_scan(mixed)
    kept = tmp_path_factory.mktemp("tables") / "facts.parquet"
    first.facts.write_parquet(kept)
    known = known_of(first, mixed)
    again = scan(FOLDER, mixed, known=Known(hashes=known.hashes, facts=pl.read_parquet(kept), code="1"))
    assert again.files_read == 0
    assert_same_result(again, first)


def test_hashes__rows(animals: Path) -> None:
    hashes = hash_files(animals, ["dog/a.png", "cat/a.png"])
    stat = (animals / "cat/a.png").stat()
    first = ("cat/a.png", len(png(0)), stat.st_mtime_ns, hashlib.sha256(png(0)).hexdigest())
    assert hashes.rows()[0] == first
    assert hashes.columns == ["path", "bytes", "mtime_ns", "sha256"]


def test_hashes__known_files_are_not_read_again(animals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = source_files(FOLDER, animals)
    known = hash_files(animals, paths)
    touched, changed = animals / "cat/a.png", animals / "dog/b.png"
    os.utime(touched, ns=(1, 1))
    changed.write_bytes(png(99))
    read: list[str] = []

    def named(place: str) -> str:
        read.append(Path(place).name)
        return Path(place).parent.name

    monkeypatch.setattr(scanning, "_sha256", named)
    again = hash_files(animals, paths, known)
    assert sorted(read) == ["a.png", "b.png"]
    assert again["sha256"].to_list() == ["cat", known["sha256"][1], known["sha256"][2], "dog"]


def test_hashes__of_nothing(tmp_path: Path) -> None:
    assert hash_files(tmp_path, []).schema == hash_files(tmp_path, [], hash_files(tmp_path, [])).schema


def test_version__follows_content_and_names_but_not_times_or_order(animals: Path) -> None:
    def version() -> str:
        return source_version(hash_files(animals, source_files(FOLDER, animals)))

    first = version()
    os.utime(animals / "cat/a.png", ns=(1, 1))
    assert version() == first == source_version(hash_files(animals, source_files(FOLDER, animals)).reverse())
    (animals / "cat/a.png").rename(animals / "cat/c.png")
    renamed = version()
    write(animals, "cat/c.png", png(5))
    assert len({first, renamed, version()}) == 3


def test_version__is_pinned() -> None:
    # It is the data version of source assets: a changed rule would rebuild everything.
    hashes = pl.DataFrame({"path": ["b", "a"], "sha256": ["2", "1"]})
    assert source_version(hashes) == hashlib.sha256(b"a\x001\nb\x002\n").hexdigest()


ELPV = """
kind: table
package: elpv_dataset
folder: data
files: labels.csv
separator: whitespace
header: false
columns: {path: 0, label: 1}
extra: {cell_type: 2}
"""
BINARY = "label_bins: {breaks: [0.5], names: [functional, defective]}"
FOUR_LEVELS = "label_bins: {breaks: [0.1, 0.5, 0.9], names: [whole, likely_whole, likely_defective, defective]}"
FINE = 'label_names: {file: classes.csv, id: "Class ID (int)", name: "Class Name (str)"}'
COARSE = 'label_names: {file: classes.csv, id: "Coarse Class ID (int)", name: "Coarse Class Name (str)"}'


def parsed(text: str) -> Any:
    return TypeAdapter[Any](SourceSpec).validate_python(yaml.safe_load(text))


def candidates(text: str) -> tuple[pl.DataFrame, tuple[str, ...]]:
    spec = parsed(text)
    found = spec.read(source_root(spec, Path("/")))
    assert found.rejected.is_empty()
    assert found.classes is not None
    return found.rows, found.classes


@pytest.mark.parametrize(
    ("bins", "expected"),
    [
        (BINARY, {"functional": 1508 + 295, "defective": 106 + 715}),
        (FOUR_LEVELS, {"whole": 1508, "likely_whole": 295, "likely_defective": 106, "defective": 715}),
    ],
)
def test_elpv__is_read_by_configuration(bins: str, expected: dict[str, int]) -> None:
    pytest.importorskip("elpv_dataset")
    rows, classes = candidates(ELPV + bins)
    assert dict(rows.group_by("label").len().iter_rows()) == expected
    assert classes == tuple(expected)
    assert dict(rows.group_by("cell_type").len().iter_rows()) == {"mono": 1074, "poly": 1550}


def test_elpv__forty_real_images(tmp_path: Path) -> None:
    pytest.importorskip("elpv_dataset")
    root = source_root(parsed(ELPV + BINARY), Path("/"))
    lines = (root / "labels.csv").read_text().splitlines()[::66]
    write(tmp_path, "labels.csv", "\n".join(lines))
    for line in lines:
        write(tmp_path, line.split()[0], (root / line.split()[0]).read_bytes())
    found = scan(parsed(ELPV + BINARY).model_copy(update={"package": None, "path": "x"}), tmp_path)
    assert found.records.select("width", "height", "mode", "format").unique().rows() == [(300, 300, "L", "PNG")]
    assert len(found.records) == len(lines)
    divided = assign_splits(found.records, SplitRule(kind="stratified", train=0.6, val=0.2, test=0.2))
    assert divided["split"].null_count() == 0


@pytest.mark.skipif(not GROCERY.is_dir(), reason="grocery photographs are not on this machine")
@pytest.mark.parametrize(("names", "column", "count"), [(FINE, 1, 81), (COARSE, 2, 43)])
def test_grocery__is_read_by_configuration(names: str, column: int, count: int) -> None:
    text = f"""
kind: table
path: {GROCERY}
files: {{train: train.txt, val: val.txt, test: test.txt}}
header: false
columns: {{path: 0, label: {column}}}
{names}
"""
    rows, classes = candidates(text)
    assert dict(rows.group_by("split").len().iter_rows()) == {"train": 2640, "val": 296, "test": 2485}
    assert len(classes) == count
    assert classes[0] == ("Golden-Delicious" if column == 1 else "Apple")
