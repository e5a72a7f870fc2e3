"""Archive sources: what YAML may say, and that what is in the archive is read by its own format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from platform_assets.vision.datasets.archives import extract
from platform_assets.vision.datasets.format_detection import UnknownFormat
from platform_assets.vision.datasets.source_kinds import SourceSpec
from platform_assets.vision.datasets.sources import MissingSource, source_files, source_root
from platform_assets.vision.formats.archive import ArchiveSource
from platform_tests.vision.datasets.test_archives import zipped
from platform_tests.vision.pictures import png

SHA256 = "ab" * 32


def parse(text: str) -> Any:
    return TypeAdapter[Any](SourceSpec).validate_python(yaml.safe_load(text))


def extracted(tmp_path: Path, files: dict[str, bytes]) -> Path:
    (tmp_path / "a.zip").write_bytes(zipped(files))
    extract(tmp_path / "a.zip", tmp_path / "out")
    return tmp_path / "out"


def test_spec__a_url_and_a_nested_format() -> None:
    spec = parse(f"""
        kind: archive
        url: s3://sets/birds.tar.gz
        sha256: {SHA256}
        format:
          kind: table
          folder: birds
          files: labels.csv
          header: false
          columns: {{path: 0, label: 1}}
    """)
    assert isinstance(spec, ArchiveSource)
    assert spec.format is not None
    assert (spec.format.kind, spec.format.folder) == ("table", "birds")
    assert parse(yaml.safe_dump(spec.model_dump(mode="json"))) == spec


BAD = {
    "no place": ("{kind: archive}", "exactly one of `path` and `url`"),
    "two places": (
        f"{{kind: archive, path: a.zip, url: 'https://x/a.zip', sha256: {SHA256}}}",
        "exactly one of `path`",
    ),
    "url without hash": (
        "{kind: archive, url: 'https://x/a.zip'}",
        "a `url` needs `sha256`: what is behind it may change",
    ),
    "url without protocol": (f"{{kind: archive, url: x/a.zip, sha256: {SHA256}}}", "'x/a.zip' has no protocol such as"),
    "hash of another kind": ("{kind: archive, path: a.zip, sha256: d41d8cd98f00b204e9800998ecf8427e}", "should match"),
    "folder outside": ("{kind: archive, path: a.zip, format: {kind: folder, folder: ../x}}", "leaves the source"),
    "nested path": ("{kind: archive, path: a.zip, format: {kind: folder, path: x}}", "the outer source says where"),
    "nested package": ("{kind: archive, path: a.zip, format: {kind: folder, package: x}}", "leave out `path` and"),
    "nested archive": (
        "{kind: archive, path: a.zip, format: {kind: archive}}",
        "does not match any of the expected tags",
    ),
    "unknown key": ("{kind: archive, path: a.zip, folder: x}", "Extra inputs are not permitted"),
}


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=list(BAD))
def test_spec__what_cannot_be_meant_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        parse(text)


def test_read__by_the_format_that_is_named(tmp_path: Path) -> None:
    out = extracted(tmp_path, {"set/a.png": png(1), "set/b.png": png(2), "set/t.csv": b"a.png,cat\nb.png,dog\n"})
    nested = {"kind": "table", "folder": "set", "files": "t.csv", "header": False, "columns": {"path": 0, "label": 1}}
    spec = ArchiveSource.model_validate({"kind": "archive", "path": "a.zip", "format": nested})
    root = spec.root_in(out)
    assert root == out / "set"
    assert spec.read(root).rows.select("path", "label").rows() == [("a.png", "cat"), ("b.png", "dog")]
    assert list(spec.own_files(root)) == ["t.csv"]
    assert source_files(spec, root) == ["a.png", "b.png", "t.csv"]


def test_read__by_the_format_that_is_found(tmp_path: Path) -> None:
    out = extracted(tmp_path, {"pets/train/cat/a.png": png(1), "pets/test/dog/b.png": png(2)})
    spec = ArchiveSource(kind="archive", path="a.zip")
    root = spec.root_in(out)
    assert root == out / "pets"
    assert spec.read(root).rows.select("path", "label", "split").rows() == [
        ("test/dog/b.png", "dog", "test"),
        ("train/cat/a.png", "cat", "train"),
    ]
    assert list(spec.own_files(root)) == []


def test_read__no_format_is_found(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match=r"no known format\. .* Found notes\.txt\."):
        ArchiveSource(kind="archive", path="a.zip").root_in(extracted(tmp_path, {"notes.txt": b""}))


def test_root__a_folder_that_the_archive_does_not_have(tmp_path: Path) -> None:
    out = extracted(tmp_path, {"pets/cat/a.png": png(1)})
    spec = ArchiveSource.model_validate(
        {"kind": "archive", "path": "a.zip", "format": {"kind": "folder", "folder": "pet"}}
    )
    with pytest.raises(MissingSource, match=f"source folder {out}/pet is not there"):
        spec.root_in(out)


def test_root__is_not_known_before_the_archive_is_unpacked(tmp_path: Path) -> None:
    with pytest.raises(MissingSource, match="ArchiveSource has no folder until its files are fetched"):
        source_root(ArchiveSource(kind="archive", path="a.zip"), tmp_path)
