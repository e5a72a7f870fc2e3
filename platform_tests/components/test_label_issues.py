"""Labels in doubt through the real graph: found by vectors, listed for review, settled by decisions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from PIL import Image

from platform_assets.components import vector_steps
from platform_assets.vision.quality.label_faults import label_faults
from platform_tests.components.projects import (
    PROBE,
    RECORDS,
    Project,
    dataset_yaml,
    experiment_yaml,
    metadata,
    project,
)
from platform_tests.components.scenes import (
    OFFICIAL,
    VECTORS,
    check,
    copy_resized,
    data_versions,
    in_parts,
    table,
    write_scenes,
)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, dg.ExecuteInProcessResult]]:
    """24 pictures in official parts, two of them in the folder of another class, one of them in a second part too.

    And the run of an experiment that judged them by vectors.
    """
    folder = tmp_path_factory.mktemp("judged")
    images = write_scenes(folder / "images")
    with pytest.MonkeyPatch.context() as patch, project(folder / "project", images, patch) as made:
        root = in_parts(made)
        (root / "train/red/001.png").rename(root / "train/blue/red.png")
        (root / "val/green/004.png").rename(root / "val/blue/green.png")
        with Image.open(root / "train/red/000.png") as image:
            image.save(root / "test/red/again.bmp")
        made.write("first", experiment_yaml(baseline="probe", variants={"probe": PROBE}, seeds=[0], retrain=None))
        made.materialize(RECORDS)
        yield made, made.materialize(VECTORS)


def test_label_issues__flipped_labels_are_doubted_and_listed_for_review(
    judged: tuple[Project, dg.ExecuteInProcessResult],
) -> None:
    result = judged[1]
    passed, text, found = check(result, "labels_are_beyond_doubt")
    review = Path(metadata(result, "photos/first/label_issues")["to_review"])
    rows = list(csv.DictReader(io.StringIO(review.read_text())))
    assert not passed
    assert text == f"{found['doubtful']} of 25 labels are doubtful; review {review}"
    assert (found["doubtful"], found["threshold"]) == (len(rows), 0)
    suggested = {row["path"]: row["suggested"] for row in rows}
    assert suggested["train/blue/red.png"] == "red"
    assert suggested["val/blue/green.png"] == "green"


def test_label_issues__no_fold_parts_groups_or_near_duplicates(
    few: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_resized(tmp_path / "images/red/004.png", tmp_path / "images/red/copy.jpg")
    rows = ["path,label,bird"]
    for place in sorted((tmp_path / "images").rglob("*.*")):
        bird = "gull" if place.parent.name == "red" and place.stem in {"000", "001"} else ""
        rows.append(f"{place.parent.name}/{place.name},{place.parent.name},{bird}")
    (tmp_path / "images/birds.csv").write_text("\n".join(rows))
    columns = {"path": "path", "label": "label", "group": "bird"}
    source = {
        "kind": "table",
        "path": str(tmp_path / "images"),
        "files": "birds.csv",
        "header": True,
        "columns": columns,
    }
    split = {"kind": "grouped", "group_by": "group", "train": 0.5, "val": 0.25, "test": 0.25}
    few.write("photos", dataset_yaml("", source=source, split=split))
    few.write("first", experiment_yaml(baseline="probe", variants={"probe": PROBE}, seeds=[0], retrain=None))
    seen: list[pl.DataFrame] = []

    def judged(records: pl.DataFrame, *others: Any, group_by: str) -> pl.DataFrame:
        seen.append(records.select("path", together=group_by))
        return label_faults(records, *others, group_by=group_by)

    monkeypatch.setattr("platform_assets.vision.quality.label_faults.label_faults", judged)
    few.materialize(RECORDS)
    few.materialize(VECTORS)
    groups = seen[0].filter(pl.col("together").is_not_null()).group_by("together").agg(pl.col("path").sort())
    assert sorted(groups["path"].to_list()) == [["red/000.png", "red/001.png"], ["red/004.png", "red/copy.jpg"]]


def test_vectors__copy_in_two_parts_is_caught(judged: tuple[Project, dg.ExecuteInProcessResult]) -> None:
    passed, text, found = check(judged[1], "vectors_show_no_copy_in_two_parts")
    pairs = [record.data["paths"] for record in found["found"].records]
    assert not passed
    assert text.startswith(f"{len(pairs)} pairs stand in two parts")
    assert (found["pairs"], found["threshold"]) == (len(pairs), 0)
    assert pairs == ["['test/red/again.bmp', 'train/red/000.png']"]
    assert "data:image/jpeg;base64," in found["most_alike"]


def test_vectors__what_was_compared_is_not_compared_again(
    judged: tuple[Project, dg.ExecuteInProcessResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compared(*_: Any) -> pl.DataFrame:
        raise AssertionError("compared again")

    name = "platform_assets.vision.quality.near_duplicates.near_duplicates_by_vectors"
    monkeypatch.setattr(name, compared)
    again = judged[0].materialize(VECTORS)
    assert check(again, "vectors_show_no_copy_in_two_parts") == check(judged[1], "vectors_show_no_copy_in_two_parts")


def test_vectors__what_was_not_compared_does_not_pass(
    judged: tuple[Project, dg.ExecuteInProcessResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_steps, "MOST_COMPARED", 1)
    passed, text, _ = check(judged[0].materialize(VECTORS), "vectors_show_no_copy_in_two_parts")
    assert (passed, text) == (False, "not compared: over 1 images")


def test_label_issues__what_a_reviewer_keeps_is_not_asked_again(
    judged: tuple[Project, dg.ExecuteInProcessResult],
) -> None:
    project, result = judged
    review = Path(metadata(result, "photos/first/label_issues")["to_review"])
    ids = [row["image_id"] for row in csv.DictReader(io.StringIO(review.read_text()))]
    (project.folder / "kept.csv").write_text("\n".join(["image_id,action,label", *(f"{name},keep," for name in ids)]))
    root = project.folder.parent / "official"
    project.write("photos", dataset_yaml(root, split=OFFICIAL, overrides="kept.csv"))
    before = table(project, "records")
    project.materialize(RECORDS)
    again = project.materialize(VECTORS)
    assert table(project, "records").equals(before)
    assert check(again, "labels_are_beyond_doubt")[0]
    assert data_versions(again)["label_issues"] != data_versions(result)["label_issues"]
    project.write("photos", dataset_yaml(root, split=OFFICIAL))
    project.materialize(RECORDS)


def test_label_issues__the_filled_in_list_is_taken_as_decisions(
    judged: tuple[Project, dg.ExecuteInProcessResult],
) -> None:
    """Once filled in, the file stays as it is, whatever later versions are judged to be."""
    project, result = judged
    review = Path(metadata(result, "photos/first/label_issues")["to_review"])
    rows = list(csv.DictReader(io.StringIO(review.read_text())))
    flipped = {"train/blue/red.png": "red", "val/blue/green.png": "green"}
    for row in rows:
        label = flipped.get(row["path"], "")
        row |= {"action": "relabel" if label else "keep", "label": label, "reviewer": "Ada"}
    filled = io.StringIO()
    writer = csv.DictWriter(filled, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    review.write_text(filled.getvalue(), newline="")
    root = project.folder.parent / "official"
    said = dataset_yaml(root, split=OFFICIAL, overrides=str(review.relative_to(project.folder)))
    project.write("photos", said)
    project.materialize(RECORDS)
    again = project.materialize(VECTORS)
    labels = dict(table(project, "records").select("path", "label").iter_rows())
    assert {path: labels[path] for path in flipped} == flipped
    assert check(again, "labels_are_beyond_doubt")[2]["doubtful"] < len(rows)
    assert review.read_bytes() == filled.getvalue().encode()
    project.materialize('key:"photos/image_issues" or key:"photos/profile" or key:"photos/data_card"')
    card = (project.data / "cards/photos/data_card.md").read_text()
    assert "2 relabel" in card
    assert "judged by each experiment" not in card
