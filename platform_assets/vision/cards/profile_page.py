"""The profile of a dataset version as one HTML page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict

from platform_assets.vision.cards.licences import StatedLicence, missing
from platform_assets.vision.cards.markdown import number
from platform_assets.vision.cards.pages import rendered
from platform_assets.vision.cards.thumbnails import class_samples, data_uris
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.profile import Profile
from platform_assets.vision.datasets.splits import PARTS, absent_classes
from platform_assets.vision.images.image_files import ReadBytes
from platform_assets.vision.quality.findings import Findings

_PICTURE_BYTES = 2_200_000
_TABLE_ROWS = 1000
_SAMPLED_CLASSES, _SAMPLES, _MOST_SAMPLES, _FEWEST_SAMPLES = 100, 400, 24, 4
_GROUPS, _GROUP_PICTURES, _WORST = 12, 6, 24
_ASPECTS = (
    *((0.5, "narrower than 1:2"), (2 / 3, "1:2 to 2:3"), (0.9, "2:3 to 9:10"), (10 / 9, "about square")),
    *((1.5, "10:9 to 3:2"), (2.0, "3:2 to 2:1")),
)
_WIDEST = "wider than 2:1"


class ProfilePageFacts(BaseModel):
    """What the page says. `version` is that of the records, `made_from` the YAML that they follow from."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    description: str
    licence: StatedLicence
    citation: str | None
    version: str
    made_from: dict[str, Any]
    label_map: LabelMap
    profile: Profile
    records: pl.DataFrame
    rejected: pl.DataFrame
    findings: Findings = Findings()


@dataclass(frozen=True, kw_only=True)
class _Shot:
    """A picture to come: `alt` says what it is to someone who cannot see it, `lines` stand below it."""

    path: str
    alt: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Strip:
    title: str
    note: str
    shots: Sequence[_Shot]


def profile_page(facts: ProfilePageFacts, load: ReadBytes) -> str:
    """The page, 3 MB at most. `load` gives the bytes of a path of the records. Raises LostImage.

    Whatever comes from data is escaped, and a content security policy lets no script run but the page's own and nothing
    be fetched.
    """
    near_groups = facts.findings.near_groups()
    strips = {
        "classes": list(_class_strips(facts.records)),
        "near": list(_near_strips(facts.records, near_groups[:_GROUPS])),
        "faults": _fault_strip(facts),
        "labels": _label_strip(facts),
    }
    shots = [shot for group in strips.values() for strip in group for shot in strip.shots]
    uris = data_uris([shot.path for shot in shots], load, most_bytes=_PICTURE_BYTES)
    return rendered(
        "profile_page.html",
        facts=facts,
        **_tables(facts),
        near_groups=len(near_groups),
        strips=strips,
        uris=dict(zip(shots, uris, strict=True)),
    )


def _tables(facts: ProfilePageFacts) -> dict[str, Any]:
    """What the template writes as tables and sentences, by its names for them."""
    counts = facts.profile.counts
    return {
        "lacking": missing(facts.licence),
        "yaml": yaml.safe_dump(facts.made_from, sort_keys=False, allow_unicode=True),
        "parts": [part for part in PARTS if part in counts.columns],
        "counts": counts.sort("total", "label", descending=[True, False]).head(_TABLE_ROWS).to_dicts(),
        "absent": absent_classes(facts.records, facts.label_map),
        "sizes": [*facts.profile.sizes.rows(), _aspect_row(facts.records)],
        "aspects": _aspects(facts.records),
        "common_sizes": _common_sizes(facts.records),
        "rejected": list(_rejected(facts.rejected)),
        "across": _across_parts(facts.records),
        "copies": facts.rejected["reason"].is_in(["duplicate_bytes", "duplicate_path"]).sum(),
        "faults": _fault_counts(facts.findings.image_faults),
    }


def _class_strips(records: pl.DataFrame) -> Iterator[_Strip]:
    totals = dict(records.group_by("label").len().iter_rows())
    shown = min(len(totals), _SAMPLED_CLASSES)
    per_class = max(_FEWEST_SAMPLES, min(_MOST_SAMPLES, _SAMPLES // shown))
    samples = class_samples(records, classes=_SAMPLED_CLASSES, per_class=per_class)
    for (label,), rows in samples.group_by("label", maintain_order=True):
        shots = [_shot(row, str(row["split"])) for row in rows.iter_rows(named=True)]
        yield _Strip(title=str(label), note=f"{len(shots)} of {totals[label]:,}", shots=shots)


def _near_strips(records: pl.DataFrame, groups: Sequence[tuple[str, ...]]) -> Iterator[_Strip]:
    named = records.filter(pl.col("image_id").is_in([image_id for ids in groups for image_id in ids]))
    columns = named.sort("path", descending=True).select("image_id", "path", "label", "split")
    rows = {row["image_id"]: row for row in columns.iter_rows(named=True)}
    for ids in groups:
        found = [rows[image_id] for image_id in ids if image_id in rows]
        parts = [part for part in PARTS if part in {row["split"] for row in found}]
        shots = [_shot(row, row["label"], str(row["split"])) for row in found[:_GROUP_PICTURES]]
        yield _Strip(title=f"{len(found)} images in {' and '.join(parts)}", note=f"{len(shots)} shown", shots=shots)


def _fault_strip(facts: ProfilePageFacts) -> list[_Strip]:
    faults = facts.findings.image_faults
    if faults is None or faults.is_empty():
        return []
    rows = faults.head(_WORST).select("path", "fault", "score").iter_rows(named=True)
    shots = [_shot(row, row["fault"], f"score {number(row['score'])}") for row in rows]
    return [_Strip(title="Worst first", note=f"{len(shots)} of {faults.height:,}", shots=shots)]


def _label_strip(facts: ProfilePageFacts) -> list[_Strip]:
    faults = facts.findings.label_faults
    if faults is None or faults.is_empty():
        return []
    rows = faults.head(_WORST).select("path", "label", "suggested", "score").iter_rows(named=True)
    shots = [_shot(row, f"is {row['label']}", f"looks like {row['suggested']}", number(row["score"])) for row in rows]
    return [_Strip(title="Most doubtful first", note=f"{len(shots)} of {faults.height:,}", shots=shots)]


def _shot(row: Mapping[str, Any], *lines: str) -> _Shot:
    said = ", ".join((row["label"], *lines) if "label" in row and row["label"] not in lines else lines)
    return _Shot(path=row["path"], alt=f"{said}: {row['path']}", lines=lines)


def _aspect_row(records: pl.DataFrame) -> tuple[str, float, float, float]:
    aspect = records["width"] / records["height"]
    low, middle, high = (float(value or 0) for value in (aspect.min(), aspect.median(), aspect.max()))  # type: ignore[arg-type]
    return "width / height", low, middle, high


def _aspects(records: pl.DataFrame) -> list[tuple[str, int, float]]:
    """Name, images and share of the images for every range of width to height that has images, narrow to wide."""
    aspects = records["width"].to_numpy() / records["height"].to_numpy()
    counts = np.bincount(np.searchsorted([upper for upper, _ in _ASPECTS], aspects), minlength=len(_ASPECTS) + 1)
    names = [*(name for _, name in _ASPECTS), _WIDEST]
    return [(name, int(n), int(n) / records.height) for name, n in zip(names, counts, strict=True) if n]


def _common_sizes(records: pl.DataFrame, most: int = 8) -> list[tuple[str, int, float]]:
    sizes = records.group_by("width", "height").len("images").sort("images", "width", "height", descending=True)
    rows = [(f"{w} x {h}", n, n / records.height) for w, h, n in sizes.head(most).rows()]
    if sizes.height > most:
        rest = int(sizes["images"][most:].sum())
        rows.append((f"{sizes.height - most:,} other sizes", rest, rest / records.height))
    return rows


def _rejected(rejected: pl.DataFrame, examples: int = 3) -> Iterator[tuple[str, int, list[tuple[str, str]]]]:
    """Reason, files and the first few of them with detail; the commonest reason first."""
    groups = rejected.sort("path", "detail").group_by("reason").agg("path", "detail", files=pl.len())
    for row in groups.sort("files", "reason", descending=[True, False]).iter_rows(named=True):
        yield row["reason"], row["files"], list(zip(row["path"], row["detail"], strict=True))[:examples]


def _across_parts(records: pl.DataFrame) -> int:
    """Images whose very bytes stand in more than one part."""
    parts = records.group_by("image_id").agg(pl.col("split").n_unique())
    return parts.filter(pl.col("split") > 1).height


def _fault_counts(faults: pl.DataFrame | None) -> list[tuple[str, int]]:
    if faults is None:
        return []
    return faults.group_by("fault").len("images").sort("images", "fault", descending=[True, False]).rows()
