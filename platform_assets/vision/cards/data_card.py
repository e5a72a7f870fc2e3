"""The data card: Markdown with a Hugging Face head, made of typed facts and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from platform_assets.vision.cards.dataset_facts import ResponsibleAI
from platform_assets.vision.cards.licences import StatedLicence, hub_fields, missing
from platform_assets.vision.cards.markdown import NOT_STATED, literal, number, stated, table
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.profile import Profile
from platform_assets.vision.datasets.splits import SplitRule
from platform_assets.vision.quality.findings import Findings

NOT_LOOKED_FOR = "not looked for"
JUDGED_LATER = "judged by each experiment with a linear probe, in its label_issues"

_HUB_PARTS = {"train": "train", "val": "validation", "test": "test"}
_SIZE_CATEGORIES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")


class DataCardFacts(BaseModel):
    """What a data card says. `rejected` is the table of that name, `version` that of the records."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    description: str
    licence: StatedLicence
    citation: str | None
    responsible_ai: ResponsibleAI = ResponsibleAI()
    split: SplitRule
    label_map: LabelMap
    profile: Profile
    rejected: pl.DataFrame
    findings: Findings = Findings()
    version: str


def data_card(facts: DataCardFacts) -> str:
    numbers = facts.profile
    sections = [
        _head(facts),
        f"# {facts.name}",
        _gaps_line(facts),
        facts.description,
        "## Licence",
        _licence_text(facts),
        "## Contents",
        f"{numbers.images:,} images of {numbers.classes:,} classes, {numbers.total_bytes / 1e6:,.1f} MB. "
        f"The largest class has {numbers.imbalance:.1f} times the images of the smallest.",
        _frame(numbers.counts),
        "## Parts",
        _split_text(facts.split),
        "## Images",
        _frame(numbers.sizes),
        _frame(numbers.formats),
        "Sizes are in pixels after EXIF rotation. Over all pixels, RGB, 0 to 1: "
        f"mean {_triple(numbers.channel_mean)}, standard deviation {_triple(numbers.channel_std)}.",
        "## Not taken in",
        _rejected_text(facts.rejected),
        "## Quality",
        table(["looked for", "found"], list(_quality_rows(facts.findings))),
        "## Responsible AI",
        "In the properties of Croissant RAI 1.0, as stated by the dataset's owners.",
        _responsible_text(facts.responsible_ai),
        "## Version",
        table(
            ["what", "SHA-256"],
            [("records (content of the table, first digits)", facts.version), ("label map", facts.label_map.checksum)],
        ),
    ]
    return "\n\n".join(sections) + "\n"


def _head(facts: DataCardFacts) -> str:
    """The Hub's own fields; `dataset_info` gives the class names in the order of the label map."""
    from huggingface_hub import DatasetCardData

    names = {str(index): name for index, name in enumerate(facts.label_map.names)}
    parts = [part for part in _HUB_PARTS if part in facts.profile.counts.columns]
    info = {
        "features": [
            {"name": "image", "dtype": "image"},
            {"name": "label", "dtype": {"class_label": {"names": names}}},
        ],
        "splits": [{"name": _HUB_PARTS[part], "num_examples": int(facts.profile.counts[part].sum())} for part in parts],
        "dataset_size": facts.profile.total_bytes,
    }
    fields: dict[str, Any] = {
        "pretty_name": facts.name,
        **hub_fields(facts.licence),
        "task_categories": ["image-classification"],
        "size_categories": [_size_category(facts.profile.images)],
        "tags": ["kestrel"],
        "dataset_info": info,
    }
    return f"---\n{DatasetCardData(**fields).to_yaml()}\n---"


def _gaps_line(facts: DataCardFacts) -> str:
    licence = facts.licence
    said = [licence.id, licence.source, licence.approved_by, facts.citation, *facts.responsible_ai.terms().values()]
    unsaid = sum(not value for value in said)
    findings = [result for _, result in _quality_rows(facts.findings)]
    return (
        f"**Gaps:** {unsaid} of {len(said)} facts that people state are {NOT_STATED}, "
        f"{findings.count(NOT_LOOKED_FOR)} of 2 kinds of finding were {NOT_LOOKED_FOR}."
    )


def _licence_text(facts: DataCardFacts) -> str:
    licence = facts.licence
    rows = [
        ("licence", stated(licence.id)),
        ("stated in", stated(licence.source)),
        ("approved by", stated(licence.approved_by)),
        ("cite", stated(facts.citation)),
    ]
    lacking = "".join(f"\n\nThe licence is not known. {literal(said)}." for said in missing(licence)[:1])
    return table(["what", "value"], rows) + lacking


def _split_text(split: SplitRule) -> str:
    if split.kind == "official":
        return "The dataset's own parts; a missing val part is drawn from train."
    grouped = f" Images of one `{split.group_by}` stay together." if split.group_by else ""
    strata = ", ".join(f"`{column}`" for column in split.stratify_by)
    return (
        f"Drawn with seed {split.seed}: train {split.train:g}, val {split.val:g}, test {split.test:g} of the images, "
        f"stratified by {strata}.{grouped}"
    )


def _rejected_text(rejected: pl.DataFrame) -> str:
    if rejected.is_empty():
        return "Every file was taken in."
    reasons = rejected.group_by("reason").agg(files=pl.len(), example=pl.col("path").min())
    return _frame(reasons.sort("files", "reason", descending=[True, False]))


def _quality_rows(findings: Findings) -> Iterator[tuple[str, str]]:
    groups = findings.near_groups()
    near = f"{sum(map(len, groups)):,} images in {len(groups):,} groups"
    yield "near duplicates", NOT_LOOKED_FOR if findings.near_duplicates is None else near
    yield "faults of images", _tally(findings.image_faults, "fault")
    labels = findings.label_faults
    yield "labels in doubt", JUDGED_LATER if labels is None else f"{labels.height:,} images"
    yield "decisions of reviewers applied", _decisions(findings.overrides)


def _decisions(overrides: pl.DataFrame | None) -> str:
    if overrides is None:
        return "none"
    stale = overrides.filter(~pl.col("applied")).height
    return _tally(overrides.filter("applied"), "action") + (f"; {stale:,} no longer match" if stale else "")


def _tally(frame: pl.DataFrame | None, column: str) -> str:
    """How often each value stands in a column: `3 blurry, 1 dark`."""
    if frame is None:
        return NOT_LOOKED_FOR
    counts = frame.group_by(column).len("rows").sort("rows", column, descending=[True, False])
    return ", ".join(f"{rows:,} {value}" for value, rows in counts.rows()) or "none"


def _responsible_text(facts: ResponsibleAI) -> str:
    def said(values: tuple[str, ...]) -> str:
        return "; ".join(" ".join(value.split()) for value in values) or NOT_STATED

    return "\n".join(f"- `{term}`: {said(values)}" for term, values in facts.terms().items())


def _frame(frame: pl.DataFrame) -> str:
    return table(frame.columns, frame.rows())


def _triple(values: tuple[float, float, float]) -> str:
    return ", ".join(number(value) for value in values)


def _size_category(images: int) -> str:
    """The Hub's size categories."""
    return _SIZE_CATEGORIES[min(max(len(str(images)) - 3, 0), len(_SIZE_CATEGORIES) - 1)]
