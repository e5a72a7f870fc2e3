"""What is found wrong with a dataset, through the real graph: every check seen to fail, and the decisions that cure it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from platform_assets.components import specs
from platform_assets.components.inputs import require_sound
from platform_assets.components.records_steps import records_code
from platform_assets.components.vision_dataset import VisionDatasetSpec
from platform_assets.stores.tables import Tables
from platform_assets.vision.quality import hash_pairs, image_faults
from platform_assets.vision.quality.image_faults import pixel_scores
from platform_assets.vision.quality.label_studio import EXCLUDE
from platform_tests.components.projects import (
    COLOURS,
    RECORDS,
    Project,
    dataset_yaml,
    failure,
    metadata,
    write_images,
)
from platform_tests.components.scenes import (
    OFFICIAL,
    check,
    copy_resized,
    data_versions,
    in_parts,
    steps_done,
    table,
)


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


@pytest.mark.parametrize(
    ("more", "made"),
    [
        ({"near_duplicates": "warn"}, True),
        ({"near_duplicates": "fail"}, False),
        ({"split": {"kind": "grouped"}}, False),
    ],
)
def test_near_duplicates__too_many_to_list_are_no_pass_and_stop_only_what_needs_them(
    few: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], made: bool
) -> None:
    """Digits share one layout: a set like MNIST could not be materialized as it was."""
    monkeypatch.setattr(hash_pairs, "MAX_PAIRS", 0)
    copy_resized(tmp_path / "images/red/000.png", tmp_path / "images/red/copy.jpg")
    few.write("photos", dataset_yaml(tmp_path / "images", **more))
    result = few.materialize("group:photos", raises=False)
    if not made:
        assert "over 0 of the" in failure(result)
        assert steps_done(result) == {"photos__source"}
        return
    assert result.success
    again = few.materialize(RECORDS)
    for passed, text, _ in (check(each, "near_duplicates_stay_in_one_part") for each in (result, again)):
        assert not passed
        assert text.startswith("not looked for, because over 0 of the ")
        assert "say `near_duplicates: ignore` in the dataset's YAML" in text
    assert "| near duplicates | not looked for |" in (few.data / "cards/photos/data_card.md").read_text()


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


def test_test_is_like_train__too_few_to_compare_is_no_pass(few: Project, tmp_path: Path) -> None:
    for place in sorted((tmp_path / "images").rglob("*.png")):
        if place.name > "003.png":
            place.unlink()
    passed, text, _ = check(few.materialize(RECORDS), "test_is_like_train")
    assert not passed
    assert re.fullmatch(r"not compared: \d+ and [0-4] images; at least 5 on each side are needed", text)


def test_new_images_are_like_the_old__without_new_ones_passes_and_says_so(few: Project, tmp_path: Path) -> None:
    name = "new_images_are_like_the_old"
    assert check(few.materialize("group:photos"), name)[:2] == (True, "nothing to compare: the first version")
    (tmp_path / "images/red/000.png").unlink()
    assert check(few.materialize("group:photos"), name)[:2] == (True, "nothing to compare: no image came")
    write_images(tmp_path / "more", per_class=1, side=64, seed=3)
    (tmp_path / "more/red/000.png").rename(tmp_path / "images/red/new.png")
    passed, text, _ = check(few.materialize("group:photos"), name)
    assert not passed
    assert re.fullmatch(r"not compared: \d+ and 1 images; at least 5 on each side are needed", text)


def test_new_images_are_like_the_old__sees_a_batch_of_another_kind(few: Project, tmp_path: Path) -> None:
    first = few.materialize("group:photos")
    write_images(tmp_path / "more", per_class=3, side=64, seed=3, told_apart=False)
    for place in (tmp_path / "more").rglob("*.png"):
        place.rename(tmp_path / "images" / place.parent.name / f"new{place.name}")
    second = few.materialize("group:photos")
    assert check(first, "new_images_are_like_the_old")[1] == "nothing to compare: the first version"
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
            version(name) for name in ("vision/cards/data_card.py", "vision/training/train.py", "vision/formats/cub.py")
        ]
        own = [
            version(name)
            for name in (
                "vision/datasets/splits.py",
                "vision/formats/folder.py",
                "vision/images/perceptual_hash.py",
                "vision/datasets/inspection.py",
            )
        ]
    finally:
        monkeypatch.undo()
        forget()
    assert set(others) == {before}
    assert len({before, *own}) == 5
