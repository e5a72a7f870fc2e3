"""What is found wrong with a dataset, through the real graph: every check seen to fail, and the decisions that cure it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from PIL import Image

from platform_assets.components import specs, vector_steps
from platform_assets.components.inputs import require_sound
from platform_assets.components.records_steps import records_code
from platform_assets.components.vision_dataset import VisionDatasetSpec
from platform_assets.stores.tables import Tables
from platform_assets.vision.quality import image_faults
from platform_assets.vision.quality.image_faults import pixel_scores
from platform_assets.vision.quality.label_faults import label_faults
from platform_assets.vision.quality.label_studio import EXCLUDE
from platform_tests.components.projects import (
    COLOURS,
    PROBE,
    Project,
    dataset_yaml,
    experiment_yaml,
    failure,
    metadata,
    project,
    write_images,
)

PARTS = {"train": 4, "val": 2, "test": 2}
RECORDS = " or ".join(
    f'key:"photos/{name}"' for name in ("source", "records", "rejected", "label_map", "near_duplicates")
)
OFFICIAL = {"kind": "official"}
VECTORS = 'key:"photos/first/embeddings" or key:"photos/first/label_issues"'
SIDE_PX = 32


def write_scenes(folder: Path) -> Path:
    """Eight pictures a class of soft shapes, which a copy in another size or format still shows."""
    for place in write_images(folder, per_class=8, side=6).rglob("*.png"):
        with Image.open(place) as image:
            soft = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
        soft.save(place)
    return folder


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """24 pictures, nothing materialized; no tracking server, so that only the dataset can be made."""
    images = write_scenes(tmp_path / "images")
    with project(tmp_path / "project", images, monkeypatch) as made:
        yield made


def table(project: Project, name: str) -> pl.DataFrame:
    return Tables(project.data / "tables").read(["photos", name])


def check(result: dg.ExecuteInProcessResult, name: str) -> tuple[bool, str, dict[str, Any]]:
    """Whether it passed, what it says, and its metadata."""
    found = next(each for each in result.get_asset_check_evaluations() if each.check_name == name)
    return found.passed, found.description or "", {key: value.value for key, value in found.metadata.items()}


def data_versions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    found = [event.materialization for event in result.get_asset_materialization_events()]
    return {each.asset_key.path[-1]: each.tags["dagster/data_version"] for each in found}


def in_parts(project: Project) -> Path:
    """The pictures moved into the folders of official parts, and the YAML saying so."""
    images = project.folder.parent / "images"
    root = images.parent / "official"
    for folder in sorted(images.iterdir()):
        pictures = iter(sorted(folder.iterdir()))
        for part, count in PARTS.items():
            (root / part / folder.name).mkdir(parents=True)
            for _ in range(count):
                picture = next(pictures)
                picture.rename(root / part / folder.name / picture.name)
    project.write("photos", dataset_yaml(root, split=OFFICIAL))
    return root


def copy_resized(picture: Path, to: Path) -> Path:
    """The same picture in another size and format."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(picture) as image:
        image.resize((40, 40), Image.Resampling.BICUBIC).save(to, "JPEG", quality=85)
    return to


def steps_done(result: dg.ExecuteInProcessResult) -> set[str]:
    return {str(event.step_key) for event in result.all_events if event.is_step_success}


def _same_bytes(root: Path) -> None:
    shutil.copy(root / "train/red/000.png", root / "test/red/again.png")


def _resized(root: Path) -> None:
    copy_resized(root / "train/red/000.png", root / "test/red/resized.jpg")


@pytest.mark.parametrize(
    ("plant", "name", "said"),
    [
        (_same_bytes, "records_have_no_split_leak", "1 shared between parts"),
        (_resized, "near_duplicates_stay_in_one_part", "1 pairs stand in two parts"),
    ],
)
def test_leak__planted_copy_is_caught(few: Project, plant: Callable[[Path], None], name: str, said: str) -> None:
    root = in_parts(few)
    before, _, none = check(few.materialize(RECORDS), name)
    plant(root)
    after, text, found = check(few.materialize(RECORDS, raises=False), name)
    assert (before, after) == (True, False)
    assert said in text
    counted = "problems" if "leak" in name else "pairs_in_two_parts"
    assert (none[counted], found[counted], found["threshold"]) == (0, 1, 0)


def test_leak__no_later_run_trains_on_records_that_failed(few: Project) -> None:
    root = in_parts(few)
    _same_bytes(root)
    few.materialize(RECORDS, raises=False)
    said = failure(few.materialize('key:"photos/first/embeddings"', raises=False))
    assert "photos/records failed its blocking check records_have_no_split_leak: 1 shared between parts" in said
    (root / "test/red/again.png").unlink()
    few.materialize(RECORDS)
    require_sound(Tables(few.data / "tables"), "photos")


def test_leak__one_group_in_two_parts_is_caught(few: Project, tmp_path: Path) -> None:
    root = in_parts(few)
    rows = ["path,label,split,bird"]
    for place in sorted(root.rglob("*.png")):
        part, label, _ = place.relative_to(root).parts
        bird = "gull" if place.name in {"003.png", "006.png"} and label == "red" else place.stem + label
        rows.append(f"{place.relative_to(root).as_posix()},{label},{part},{bird}")
    (root / "birds.csv").write_text("\n".join(rows))
    columns = {"path": "path", "label": "label", "split": "split", "group": "bird"}
    source = {"kind": "table", "path": str(root), "files": "birds.csv", "header": True, "columns": columns}
    few.write("photos", dataset_yaml(root, source=source, split=OFFICIAL))
    result = few.materialize("group:photos", raises=False)
    passed, text, found = check(result, "records_have_no_split_leak")
    assert not passed
    assert "1 shared between parts" in text
    assert "split.group_by" in text
    assert "gull" in str(found["found"].records[0].data)
    assert steps_done(result) == {"photos__source"}


@pytest.mark.parametrize(("rule", "made"), [("warn", True), ("fail", False), ("ignore", True)])
def test_near_duplicates__the_yaml_says_what_a_copy_in_two_parts_means(few: Project, rule: str, made: bool) -> None:
    root = in_parts(few)
    _resized(root)
    few.write("photos", dataset_yaml(root, split=OFFICIAL, near_duplicates=rule))
    result = few.materialize("group:photos", raises=False)
    passed, text, _ = check(result, "near_duplicates_stay_in_one_part")
    assert ("photos__profile" in steps_done(result), "photos__tiny_subset" in steps_done(result)) == (made, made)
    assert passed == (rule == "ignore")
    assert table(few, "near_duplicates").height == (0 if rule == "ignore" else 1)
    assert ("not looked for" in text) == (rule == "ignore")


def test_grouped_split__keeps_planted_copies_on_one_side(few: Project, tmp_path: Path) -> None:
    for name in COLOURS:
        for number in range(4):
            copy_resized(tmp_path / f"images/{name}/{number:03d}.png", tmp_path / f"images/{name}/copy{number}.jpg")
    fractions = {"train": 0.5, "val": 0.25, "test": 0.25}

    def crossing(kind: str) -> int:
        few.write("photos", dataset_yaml(tmp_path / "images", split={"kind": kind, **fractions}))
        passed, _, found = check(few.materialize(RECORDS), "near_duplicates_stay_in_one_part")
        assert passed == (found["pairs_in_two_parts"] == 0)
        return int(found["pairs_in_two_parts"])

    assert crossing("stratified") > 1
    assert crossing("grouped") == 0
    part = dict(table(few, "records").select("path", "split").iter_rows())
    assert len(part) == 36
    assert all(part[f"{c}/{n:03d}.png"] == part[f"{c}/copy{n}.jpg"] for c in COLOURS for n in range(4))


def test_grouped_split__without_looking_for_copies_is_refused(few: Project, tmp_path: Path) -> None:
    few.write("photos", dataset_yaml(tmp_path / "images", split={"kind": "grouped"}, near_duplicates="ignore"))
    with pytest.raises(Exception, match="Error while loading component photos") as caught:
        few.load()
    error: BaseException | None = caught.value
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    assert "`near_duplicates: ignore` never finds" in str(error)


def test_classes_are_balanced__sees_a_small_and_a_large_class(few: Project, tmp_path: Path) -> None:
    for picture in sorted((tmp_path / "images/red").iterdir())[4:]:
        picture.unlink()
    few.write("photos", dataset_yaml(tmp_path / "images", min_images_per_class=5, max_imbalance=1.5))
    passed, text, found = check(few.materialize(RECORDS), "classes_are_balanced")
    assert not passed
    assert text == "2 classes: under 5 images, or 1 in 1.5 of the largest class"
    assert (found["problems"], found["threshold"]) == (2, 0)
    rows = [record.data for record in found["found"].records]
    assert [(row["problem"], row["label"], row["images"]) for row in rows] == [
        ("too_few", "red", 4),
        ("imbalanced", "red", 4),
    ]


def test_test_is_like_train__sees_a_dark_test_part(few: Project) -> None:
    root = in_parts(few)
    for place in (root / "test").rglob("*.png"):
        with Image.open(place) as image:
            darker = image.point([level // 4 for level in range(256)] * 3)
        darker.save(place)
    passed, text, found = check(few.materialize(RECORDS), "test_is_like_train")
    assert not passed
    assert "the two sets differ in brightness" in text
    assert found["smallest_p"] <= found["alpha"] == 0.01


def test_new_images_are_like_the_old__sees_a_batch_of_another_kind(few: Project, tmp_path: Path) -> None:
    first = few.materialize("group:photos")
    write_images(tmp_path / "more", per_class=3, side=64, seed=3, told_apart=False)
    for place in (tmp_path / "more").rglob("*.png"):
        place.rename(tmp_path / "images" / place.parent.name / f"new{place.name}")
    second = few.materialize("group:photos")
    assert "not compared" in check(first, "new_images_are_like_the_old")[1]
    passed, text, found = check(second, "new_images_are_like_the_old")
    assert not passed
    assert "the two sets differ in" in text
    assert "width" in text
    assert found["smallest_p"] <= found["alpha"]
    assert metadata(second, "photos/changes")["counts"]["added"] == 9


def test_records_match_their_schema__an_edited_table_fails_and_blocks(few: Project) -> None:
    """The step takes a table that is there as it is, and checks what it has taken."""
    few.materialize(RECORDS)
    edited = table(few, "records").with_columns(phash=pl.lit("a picture"))
    Tables(few.data / "tables").write(["photos", "records"], edited)
    result = few.materialize("group:photos", raises=False)
    passed, text, found = check(result, "records_match_their_schema")
    assert not passed
    assert "an edited table" in text
    assert (found["problems"], found["threshold"]) == (1, 0)
    assert steps_done(result) == {"photos__source"}


def _decisions_csv(place: Path, ids: list[str]) -> None:
    lines = ["image_id,action,label", f"{ids[0]},relabel,red", f"{ids[1]},exclude,", f"{'0' * 64},exclude,"]
    place.write_text("\n".join(lines))


def _decisions_of_label_studio(place: Path, ids: list[str]) -> None:
    def task(image_id: str, choice: str) -> dict[str, Any]:
        result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
        annotation = {"completed_by": 1, "was_cancelled": False, "result": [result], "created_at": "2026-11-25T10:00Z"}
        return {"data": {"image_id": image_id, "label": "blue"}, "annotations": [annotation]}

    place.write_text(json.dumps([task(ids[0], "red"), task(ids[1], EXCLUDE), task("0" * 64, EXCLUDE)]))


@pytest.mark.parametrize(
    ("file", "decide"),
    [("decisions.csv", _decisions_csv), ("export.json", _decisions_of_label_studio)],
)
def test_overrides__are_applied_in_the_next_version_and_reported(
    few: Project, tmp_path: Path, file: str, decide: Callable[[Path, list[str]], None]
) -> None:
    before = data_versions(few.materialize("group:photos"))
    blue = table(few, "records").filter(label="blue").sort("path")
    relabelled, excluded = ids = list(blue["image_id"][:2])
    decide(few.folder / file, ids)
    few.write("photos", dataset_yaml(tmp_path / "images", overrides=file))
    result = few.materialize("group:photos")
    after, records = data_versions(result), table(few, "records")
    assert {name for name in ("source", "records", "changes", "data_card") if before[name] != after[name]} == {
        *("source", "records", "changes", "data_card")
    }
    assert records.filter(image_id=relabelled)["label"].to_list() == ["red"]
    assert excluded not in set(records["image_id"])
    changed = {(row["change"], row["image_id"]) for row in table(few, "changes").to_dicts()}
    assert {("label", relabelled), ("removed", excluded)} <= changed
    stale = table(few, "overrides").filter(~pl.col("applied"))
    assert stale.select("image_id", "rows").rows() == [("0" * 64, 0)]
    assert "no such image in this version" in stale["detail"].item()
    assert "1 exclude, 1 relabel; 1 no longer match" in (few.data / "cards/photos/data_card.md").read_text()
    assert metadata(result, "photos/records")["files_opened"] == 0


def test_overrides__a_second_round_adds_to_the_first_and_overrules_it(few: Project, tmp_path: Path) -> None:
    few.materialize(RECORDS)
    first, second, third = table(few, "records").filter(label="blue").sort("path")["image_id"][:3]
    rounds = {
        "one.csv": [f"{first},relabel,red", f"{second},exclude,"],
        "two.csv": [f"{second},keep,", f"{third},exclude,"],
    }
    for name, lines in rounds.items():
        (few.folder / name).write_text("\n".join(["image_id,action,label", *lines]))
    few.write("photos", dataset_yaml(tmp_path / "images", overrides=list(rounds)))
    few.materialize(RECORDS)
    labels = dict(table(few, "records").select("image_id", "label").iter_rows())
    assert (labels[first], labels[second], third in labels) == ("red", "blue", False)
    actions = dict(table(few, "overrides").filter("applied").select("image_id", "action").iter_rows())
    assert actions == {first: "relabel", second: "keep", third: "exclude"}


def test_overrides__a_file_that_is_not_there_is_named_with_the_cure(few: Project, tmp_path: Path) -> None:
    few.write("photos", dataset_yaml(tmp_path / "images", overrides="gone.csv"))
    said = failure(few.materialize(RECORDS, raises=False))
    assert f"{few.folder / 'gone.csv'}: no such file of decisions" in said
    assert "remove `overrides` from photos's YAML" in said


def test_incremental__only_what_changed_is_opened(few: Project, tmp_path: Path) -> None:
    """An unchanged picture is made unreadable behind the back of size and time: whoever opens it, fails."""

    def opened() -> int:
        return int(metadata(few.materialize(RECORDS), "photos/records")["files_opened"])

    first, again = opened(), opened()
    for place in (tmp_path / "images/blue/000.png", tmp_path / "images/red/007.png"):
        facts = place.stat()
        place.write_bytes(b"\0" * facts.st_size)
        os.utime(place, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with Image.open(tmp_path / "images/green/001.png") as image:
        image.rotate(90).save(tmp_path / "images/green/001.png")
    changed = opened()
    few.write("photos", dataset_yaml(tmp_path / "images", split={"kind": "stratified", "seed": 7}))
    assert (first, again, changed, opened()) == (24, 0, 1, 0)
    assert table(few, "rejected").is_empty()


def test_incremental__image_issues_judge_only_pictures_that_are_new(
    few: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[int] = []

    def counted(pixels_hwc: Any) -> image_faults.PixelScores:
        judged.append(1)
        return pixel_scores(pixels_hwc)

    def made() -> int:
        judged.clear()
        few.materialize(RECORDS)
        few.materialize('key:"photos/image_issues" or key:"photos/profile"')
        return len(judged)

    monkeypatch.setattr(image_faults, "pixel_scores", counted)
    first, again = made(), made()
    with Image.open(tmp_path / "images/green/001.png") as image:
        image.rotate(90).save(tmp_path / "images/green/001.png")
    assert (first, again, made()) == (24, 0, 1)


def test_incremental__code_of_another_module_makes_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "platform_assets"
    for place in specs.PACKAGE.rglob("*.py"):
        copy = package / place.relative_to(specs.PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place, copy)
    monkeypatch.setattr(specs, "PACKAGE", package)
    code = records_code(VisionDatasetSpec.model_validate(dataset_yaml("images")["attributes"]))

    def forget() -> None:
        for cached in (specs.code_version, specs._code_and_imports, specs._file):
            cached.cache_clear()

    def version(edited: str | None = None) -> str:
        if edited:
            with (package / edited).open("a") as file:
                file.write("\nEDITED = True\n")
        forget()
        return specs.code_version(*code)

    try:
        before = version()
        others = [
            version(name) for name in ("vision/cards/data_card.py", "vision/training.py", "vision/formats/cub.py")
        ]
        own = [
            version(name)
            for name in (
                "vision/splits.py",
                "vision/formats/folder.py",
                "vision/perceptual_hash.py",
                "vision/inspection.py",
            )
        ]
    finally:
        monkeypatch.undo()
        forget()
    assert set(others) == {before}
    assert len({before, *own}) == 5


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
    assert (found["pairs"], found["threshold"], found["min_cosine"]) == (len(pairs), 0, 0.95)
    assert any("train/red/000.png" in pair and "test/red/again.bmp" in pair for pair in pairs)


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
