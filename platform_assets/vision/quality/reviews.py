"""What a person decides on doubtful images: the list to review, the decisions that come back, and the records after them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from platform_assets.vision.datasets.label_map import LabelMap, normal_label

if TYPE_CHECKING:
    import polars as pl

Action = Literal["keep", "relabel", "exclude"]
ACTIONS: tuple[Action, ...] = get_args(Action)

_Word = Annotated[str, StringConstraints(strip_whitespace=True)]


class BadReview(ValueError):
    """A file of decisions that does not say what to do; the message names file and line."""


class Override(BaseModel):
    """One decision on one image. The label is that of a relabel, and only of one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_id: str = Field(pattern="^[0-9a-f]{64}$")
    action: Action
    label: str = ""
    reviewer: _Word = ""
    reason: _Word = ""
    date: str = Field("", pattern=r"^(\d{4}-\d\d-\d\d)?$")

    @model_validator(mode="after")
    def _label_fits(self) -> Override:
        if (self.action == "relabel") != bool(self.label):
            raise ValueError(
                f"action {self.action} with label {self.label!r}; give a label with relabel, and only then"
            )
        if self.label != normal_label(self.label):
            raise ValueError(f"label {self.label!r} has outer blanks or is not NFC; write {normal_label(self.label)!r}")
        if self.date:
            date.fromisoformat(self.date)
        return self


OVERRIDE_COLUMNS = tuple(Override.model_fields)
_REVIEW_COLUMNS = ("path", "split", "current_label", "suggested", "score", *OVERRIDE_COLUMNS)


def to_review_csv(faults: pl.DataFrame) -> str:
    """A CSV to fill in: rows of label_faults as they are ranked, with empty action, label, reviewer, reason and date."""
    rows = [
        {
            **{"image_id": row["image_id"], "path": row["path"], "split": row["split"], "current_label": row["label"]},
            **{"suggested": row["suggested"], "score": f"{row['score']:.6f}"},
        }
        for row in faults.iter_rows(named=True)
    ]
    return _csv_text(_REVIEW_COLUMNS, rows)


def overrides_csv(overrides: Iterable[Override]) -> str:
    """The file `overrides.csv`: one decision a line, sorted by image_id."""
    rows = [override.model_dump() for override in sorted(overrides, key=lambda each: each.image_id)]
    return _csv_text(OVERRIDE_COLUMNS, rows)


def read_overrides(place: Path) -> list[Override]:
    """The decisions of an `overrides.csv` or a filled in `to_review.csv`, sorted by image_id; lines without action are skipped.

    Raises BadReview with file and line.
    """
    try:
        text = place.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadReview(f"{place}: {error}; give a CSV in UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    found: list[tuple[int, Override]] = []
    try:
        if missing := {"image_id", "action", "label"}.difference(reader.fieldnames or ()):
            raise BadReview(f"{place}: line 1 lacks the columns {sorted(missing)}; the header is {reader.fieldnames}")
        for row in reader:
            if None in row or None in row.values():
                raise BadReview(
                    f"{place} line {reader.line_num}: not {len(reader.fieldnames or ())} cells as in the header"
                )
            cells = {name: _plain(row[name]) for name in OVERRIDE_COLUMNS if name in row}
            if cells["action"].strip():
                found.append((reader.line_num, _override(f"{place} line {reader.line_num}", cells)))
    except csv.Error as error:
        raise BadReview(f"{place} line {reader.line_num}: {error}; save it as a CSV with commas") from error
    return once(found, f"{place} line")


def apply_overrides(
    records: pl.DataFrame, overrides: Sequence[Override], classes: LabelMap | Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows after the decisions, and a report with one row a decision: the override's columns, applied, before, rows, detail.

    `records` has image_id and label; rows keep their order. Where `applied` is false the decision no longer matches and
    nothing was done: `detail` says why (no such image, a label that is no class). A label that is there already is applied.
    """
    import polars as pl

    names = set(classes.names if isinstance(classes, LabelMap) else classes)
    decided = records.filter(pl.col("image_id").is_in([override.image_id for override in overrides]))
    held = dict(
        decided.group_by("image_id")
        .agg(pl.col("label").unique().sort(), rows=pl.len())
        .rows_by_key("image_id", unique=True)
    )
    report = []
    for override in overrides:
        labels, rows = held.get(override.image_id, ([], 0))
        why = _refusal(override, rows, names)
        report.append(
            {
                **override.model_dump(),
                "applied": not why,
                "before": ", ".join(labels) or None,
                "rows": rows,
                "detail": why,
            }
        )
    frame = pl.DataFrame(report, schema=_report_schema(), orient="row")
    applied = frame.filter("applied")
    relabelled = applied.filter(action="relabel").select("image_id", __label="label")
    kept = records.join(applied.filter(action="exclude"), on="image_id", how="anti", maintain_order="left")
    changed = kept.join(relabelled, on="image_id", how="left", maintain_order="left")
    return changed.with_columns(label=pl.coalesce("__label", "label")).drop("__label"), frame


def _refusal(override: Override, rows: int, names: set[str]) -> str:
    if not rows:
        return "no such image in this version; delete the line, or put the file back"
    if override.action == "relabel" and override.label not in names:
        return f"label {override.label!r} is not one of the {len(names)} classes; add it to the class list or correct the line"
    return ""


def _report_schema() -> dict[str, Any]:
    import polars as pl

    text = dict.fromkeys(OVERRIDE_COLUMNS, pl.String)
    return {**text, "applied": pl.Boolean, "before": pl.String, "rows": pl.Int64, "detail": pl.String}


def _override(place: str, cells: dict[str, Any]) -> Override:
    try:
        return Override.model_validate({**cells, "action": cells["action"].strip()})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "row"
        raise BadReview(f"{place}: {name}: {first['msg']} (found {cells.get(name)!r})") from error


def once(found: Sequence[tuple[object, Override]], place: str) -> list[Override]:
    """Sorted by image_id. Raises BadReview for an image that is decided on twice."""
    seen: dict[str, object] = {}
    for where, override in found:
        if override.image_id in seen:
            raise BadReview(
                f"{place} {where}: image {override.image_id} is decided on already at {seen[override.image_id]}; keep one"
            )
        seen[override.image_id] = where
    return sorted((override for _, override in found), key=lambda each: each.image_id)


def _csv_text(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="")
    writer.writeheader()
    writer.writerows({name: _guarded(str(cell)) for name, cell in row.items() if cell is not None} for row in rows)
    return buffer.getvalue()


# A spreadsheet runs a cell that begins so; the apostrophe makes it text, and `_plain` takes it off.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")


def _guarded(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell


def _plain(cell: str) -> str:
    return cell[1:] if cell.startswith("'") else cell
