"""Every way in which images come into the graph, followed to a trained model or to the reason why it may not serve."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from platform_assets.cli import main
from platform_assets.stores.datasets import Datasets
from platform_assets.stores.tables import Tables
from platform_tests.components.projects import (
    RECORDS,
    Project,
    dataset_yaml,
    experiment_yaml,
    failure,
    give_database,
    lasting_project,
    metadata,
    project,
    write_images,
)

CNN = {
    "backbone": "baseline_cnn",
    "mode": "scratch",
    "train": {"epochs": 1, "warmup_epochs": 0, "max_steps": 2, "augmentation": "none"},
}
TRIAL = ("cnn__s0", "cnn__s0")
FITTED = ("checkpoint", "predictions", "metrics")


def first(**changes: Any) -> dict[str, Any]:
    """One network, one seed, one epoch."""
    return experiment_yaml(**{"variants": {"cnn": CNN}, "seeds": [0], "retrain": None, **changes})


def trained(project: Project, experiment: str, **options: Any) -> dg.ExecuteInProcessResult:
    selection = " or ".join(f'key:"{experiment}/{name}"' for name in FITTED)
    return project.materialize(selection, partitions=TRIAL, **options)


def table(project: Project, *key: str, partition: str | None = None) -> pl.DataFrame:
    return Tables(project.data / "tables").read(key, partition)


def data_version(result: dg.ExecuteInProcessResult, asset: str) -> str:
    events = [event.materialization for event in result.get_asset_materialization_events()]
    (found,) = [each for each in events if "/".join(each.asset_key.path) == asset]
    return found.tags["dagster/data_version"]


def ticked(project: Project) -> dg.SensorExecutionData:
    """What the dataset's sensor says now."""
    definitions = project.load()
    found = definitions.resources or {}
    repository = definitions.get_repository_def()
    context = dg.build_sensor_context(
        instance=project.instance,
        repository_def=repository,
        resources={name: found[name] for name in ("tables", "files")},
    )
    return repository.get_sensor_def("photos_new_dataset_version").evaluate_tick(context)


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_database: Path) -> Iterator[Project]:
    """24 pictures, nothing materialized."""
    images = write_images(tmp_path / "images", per_class=8, side=24)
    give_database(tmp_path / "project", mlflow_database)
    with project(tmp_path / "project", images, monkeypatch) as made:
        made.write("first", first())
        yield made


def test_archive__a_local_zip_becomes_records(few: Project, tmp_path: Path) -> None:
    with zipfile.ZipFile(few.folder / "photos.zip", "w") as archive:
        for place in (tmp_path / "images").rglob("*.png"):
            archive.write(place, place.relative_to(tmp_path).as_posix())
    shutil.rmtree(tmp_path / "images")
    source = {"kind": "archive", "path": "photos.zip", "format": {"kind": "folder", "folder": "images"}}
    few.write("photos", dataset_yaml("", source=source))
    result = few.materialize(RECORDS)
    records = table(few, "photos", "records")
    assert records.height == 24
    assert set(records["label"]) == {"blue", "green", "red"}
    assert (Path(metadata(result, "photos/source")["folder"]) / records["path"][0]).is_file()
    assert not ticked(few).run_requests


def test_dvc__version_is_the_stated_hash_and_only_materializing_pulls(few: Project, tmp_path: Path) -> None:
    shutil.move(tmp_path / "images", few.folder / "pictures")
    datasets = Datasets(few.folder, few.data)
    stated = datasets.add(Path("pictures"))
    datasets.push(Path("pictures"))
    few.write("photos", dataset_yaml("", source={"kind": "dvc", "path": "pictures"}))
    first_made = few.materialize(RECORDS)
    for folder in (few.folder / "pictures", few.folder / ".dvc/cache"):
        shutil.rmtree(folder)
    seen = ticked(few)
    assert not seen.run_requests
    assert stated in (seen.skip_message or "")
    assert not (few.folder / "pictures").exists()
    again = few.materialize(RECORDS)
    assert data_version(first_made, "photos/source") == data_version(again, "photos/source") == stated
    assert data_version(first_made, "photos/records") == data_version(again, "photos/records")
    assert len(list((few.folder / "pictures").rglob("*.png"))) == 24


def test_snapshot__trains_when_the_original_images_are_gone(
    few: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(few.folder)
    kept_from = data_version(few.materialize(RECORDS), "photos/records")
    said = CliRunner().invoke(main, ["data", "snapshot", "photos", "spring"])
    assert said.exit_code == 0, said.output
    shutil.rmtree(tmp_path / "images")
    source = {"kind": "snapshot", "dataset": "photos", "name": "spring"}
    few.write("kept", dataset_yaml("", name="kept", source=source, split={"kind": "official"}))
    few.write("first", first(dataset="kept"))
    made = few.materialize(RECORDS.replace("photos", "kept"))
    assert data_version(made, "kept/source") == data_version(made, "kept/records") == kept_from
    trained(few, "kept/first")
    assert table(few, "kept", "first", "predictions", partition="cnn__s0").height == 12


def write_cub(root: Path, images: Path) -> Path:
    """The lists of CUB-200-2011 over pictures of three classes, three of eight in the test part, with a box each."""
    lists: dict[str, list[str]] = {"classes.txt": [], "parts/parts.txt": ["1 beak"], "parts/part_locs.txt": []}
    names = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")
    lists |= {name: [] for name in names}
    number = 0
    for class_id, folder in enumerate(sorted(images.iterdir()), 1):
        name = f"{class_id:03d}.{folder.name.title()}_Bird"
        lists["classes.txt"].append(f"{class_id} {name}")
        for picture in sorted(folder.iterdir()):
            number += 1
            place = root / "images" / name / picture.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, place)
            lists["images.txt"].append(f"{number} {name}/{picture.name}")
            lists["image_class_labels.txt"].append(f"{number} {class_id}")
            lists["train_test_split.txt"].append(f"{number} {int(picture.stem < '005')}")
            lists["bounding_boxes.txt"].append(f"{number} 2.0 3.0 18.0 17.0")
            lists["parts/part_locs.txt"].append(f"{number} 1 5.0 6.0 1")
    (root / "parts").mkdir()
    for file, lines in lists.items():
        (root / file).write_text("\n".join(lines) + "\n")
    return root


def test_cub__from_its_lists_to_a_trained_network(few: Project, tmp_path: Path) -> None:
    root = write_cub(tmp_path / "CUB_200_2011", tmp_path / "images")
    few.write("photos", dataset_yaml("", source={"kind": "cub", "path": str(root)}, split={"kind": "official"}))
    few.write("first", first(crop_to_box={"margin": 0.1}))
    few.materialize(RECORDS)
    records = table(few, "photos", "records")
    assert records["split"].value_counts(sort=True).rows() == [("train", 13), ("test", 9), ("val", 2)]
    assert records["box"].to_list()[0] == [2.0, 3.0, 18.0, 17.0]
    trained(few, "photos/first")
    predictions = table(few, "photos", "first", "predictions", partition="cnn__s0")
    assert set(predictions["truth"]) == {"001.Blue_Bird", "002.Green_Bird", "003.Red_Bird"}


@pytest.fixture
def tasks(few: Project, tmp_path: Path) -> Project:
    """A table that gives every picture three labels, the second opinion in the words of the first."""
    rows = ["path,label,kind,opinion"]
    turned = {"blue": "green", "green": "blue", "red": "red"}
    for place in sorted((tmp_path / "images").rglob("*.png")):
        label = place.parent.name
        kind = "warm" if label == "red" else "cold"
        rows.append(f"{label}/{place.name},{label},{kind},{turned[label]}")
    (tmp_path / "images/labels.csv").write_text("\n".join(rows))
    columns = {"path": "path", "label": "label", "coarse_label": "kind"}
    source = {"kind": "table", "path": str(tmp_path / "images"), "files": "labels.csv", "header": True}
    more = {"columns": columns, "extra": {"opinion": "opinion"}}
    few.write("photos", dataset_yaml("", source={**source, **more}))
    few.materialize(RECORDS)
    return few


def test_target__each_column_of_labels_is_a_task_of_its_own(tasks: Project) -> None:
    """A column of the same class names was once taken for the same task, and its checkpoint for the same checkpoint."""
    checkpoints = set()
    for target, classes in (
        ("label", {"blue", "green", "red"}),
        ("opinion", {"blue", "green", "red"}),
        ("coarse_label", {"cold", "warm"}),
    ):
        tasks.write("first", first(target=target))
        result = trained(tasks, "photos/first")
        predictions = table(tasks, "photos", "first", "predictions", partition="cnn__s0")
        assert not metadata(result, "photos/first/checkpoint", "cnn__s0")["reused"]
        assert set(predictions["truth"]) == classes
        assert set(predictions["prediction"]) <= classes
        checkpoints |= set(table(tasks, "photos", "first", "checkpoint", partition="cnn__s0")["checkpoint_id"])
    assert len(checkpoints) == 3


def test_target__a_column_that_is_no_label_is_refused(tasks: Project) -> None:
    for target in ("path", "width", "species"):
        tasks.write("first", first(target=target))
        said = failure(trained(tasks, "photos/first", raises=False))
        assert f"target '{target}' is no column of labels; the records have label, coarse_label, opinion" in said


@pytest.fixture(scope="module")
def unlicensed(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Project]:
    """A project whose dataset states no licence, with one trial trained."""
    folder = tmp_path_factory.mktemp("unlicensed")
    images = write_images(folder / "images", per_class=8, side=24)
    with lasting_project(folder, images, mlflow_database) as made:
        made.write("photos", dataset_yaml(images, licence=None))
        made.write("first", first())
        made.materialize("group:photos")
        trained(made, "photos/first")
        yield made


def test_licence__unknown_lets_train_and_not_serve_and_stated_lets_through(unlicensed: Project) -> None:
    images = unlicensed.folder.parent / "images"
    champion = 'key:"photos/first/leaderboard" or key:"photos/first/champion"'
    refused = unlicensed.materialize(champion, partitions=None, raises=False)
    assert not refused.success
    assert "the licence of dataset photos is not known: licence.id: no licence is stated" in failure(refused)
    assert "give an SPDX id such as CC-BY-4.0" in failure(refused)
    unlicensed.write("photos", dataset_yaml(images, licence="Farm-Data-1"))
    said = failure(unlicensed.materialize(champion, raises=False))
    assert "licence.source: 'Farm-Data-1' is not on the SPDX list" in said
    assert "licence.approved_by" in said
    unlicensed.write("photos", dataset_yaml(images, licence="CC-BY-4.0"))
    unlicensed.materialize(champion)
    assert table(unlicensed, "photos", "first", "champion")["verdict"].item() == "promoted"


def test_cards__follow_a_changed_licence(unlicensed: Project) -> None:
    images, cards = unlicensed.folder.parent / "images", unlicensed.data / "cards/photos"
    versions, texts = [], []
    for licence in (None, "CC-BY-4.0", "CC-BY-4.0"):
        unlicensed.write("photos", dataset_yaml(images, licence=licence))
        result = unlicensed.materialize('key:"photos/image_issues" or key:"photos/profile" or key:"photos/data_card"')
        versions.append((data_version(result, "photos/profile"), data_version(result, "photos/data_card")))
        texts.append(((cards / "profile.html").read_text(), (cards / "data_card.md").read_text()))
    assert versions[0][0] != versions[1][0]
    assert versions[0][1] != versions[1][1]
    assert versions[1] == versions[2]
    assert texts[1] == texts[2]
    page, card = texts[1]
    assert page.lower().startswith("<!doctype html>")
    assert "CC-BY-4.0" in page
    head = card.split("---")[1]
    assert "license: cc-by-4.0" in head
    assert "image-classification" in head
    assert "license: unknown" in texts[0][1].split("---")[1]
