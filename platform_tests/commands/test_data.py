"""`kestrel data` in a real project: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from platform_assets.cli import main
from platform_assets.commands.dataset_exports import EXPORT_FORMATS
from platform_assets.stores.datasets import Datasets
from platform_assets.stores.tables import Tables
from platform_tests.components.projects import Project, dataset_yaml, project, write_images
from platform_tests.processes import done
from platform_tests.vision.pictures import png, write


def said(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["data", *arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """`photos`, 30 images materialized once; tests add datasets of their own beside it."""
    folder = tmp_path_factory.mktemp("data_cli")
    images = write_images(folder / "images", per_class=10, side=16)
    with pytest.MonkeyPatch.context() as patch, project(folder / "project", images, patch) as made:
        patch.chdir(made.folder)
        made.materialize("group:photos")
        yield made


@pytest.fixture(autouse=True)
def _inside(made: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.folder)


def attributes_of(made: Project, name: str) -> dict[str, object]:
    document = yaml.safe_load((made.folder / made.package / "defs" / name / "defs.yaml").read_text())
    assert document["type"] == "platform_assets.components.VisionDataset"
    return document["attributes"]


def version_of(made: Project, name: str = "photos") -> str:
    version = Tables(made.data / "tables").current_version((name, "records"))
    assert version is not None
    return version


def test_help__names_every_verb_with_an_example() -> None:
    text = said("--help")
    for verb in ("add", "list", "show", "validate", "diff", "snapshot", "push", "pull", "export"):
        assert f"\n  {verb} " in text
        assert said(verb, "--help").startswith("Usage: main data")
    assert "kestrel data diff birds spring current" in text
    assert "kestrel data push birds --remote s3://bucket/birds --endpoint-url" in said("push", "--help")


def test_add__tracks_the_folder_and_writes_yaml_that_the_graph_loads(made: Project) -> None:
    for part in ("train", "val", "test"):
        write_images(made.folder / "shapes" / part, per_class=2, side=12, seed=len(part))
    text = said("add", "shapes", "--licence", "MIT")
    assert "shapes: shapes is tracked as version" in text
    assert "kestrel data validate shapes" in text
    stated = yaml.safe_load((made.folder / "shapes.dvc").read_text())["outs"][0]["md5"]
    assert attributes_of(made, "shapes") == {
        "name": "shapes",
        "description": "Images of the folder shapes.",
        "licence": "MIT",
        "source": {"kind": "dvc", "path": "shapes"},
        "split": {"kind": "official"},
    }
    keys = {key.to_user_string() for key in made.load().resolve_asset_graph().get_all_asset_keys()}
    assert {"shapes/source", "shapes/records"} <= keys
    assert f"source version  {stated}" in said("show", "shapes")
    write(made.folder, "shapes/train/red/new.png", png(5))
    assert f"version {stated}" not in said("add", "shapes")
    assert attributes_of(made, "shapes")["licence"] == "MIT"


def test_add__no_dvc_registers_a_folder_where_it_lies(made: Project, tmp_path: Path) -> None:
    images = write_images(tmp_path / "My Birds", per_class=3, side=12)
    said("add", str(images), "--no-dvc")
    assert attributes_of(made, "my_birds")["source"] == {"kind": "folder", "path": str(images)}
    assert "my_birds: 9 images taken in, 0 rejected" in said("validate", "my_birds")
    shutil.rmtree(made.folder / made.package / "defs/my_birds")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (
            ("images", "--name", "photos"),
            1,
            "photos: the project has a dataset of this name; choose another with --name",
        ),
        (
            ("images", "--name", "No Name"),
            1,
            "name 'No Name': lower-case words joined by _ are needed, such as 'no_name'",
        ),
        (("{outside}",), 1, "move it in, or register it in place with --no-dvc"),
        (("unlike",), 1, "unlike"),
        (("nowhere",), 2, "'nowhere' does not exist"),
    ],
)
def test_add__refused_writes_nothing(
    made: Project, tmp_path: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    write_images(tmp_path / "outside", per_class=2, side=12)
    write(made.folder, "images/a/1.png", png(1))
    write(made.folder, "unlike/readme.txt", "no images")
    before = sorted(path for path in made.folder.rglob("defs.yaml"))
    output = said("add", *(word.format(outside=tmp_path / "outside") for word in arguments), code=code)
    assert text in output
    assert "Traceback" not in output
    assert sorted(made.folder.rglob("defs.yaml")) == before
    assert not list(made.folder.glob("unlike.dvc"))


def test_list_and_show__the_facts_of_what_is_materialized(made: Project) -> None:
    made.write("later", dataset_yaml("nowhere", name="later", licence=None))
    rows = {line.split()[0]: line.split() for line in said("list").splitlines()}
    assert rows["name"] == ["name", "kind", "version", "images", "licence"]
    assert rows["photos"] == ["photos", "folder", version_of(made), "30", "CC0-1.0"]
    assert rows["later"] == ["later", "folder", "not", "materialized", "-", "not", "stated"]
    text = said("show", "photos")
    for fact in ("description     Noisy colours.", f"version         {version_of(made)}", "images          30, 0.0 MB"):
        assert fact in text
    assert "not materialized; `kestrel materialize later`" in said("show", "later")
    assert "birds: no such dataset here; defined are" in said("show", "birds", code=1)


def test_validate__fails_as_the_checks_would(made: Project) -> None:
    damaged = write_images(made.folder / "damaged", per_class=4, side=12)
    made.write("damaged", dataset_yaml("damaged", name="damaged"))
    assert said("validate", "damaged").startswith("damaged: 12 images taken in, 0 rejected")
    (damaged / "red/001.png").write_bytes(b"")
    text = said("validate", "damaged", code=1)
    assert "damaged: 11 images taken in, 1 rejected" in text
    assert "red/001.png  empty_file  0 bytes" in text
    assert "Error: 8.33% of the files are rejected, 1.00% are allowed" in text
    assert not (made.data / "tables/damaged").exists()


def test_validate__names_the_images_that_leak(made: Project) -> None:
    for part in ("train", "val", "test"):
        write_images(made.folder / "leaky" / part, per_class=2, side=12, seed=len(part))
    shutil.copy(made.folder / "leaky/train/red/000.png", made.folder / "leaky/test/red/copy.png")
    made.write("leaky", dataset_yaml("leaky", name="leaky", split={"kind": "official"}))
    text = said("validate", "leaky", code=1)
    assert "in two parts:" in text
    assert "['test/red/copy.png', 'train/red/000.png']" in text
    assert "Error: 1 images or groups stand in two parts, 0 are allowed" in text


def test_validate__looks_for_copies_and_applies_decisions_as_the_graph_does(made: Project) -> None:
    for part in ("train", "val", "test"):
        write_images(made.folder / "alike" / part, per_class=4, side=64, seed=len(part))
    with Image.open(made.folder / "alike/train/red/000.png") as image:
        image.save(made.folder / "alike/test/red/copy.bmp")

    def validated(code: int = 0, **more: Any) -> str:
        made.write("alike", dataset_yaml("alike", name="alike", **more))
        return said("validate", "alike", code=code)

    assert "in two parts" not in validated(split={"kind": "grouped"})
    official: dict[str, Any] = {"split": {"kind": "official"}}
    assert "near_duplicate  " in validated(**official)
    text = validated(code=1, **official, near_duplicates="fail")
    assert "Error: 1 pairs of near duplicates stand in two parts, 0 are allowed" in text
    copied = hashlib.sha256((made.folder / "alike/test/red/copy.bmp").read_bytes()).hexdigest()
    (made.folder / "copies.csv").write_text(f"image_id,action,label\n{copied},exclude,\n")
    text = validated(**official, near_duplicates="fail", overrides="copies.csv")
    assert text.startswith("alike: 36 images taken in, 0 rejected")


def test_snapshot_and_diff__after_the_files_changed_and_vanished(made: Project) -> None:
    images = write_images(made.folder / "birds", per_class=8, side=12)
    made.write("birds", dataset_yaml("birds", name="birds"))
    made.materialize("group:birds")
    first = version_of(made, "birds")
    text = said("snapshot", "birds", "spring")
    assert text.startswith(f"birds/spring: version {first}, 24 images, {made.data}/snapshots/birds/spring")
    (images / "red/000.png").unlink()
    (images / "red/001.png").rename(images / "blue/moved.png")
    assert "materialize the records again" in said("snapshot", "birds", "autumn", code=1)
    made.materialize("group:birds")
    text = said("diff", "birds", "spring", "current")
    assert text == said("diff", "birds", first, version_of(made, "birds"))
    counts, header, *changes = text.splitlines()
    assert counts.startswith("0 added, 1 removed, 1 moved, 1 label, ")
    assert header.split() == ["change", "image_id", "path", "old", "new"]
    assert [(line.split()[0], line.split()[2:]) for line in changes[:3]] == [
        ("removed", ["red/000.png", "red"]),
        ("moved", ["blue/moved.png", "red/001.png", "blue/moved.png"]),
        ("label", ["blue/moved.png", "red", "blue"]),
    ]
    assert said("diff", "birds", first, first) == "0 added, 0 removed, 0 moved, 0 label, 0 part\n"
    versions = f"({first}, {version_of(made, 'birds')})"
    text = said("diff", "birds", "x", "current", code=1)
    assert f"birds: 'x' is none of current, its snapshots (spring) and its versions {versions}" in text
    assert f"older versions  {first}\n" in said("show", "birds")
    rows = list(csv.reader(io.StringIO(said("diff", "birds", "spring", "current", "--csv", "-"))))
    assert [" ".join(row).split() for row in rows] == [line.split() for line in (header, *changes)]
    assert "is kept with version" in said("snapshot", "birds", "spring", code=1)
    assert "every file is as it was kept" in said("validate", "birds", "--snapshot", "spring")
    pack = max((made.data / "snapshots/birds/spring").rglob("*"), key=lambda place: place.stat().st_size)
    kept = pack.read_bytes()
    pack.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert "birds/spring is not as it was kept: " in said("validate", "birds", "--snapshot", "spring", code=1)
    pack.write_bytes(kept)

    shutil.rmtree(images)
    source = {"kind": "snapshot", "dataset": "birds", "name": "spring"}
    made.write("spring", dataset_yaml("", name="spring", source=source, split={"kind": "official"}))
    assert said("validate", "spring").startswith("spring: 24 images taken in, 0 rejected")
    assert f"source version  {first}" in said("show", "spring")


@pytest.mark.parametrize("name", ["my spring", "../../spring", ".spring", ""])
def test_snapshot__a_name_that_is_no_folder_is_a_usage_error(name: str) -> None:
    assert "a letter or digit first" in said("snapshot", "photos", name, code=2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("type: [\n", "line 2, column 1"),
        (yaml.safe_dump(dataset_yaml("", name="typo", licens="MIT")), "typo/defs.yaml:"),
    ],
)
def test_yaml__a_mistake_anywhere_is_a_message_with_file_and_line(made: Project, text: str, says: str) -> None:
    place = made.folder / made.package / "defs/typo/defs.yaml"
    place.parent.mkdir(exist_ok=True)
    place.write_text(text)
    try:
        output = said("list", code=1)
    finally:
        shutil.rmtree(place.parent)
    assert output.startswith("Error: ")
    assert says in output
    assert "Traceback" not in output


def test_push_and_pull__through_the_default_and_a_named_remote(made: Project, tmp_path: Path) -> None:
    images = write_images(made.folder / "tracked", per_class=2, side=12)
    said("add", "tracked")
    assert "tracked: 7 objects pushed, version" in said("push", "tracked")
    assert "tracked: 0 objects pushed" in said("push", "tracked")
    assert "tracked: 7 objects pushed" in said("push", "tracked", "--remote", str(tmp_path / "store"))
    for gone in (images, made.folder / ".dvc/cache", made.data / "dvc"):
        shutil.rmtree(gone)
    assert "tracked: 7 objects pulled" in said("pull", "tracked")
    assert "tracked: 6 images taken in" in said("validate", "tracked")
    shutil.rmtree(images)
    assert "tracked: 6 images taken in" in said("validate", "tracked"), "what is not there is pulled first"
    shutil.rmtree(images)
    made.materialize("group:tracked")
    assert len(list(images.rglob("*.png"))) == 6
    assert version_of(made, "tracked") in said("list")


def test_push_and_pull__a_snapshot_trains_as_the_same_version_where_it_arrives(made: Project, tmp_path: Path) -> None:
    version, kept = version_of(made), made.data / "snapshots/photos"
    remote = ("--remote", str(tmp_path / "nas"))
    said("snapshot", "photos", "moved")
    assert "photos/moved: 2 files pushed to" in said("push", "photos", "--snapshot", "moved", *remote)
    assert "photos/moved: 0 files pushed to" in said("push", "photos", "--snapshot", "moved", *remote)
    shutil.rmtree(kept)
    source = {"kind": "snapshot", "dataset": "photos", "name": "moved"}
    made.write("arrived", dataset_yaml("", name="arrived", source=source, split={"kind": "official"}))
    cure = "`kestrel data pull photos --snapshot moved` gets it from a remote"
    assert cure in said("validate", "arrived", code=1)
    text = said("pull", "photos", "--snapshot", "moved", *remote)
    assert text.endswith(f"photos/moved: 2 files pulled from {tmp_path}/nas, version {version}\n")
    made.materialize("group:arrived")
    assert version_of(made, "arrived") == version


def test_push__a_snapshot_goes_to_the_remote_of_the_project_unless_another_is_named(
    made: Project, tmp_path: Path
) -> None:
    said("snapshot", "photos", "kept")
    Datasets(made.folder, made.data).use_remote(str(tmp_path / "own"))
    assert f"pushed to {tmp_path}/own, version" in said("push", "photos", "--snapshot", "kept")
    (made.folder / ".dvc/config").unlink()
    assert "no remote is configured; name one with" in said("push", "photos", "--snapshot", "kept", code=1)
    assert "a letter or digit first" in said("pull", "photos", "--snapshot", "../x", code=2)
    assert "a letter or digit first" in said("pull", "..", "--snapshot", "x", code=2)


def test_push__refusals_are_usage_errors() -> None:
    text = said("push", "photos", code=2)
    assert (
        "photos: its source is of kind folder, not dvc; `kestrel data add FOLDER` tracks one, --snapshot moves" in text
    )
    made_up = ("--endpoint-url", "http://nas:8333")
    assert "--endpoint-url belongs to --remote; give both" in said("push", "tracked", *made_up, code=2)


RELEASE = ("--creator", "A laboratory", "--url", "https://example.org/photos", "--published", "2026-11-01")


@pytest.mark.parametrize("to", EXPORT_FORMATS)
def test_export__the_folder_holds_every_image_and_is_taken_once(to: str, made: Project, tmp_path: Path) -> None:
    made.write("photos", dataset_yaml(made.folder / "../images", citation="None."))
    command = ("export", "photos", "--format", to, str(tmp_path / "out"), *(RELEASE if to == "croissant" else ()))
    assert said(*command) == f"photos: writing 30 images\nphotos: 30 images in {tmp_path}/out\n"
    written = {path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    records = pl.read_parquet(made.data / "tables/photos/records/all.parquet")
    assert written == {(made.folder / "../images" / path).read_bytes() for path in records["path"]}
    assert "name a new one" in said(*command, code=1)


def test_export__croissant_is_told_what_yaml_does_not_say(made: Project, tmp_path: Path) -> None:
    made.write("photos", dataset_yaml(made.folder / "../images"))
    command = ("export", "photos", "--format", "croissant", str(tmp_path / "out"))
    text = said(*command, "--creator", "A laboratory", code=1)
    assert "photos: give `citation` in the dataset's YAML, --url, --published" in text
    made.write("photos", dataset_yaml(made.folder / "../images", citation="None."))
    assert "Croissant: version '1': String should match pattern" in said(*command, *RELEASE, "--release", "1", code=1)
    assert not (tmp_path / "out").exists()


def test_outside_of_a_project__says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "kestrel init DIR" in said("list", code=2)


def test_command__lists_in_a_process_of_its_own(made: Project) -> None:
    """A project's package is on no path that the installed command has by itself."""
    lines = done(made.folder, "kestrel", "data", "list").splitlines()
    assert ["photos", "folder", version_of(made), "30", "CC0-1.0"] in [line.split() for line in lines]
