"""Label Studio: tasks hold what its format asks, an export answers them, odd exports are named by task."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import polars as pl
import pytest

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.quality.label_studio import (
    EXCLUDE,
    label_studio_tasks,
    labelling_config,
    local_file_url,
    read_label_studio,
)
from platform_assets.vision.quality.reviews import BadReview, Override

IDS = [f"{number:064x}" for number in range(5)]
CLASSES = LabelMap(names=("cat", 'dog "big" <1>', "crème"))


def tasks() -> list[dict[str, Any]]:
    columns = {"image_id": IDS, "path": [f"{i}.png" for i in range(5)], "label": ["cat"] * 5}
    faults = pl.DataFrame({**columns, "suggested": ["crème"] * 5, "score": [0.1, 0.2, 0.3, 0.4, 0.5]})
    found: list[dict[str, Any]] = json.loads(label_studio_tasks(faults, local_file_url, model_version="probe__s0"))
    return found


def annotation(
    choice: str | None, *, reason: str = "", when: str = "2026-11-25T10:00:00Z", **more: Any
) -> dict[str, Any]:
    result = (
        []
        if choice is None
        else [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}]
    )
    if reason:
        result.append({"from_name": "reason", "to_name": "image", "type": "textarea", "value": {"text": [reason]}})
    return {"id": 1, "completed_by": 7, "was_cancelled": False, "result": result, "created_at": when, **more}


def exported(place: Path, annotations: list[list[dict[str, Any]]]) -> Path:
    rows = [
        {**task, "id": index, "annotations": found}
        for index, (task, found) in enumerate(zip(tasks(), annotations, strict=False))
    ]
    place.write_text(json.dumps(rows), "utf-8")
    return place


def test_config__is_xml_whose_names_the_predictions_use() -> None:
    view = ElementTree.fromstring(labelling_config(CLASSES))
    choices = view.find("Choices")
    assert choices is not None
    assert [choice.get("value") for choice in choices] == [*CLASSES.names, EXCLUDE]
    image = view.find("Image")
    assert image is not None
    assert image.get("value") == "$image"
    result = tasks()[0]["predictions"][0]["result"][0]
    assert (result["from_name"], result["to_name"]) == (choices.get("name"), image.get("name"))


def test_tasks__hold_data_and_a_scored_prediction() -> None:
    first = tasks()[0]
    assert first["data"]["image"] == "/data/local-files/?d=0.png"
    assert first["data"]["image_id"] == IDS[0]
    prediction = first["predictions"][0]
    assert (prediction["model_version"], prediction["score"]) == ("probe__s0", 0.1)
    assert prediction["result"][0]["value"] == {"choices": ["crème"]}


def test_url__names_the_file_whatever_its_name_holds() -> None:
    path = "a b/c&d #1 100%+é?.png"
    query = urlsplit(local_file_url(path)).query
    assert parse_qs(query, strict_parsing=True) == {"d": [path]}


def test_export__keeps_relabels_excludes_and_skips(tmp_path: Path) -> None:
    place = exported(
        tmp_path / "export.json",
        [
            [annotation("cat", reason="sure")],
            [annotation("crème", completed_by={"id": 7, "email": "ada@example.org"})],
            [annotation(EXCLUDE)],
            [],
            [annotation("crème", was_cancelled=True)],
        ],
    )
    assert read_label_studio(place) == [
        Override(image_id=IDS[0], action="keep", reviewer="7", reason="sure", date="2026-11-25"),
        Override(image_id=IDS[1], action="relabel", label="crème", reviewer="ada@example.org", date="2026-11-25"),
        Override(image_id=IDS[2], action="exclude", reviewer="7", date="2026-11-25"),
    ]


def test_export__the_last_annotation_of_a_task_counts(tmp_path: Path) -> None:
    both = [annotation("crème", when="2026-11-26T09:00:00Z"), annotation("cat")]
    assert [each.action for each in read_label_studio(exported(tmp_path / "export.json", [both]))] == ["relabel"]


def test_export__an_annotation_without_choice_is_skipped(tmp_path: Path) -> None:
    assert read_label_studio(exported(tmp_path / "export.json", [[annotation(None)]])) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "export the project as JSON"),
        ("{}", "holds a dict, not a list of tasks"),
        ('[{"data": {}}]', "task 0: KeyError"),
        ("[3]", "task 0: TypeError"),
        (
            '[{"data": {"image_id": "x", "label": "a"}, "annotations": [{"result": []}]}, {"annotations": 3}]',
            "task 1: TypeError",
        ),
    ],
)
def test_export__odd_ones_are_named(tmp_path: Path, text: str, says: str) -> None:
    place = tmp_path / "export.json"
    place.write_text(text)
    with pytest.raises(BadReview, match=says):
        read_label_studio(place)


def test_export__an_image_decided_on_twice(tmp_path: Path) -> None:
    rows = [{**task, "annotations": [annotation("cat")]} for task in (tasks()[0], tasks()[0])]
    place = tmp_path / "export.json"
    place.write_text(json.dumps(rows))
    with pytest.raises(BadReview, match=r"task 1: image 0+ is decided on already at 0"):
        read_label_studio(place)
