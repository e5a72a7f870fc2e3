"""Croissant files: inline rows, tables and file sets; mlcroissant's own reading of ours; nothing from the network."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from platform_assets.vision.cards.dataset_facts import ResponsibleAI
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.sources import BadSource, source_files
from platform_assets.vision.formats import croissant_metadata
from platform_assets.vision.formats.copies import CannotWrite
from platform_assets.vision.formats.croissant import CroissantSource, write_croissant
from platform_assets.vision.formats.croissant_metadata import MissingCroissant
from platform_tests.vision.formats.damage import complaint
from platform_tests.vision.formats.exchange import ABOUT, MADE, records_of, sha256
from platform_tests.vision.pictures import write

Json = dict[str, Any]
FIELDS = {"path": "path", "label": "label", "split": "split"}
CSV = "path,label,split\ni/a.png,NA,train\ni/b.png,007,validation\n"
CONTEXT: Json = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{key: f"cr:{key}" for key in ("citeAs", "column", "extract", "field", "fileProperty", "fileObject", "fileSet")},
    **{key: f"cr:{key}" for key in ("includes", "md5", "recordSet", "references", "regex", "source", "transform")},
}


def croissant(**more: Any) -> CroissantSource:
    return CroissantSource.model_validate(
        {"kind": "croissant", "path": "x", "record_set": "rows", "fields": FIELDS, **more}
    )


def field(name: str, **more: Any) -> Json:
    return {"@type": "cr:Field", "@id": f"rows/{name}", "name": name, "dataType": "sc:Text", **more}


def column(name: str) -> Json:
    return field(name, source={"fileObject": {"@id": "t.csv"}, "extract": {"column": name}})


def document(*fields: Json, **record_set: Any) -> Json:
    table = {"@type": "cr:FileObject", "@id": "t.csv", "name": "t.csv", "contentUrl": "t.csv"}
    table |= {"encodingFormat": "text/csv", "sha256": sha256(CSV.encode())}
    files = {
        "@type": "cr:FileSet",
        "@id": "files",
        "name": "files",
        "includes": "i/*.png",
        "encodingFormat": "image/png",
    }
    rows = {"@type": "cr:RecordSet", "@id": "rows", "name": "rows", "field": list(fields), **record_set}
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "x",
        "rai:dataBiases": "unknown",
        "distribution": [table, files],
        "recordSet": [rows],
    }


COLUMNS = document(column("path"), column("label"), column("split"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "ab":
        write(tmp_path, f"i/{name}.png", "bytes are not looked at here")
    write(tmp_path, "t.csv", CSV)
    write(tmp_path, "croissant.json", json.dumps(COLUMNS))
    return tmp_path


def test_croissant__columns_stay_text(root: Path) -> None:
    found = croissant().read(root)
    assert found.classes is None
    assert found.rows.select("path", "label", "split", "box").rows() == [
        ("i/a.png", "NA", "train", None),
        ("i/b.png", "007", "val", None),
    ]
    assert source_files(croissant(), root) == ["croissant.json", "i/a.png", "i/b.png", "t.csv"]


@pytest.mark.parametrize("kind", ["text/tab-separated-values", "application/x-parquet", "application/jsonlines"])
def test_croissant__other_tables(kind: str, root: Path) -> None:
    frame, file = pl.read_csv(io.StringIO(CSV), infer_schema=False), io.BytesIO()
    if "tab" in kind:
        frame.write_csv(file, separator="\t")
    else:
        (frame.write_parquet if "parquet" in kind else frame.write_ndjson)(file)
    write(root, "t.csv", file.getvalue())
    content = copy.deepcopy(COLUMNS)
    content["distribution"][0] |= {"encodingFormat": kind, "sha256": sha256(file.getvalue())}
    write(root, "croissant.json", json.dumps(content))
    assert croissant().read(root).rows["label"].to_list() == ["NA", "007"]


def test_croissant__inline_rows_with_boxes_and_classes(root: Path) -> None:
    names = {"@type": "cr:RecordSet", "@id": "names", "name": "names", "dataType": "sc:Enumeration"}
    names |= {"field": [{"@type": "cr:Field", "@id": "names/name", "name": "name", "dataType": "sc:Text"}]}
    names |= {"data": [{"names/name": "dog"}, {"names/name": "cat"}]}
    label = field("label", references={"field": {"@id": "names/name"}})
    data = [
        {"rows/path": "i/a.png", "rows/label": "cat", "rows/box": [1, 2, 3, 4]},
        {"rows/path": "i/b.png", "rows/label": "dog", "rows/box": "1 2 3"},
        {"rows/path": "i/c.png", "rows/label": "bird", "rows/box": None},
    ]
    content = document(field("path"), label, field("box"), data=data)
    content["recordSet"].append(names)
    write(root, "croissant.json", json.dumps(content))
    found = croissant(fields={"path": "rows/path", "label": "label", "box": "box"}).read(root)
    assert found.classes == ("dog", "cat")
    assert found.rows.select("path", "label", "box").rows() == [("i/a.png", "cat", [1, 2, 3, 4])]
    assert found.rejected.rows() == [
        (
            "i/b.png",
            "malformed_row",
            "croissant.json rows record 2: box [1.0, 2.0, 3.0] is not four finite numbers x, y, width, height",
        ),
        ("i/c.png", "unknown_label", "croissant.json rows record 3: label 'bird' is none of the classes"),
    ]


def test_croissant__label_from_the_path_of_a_file_set(root: Path) -> None:
    source = {
        "fileSet": {"@id": "files"},
        "extract": {"fileProperty": "filename"},
        "transform": {"regex": r"(\w)\.png"},
    }
    content = {"source": {"fileSet": {"@id": "files"}, "extract": {"fileProperty": "content"}}}
    image = field("image", **content) | {"dataType": "sc:ImageObject"}
    write(root, "croissant.json", json.dumps(document(image, field("label", source=source))))
    found = croissant(fields={"path": "image", "label": "label"}).read(root)
    assert found.rows.select("path", "label").rows() == [("i/a.png", "a"), ("i/b.png", "b")]


def test_croissant__names_in_several_languages_are_asked_for_by_id(root: Path) -> None:
    content = copy.deepcopy(COLUMNS) | {"conformsTo": "http://mlcommons.org/croissant/1.1"}
    content["@context"] |= {"name": {"@container": "@language"}}
    content["recordSet"][0]["field"][0]["name"] = {"en": "path", "de": "Pfad"}
    write(root, "croissant.json", json.dumps(content))
    found = croissant(fields={"path": "rows/path", "label": "label"}).read(root)
    assert found.rows["path"].to_list() == ["i/a.png", "i/b.png"]


def test_croissant__file_below_the_root(root: Path) -> None:
    for file in ("t.csv", "croissant.json", "i/a.png", "i/b.png"):
        write(root, f"deep/{file}", (root / file).read_bytes())
    assert croissant(file="deep/croissant.json").read(root).rows["path"].to_list() == ["deep/i/a.png", "deep/i/b.png"]


Damage = Callable[[Json], object]
BAD_FILES: dict[str, tuple[Damage, str]] = {
    "context address": (
        lambda c: c.update({"@context": "https://example.org/croissant.json"}),
        "@context is not an object but 'https://example.org/croissant.json'; write it out, contexts are not fetched",
    ),
    "nested context": (
        lambda c: c.update(creator={"@context": "https://example.org/c.json", "name": "x"}),
        "it has an @context or @import below its own @context; write all of it there",
    ),
    "imported context": (
        lambda c: c["@context"].update({"@import": "https://example.org/c.json"}),
        "it has an @context or @import below its own @context; write all of it there",
    ),
    "scoped context": (
        lambda c: c["@context"].update(creator={"@id": "sc:creator", "@context": "https://example.org/c.json"}),
        "it has an @context or @import below its own @context; write all of it there",
    ),
    "remote table": (
        lambda c: c["distribution"][0].update(contentUrl="https://example.org/t.csv"),
        "t.csv is remote (https://example.org/t.csv); download it, and give contentUrl the local path",
    ),
    "other scheme": (
        lambda c: c["distribution"][0].update(contentUrl="s3://bucket/t.csv"),
        "t.csv is remote (s3://bucket/t.csv); download it, and give contentUrl the local path",
    ),
    "escape": (
        lambda c: c["distribution"][0].update(contentUrl="../t.csv"),
        "t.csv: contentUrl '../t.csv' is no file below this one; correct it",
    ),
    "checksum": (
        lambda c: c["distribution"][0].update(sha256="0" * 64),
        f"t.csv: sha256 is said to be {'0' * 64}, its bytes give {sha256(CSV.encode())}; fetch the file again",
    ),
    "no checksum": (
        lambda c: c["distribution"][0].pop("sha256"),
        "[Metadata(x) > FileObject(t.csv)] At least one of these properties should be defined: ['md5', 'sha256'].; "
        "correct the file",
    ),
    "gone": (
        lambda c: c["distribution"][0].update(contentUrl="u.csv"),
        " rows: u.csv: no such file below {root}; put the file there",
    ),
    "no table": (
        lambda c: c["distribution"][0].update(encodingFormat="application/json"),
        " rows: t.csv is ['application/json'], no table of ['application/jsonlines', 'application/x-parquet', "
        "'text/csv', 'text/tab-separated-values']; convert it",
    ),
    "column": (
        lambda c: c["recordSet"][0]["field"][1]["source"]["extract"].update(column="klass"),
        "t.csv: columns ['klass'] are none of ['path', 'label', 'split']; correct the file or its fields",
    ),
    "no dataset": (
        lambda c: c.update({"@type": "sc:Thing"}),
        "The current JSON-LD doesn't extend https://schema.org/Dataset.; correct the file",
    ),
    "no record set": (
        lambda c: c["recordSet"][0].update({"@id": "other", "name": "other"}),
        "record set 'rows' is not one of ['other']; correct it",
    ),
    "no field": (
        lambda c: c["recordSet"][0]["field"].pop(),
        " rows: field 'split' is not one of ['rows/label', 'rows/path']; correct fields",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_croissant__bad_file_is_an_error(case: str, root: Path) -> None:
    damage, message = BAD_FILES[case]
    content = copy.deepcopy(COLUMNS)
    damage(content)
    write(root, "croissant.json", json.dumps(content))
    start = "" if message.startswith("t.csv: sha256") or message.startswith("t.csv: col") else "croissant.json"
    start += "" if not start or message.startswith(" ") else ": "
    assert complaint(croissant(), root) == start + message


BAD_ROWS = {
    "i/a.png,,train": ("i/a.png", "missing_label", "the label is empty"),
    "i/a.png,x,dev": ("i/a.png", "malformed_row", "'dev' is no part; write train, val or test"),
    ",x,train": ("croissant.json:1", "malformed_row", "the path is empty"),
    "../a.png,x,train": ("../a.png", "outside_root", "only relative paths without `..` are read"),
    "i/z.png,x,train": ("i/z.png", "missing_file", "no such file below {root}"),
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_croissant__bad_row_is_rejected(row: str, root: Path) -> None:
    text = f"path,label,split\n{row}\n"
    write(root, "t.csv", text)
    content = copy.deepcopy(COLUMNS)
    content["distribution"][0].update(sha256=sha256(text.encode()))
    write(root, "croissant.json", json.dumps(content))
    path, reason, detail = BAD_ROWS[row]
    said = f"croissant.json rows record 1: {detail}".replace("{root}", str(root))
    assert croissant().read(root).rejected.rows() == [(path, reason, said)]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, inner in below for place in places(inner, (*at, key)))]


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([place for place in places(COLUMNS) if place]),
    st.sampled_from(
        [None, 7, "", "x", "a b", [], {}, ["x", 1], {"@id": "rows"}, {"@id": "t.csv"}, {"@value": 1}, "removed"]
    ),
)
def test_croissant__any_change_gives_rows_or_an_error(root: Path, place: tuple[Any, ...], value: Any) -> None:
    content = copy.deepcopy(COLUMNS)
    target: Any = content
    for key in place[:-1]:
        target = target[key]
    if value == "removed":
        del target[place[-1]]
    else:
        target[place[-1]] = value
    write(root, "croissant.json", json.dumps(content))
    try:
        found = croissant().read(root)
    except BadSource:
        return
    assert found.rows.height + found.rejected.height >= 1


def test_write_croissant__mlcroissant_reads_it_with_images_and_no_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import mlcroissant

    rows = [
        (MADE[0], "NA", "train", (1.0, 2.0, 3.0, 4.5)),
        (MADE[3], "007", "val", None),
        (MADE[2], "NA", "test", None),
    ]
    records = records_of(tmp_path / "root", rows)
    label_map = LabelMap(names=("NA", "a/b", "007"))
    write_croissant(records, label_map, tmp_path / "root", tmp_path / "out", about=ABOUT)
    dataset = mlcroissant.Dataset(str(tmp_path / "out" / "croissant.json"))
    assert (dataset.metadata.ctx.issues.errors, dataset.metadata.ctx.issues.warnings) == (set(), set())
    assert capfd.readouterr().err == ""
    read = {text(row["records/sha256"]): row for row in dataset.records("records")}
    assert set(read) == {sha256(made.data) for made, *_ in rows}
    for made, label, split, box in rows:
        row = read[sha256(made.data)]
        assert (text(row["records/label"]), text(row["records/split"])) == (label, split)
        assert row["records/box"] == (None if box is None else list(box))
        with Image.open(io.BytesIO(made.data)) as image:
            assert row["records/image"].tobytes() == image.convert("RGB").tobytes()
    assert [text(row["labels/name"]) for row in dataset.records("labels")] == list(label_map.names)


def test_write_croissant__says_how_the_data_came_to_be(tmp_path: Path) -> None:
    import mlcroissant

    everything = {name: f"about {name}" for name in ResponsibleAI.model_fields}
    everything |= {"data_collection_timeframe": ["2019", "2020-06-30"]}  # type: ignore[dict-item]
    about = ABOUT.model_copy(update={"responsible_ai": ResponsibleAI.model_validate(everything)})
    records = records_of(tmp_path / "root", [(MADE[0], "a", "train", None)])
    write_croissant(records, LabelMap(names=("a",)), tmp_path / "root", tmp_path / "out", about=about)
    read = mlcroissant.Dataset(str(tmp_path / "out" / "croissant.json")).metadata
    assert (read.data_collection, read.data_biases) == ("about data_collection", ["about data_biases"])
    assert [day.date().isoformat() for day in read.data_collection_timeframe] == ["2019-01-01", "2020-06-30"]
    written = json.loads((tmp_path / "out" / "croissant.json").read_text())
    # mlcroissant 1.1.1 writes and reads two terms in a spelling of its own.
    theirs = {"rai:dataCollectionTimeFrame": "rai:dataCollectionTimeframe"}
    theirs["rai:dataDataManipulationProtocol"] = "rai:dataManipulationProtocol"
    terms = {theirs.get(term, term) for term in written if term.startswith("rai:")}
    assert terms == set(about.responsible_ai.terms())


def text(value: str | bytes) -> str:
    """mlcroissant gives text as bytes, or as it stands where it joined by it."""
    return value.decode() if isinstance(value, bytes) else value


def test_write_croissant__table_has_the_checksum_of_the_file(tmp_path: Path) -> None:
    records = records_of(tmp_path / "root", [(MADE[0], "a", "train", None)])
    write_croissant(records, LabelMap(names=("a",)), tmp_path / "root", tmp_path / "out", about=ABOUT)
    table = json.loads((tmp_path / "out/croissant.json").read_text())["distribution"][0]
    assert table["sha256"] == hashlib.sha256((tmp_path / "out/records.parquet").read_bytes()).hexdigest()


def test_write_croissant__a_warning_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    records = records_of(tmp_path / "root", [(MADE[0], "a", "train", None)])
    about = ABOUT.model_copy(update={"version": "first"})
    with pytest.raises(CannotWrite, match=r"Version doesn't follow MAJOR\.MINOR\.PATCH: first"):
        write_croissant(records, LabelMap(names=("a",)), tmp_path / "root", tmp_path / "out", about=about)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_croissant__without_the_extra_the_cure_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(croissant_metadata.importlib, "import_module", missing)
    with pytest.raises(MissingCroissant, match=r"extra `croissant`: `uv pip install 'kestrel-vision\[croissant\]'`"):
        croissant().read(root)
