"""Reviews in Label Studio: tasks with predictions to import, the labelling config that they need, decisions from its export."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from pydantic import ValidationError

from platform_assets.vision.datasets.label_map import LabelMap, normal_label
from platform_assets.vision.quality.reviews import BadReview, Override, once

if TYPE_CHECKING:
    import polars as pl

EXCLUDE = "(exclude this image)"
_FROM_NAME, _TO_NAME = "label", "image"


def labelling_config(label_map: LabelMap) -> str:
    """The XML for a project's labelling interface: one choice a class, and one that excludes the image."""
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in (*label_map.names, EXCLUDE))
    return (
        "<View>\n"
        f'  <Image name="{_TO_NAME}" value="$image"/>\n'
        f'  <Choices name="{_FROM_NAME}" toName="{_TO_NAME}" choice="single" required="true" showInline="true">\n'
        f"{choices}\n  </Choices>\n"
        f'  <TextArea name="reason" toName="{_TO_NAME}" placeholder="reason" maxSubmissions="1"/>\n'
        "</View>\n"
    )


def local_file_url(path: str) -> str:
    """Where Label Studio shows a file of its local storage: the path is a query of the address, and quoted as one."""
    return f"/data/local-files/?d={quote(path)}"


def label_studio_tasks(faults: pl.DataFrame, url: Callable[[str], str], *, model_version: str) -> str:
    """JSON to import: one task an image, the suggested class as its prediction, under the score of its label.

    So the most doubtful come first where tasks are sorted by score.

    `url` gives the address under which Label Studio shows a path, such as `local_file_url`. The format is its
    documented one of pre-annotations (`data`, `predictions` with `result`, `score`, `model_version`).
    """
    tasks = [_task(row, url(row["path"]), model_version) for row in faults.iter_rows(named=True)]
    return json.dumps(tasks, ensure_ascii=False, indent=1)


def read_label_studio(place: Path) -> list[Override]:
    """The decisions of a JSON export, sorted by image_id: the last annotation of a task that was not cancelled.

    The class that the image had is a keep, another a relabel, EXCLUDE an exclude. Tasks without annotation are skipped.
    Raises BadReview.
    """
    try:
        tasks = json.loads(place.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadReview(f"{place}: {error}; export the project as JSON") from error
    if not isinstance(tasks, list):
        raise BadReview(
            f"{place}: holds a {type(tasks).__name__}, not a list of tasks; export as JSON, not JSON-MIN or CSV"
        )
    found = []
    for index, task in enumerate(tasks):
        try:
            override = _decision(task)
        except ValidationError as error:
            raise BadReview(f"{place}, task {index}: {error.errors()[0]['msg']}; correct it in the project") from error
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise BadReview(
                f"{place}, task {index}: {error!r} is missing or odd; import the tasks as they were made"
            ) from error
        if override is not None:
            found.append((index, override))
    return once(found, f"{place}, task")


def _task(row: dict[str, Any], url: str, model_version: str) -> dict[str, Any]:
    choice = {
        **{"from_name": _FROM_NAME, "to_name": _TO_NAME, "type": "choices"},
        "value": {"choices": [row["suggested"]]},
    }
    names = ("image_id", "path", "label", "suggested")
    return {
        "data": {"image": url, **{name: row[name] for name in names}},
        "predictions": [{"model_version": model_version, "score": row["score"], "result": [choice]}],
    }


def _decision(task: dict[str, Any]) -> Override | None:
    annotations: Sequence[dict[str, Any]] = [each for each in task["annotations"] if not each.get("was_cancelled")]
    if not annotations:
        return None
    last = max(annotations, key=lambda each: str(each.get("updated_at") or each.get("created_at") or ""))
    values = {result["from_name"]: result["value"] for result in last["result"]}
    if _FROM_NAME not in values:
        return None
    chosen = values[_FROM_NAME]["choices"][0]
    label = normal_label(chosen)
    changes = {"action": "relabel", "label": label}
    decided = (
        {"action": "exclude"}
        if chosen == EXCLUDE
        else {"action": "keep"}
        if label == task["data"]["label"]
        else changes
    )
    return Override.model_validate(
        {
            **{"image_id": task["data"]["image_id"], "reviewer": _reviewer(last), **decided},
            "reason": " ".join(values.get("reason", {}).get("text", [])),
            "date": str(last.get("created_at") or "")[:10],
        }
    )


def _reviewer(annotation: dict[str, Any]) -> str:
    """An e-mail address where the export has one, else the number of the account."""
    by = annotation.get("completed_by", "")
    return str(by.get("email") or by.get("id", "")) if isinstance(by, dict) else str(by)
