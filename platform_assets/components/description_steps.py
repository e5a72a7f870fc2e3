"""The bodies of the assets that describe a dataset version: tiny subset, profile and data card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.quality_steps import image_issues, read_near_pairs
from platform_assets.components.records_steps import read_label_map
from platform_assets.components.specs import data_version
from platform_assets.resources import FilesResource
from platform_assets.stores.whole_files import write_whole

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.cards.profile_page import ProfilePageFacts
    from platform_assets.vision.datasets.profile import Profile
    from platform_assets.vision.quality.findings import Findings

Result = dg.MaterializeResult[Any]

TINY = "At most two batches a part, every label where that fits: copied bytes, manifest and checksum, for smoke runs."
PROFILE = (
    "This version in one HTML page: counts, sizes, channel mean and standard deviation, class balance, samples of each class, "
    "duplicates, worst quality."
)
DATA_CARD = "The data card in Markdown, every number from the assets above; what is not known is marked as not stated."


def tiny_check(spec: VisionDatasetSpec) -> dg.AssetChecksDefinition:
    """Reads the copied files whenever the check runs, not only when they are made."""

    @dg.asset_check(
        name="tiny_subset_is_unchanged",
        asset=[spec.name, "tiny_subset"],
        description="Every copied file still has the checksum of the manifest.",
        blocking=True,
    )
    def tiny_subset_is_unchanged(files: FilesResource) -> dg.AssetCheckResult:
        from platform_assets.vision.datasets.tiny import verify_tiny

        problems = verify_tiny(files.tiny_subset(spec.name))
        return dg.AssetCheckResult(
            passed=not problems,
            description="; ".join(problems[:3]) or None,
            metadata={"problems": len(problems), "threshold": 0},
        )

    return tiny_subset_is_unchanged


def tiny_subset(spec: VisionDatasetSpec, tables: Tables, files: FilesResource) -> Result:
    from platform_assets.vision.datasets.tiny import choose_tiny, copy_tiny

    root, folder = files.source_root(spec.source), files.tiny_subset(spec.name)
    chosen = choose_tiny(tables.read([spec.name, "records"]), batch_size=spec.tiny_batch_size)
    checksum = copy_tiny(chosen, root, folder)
    tables.write([spec.name, "tiny_subset"], chosen.records)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(checksum[:16]),
        metadata={
            "dagster/row_count": chosen.records.height,
            "folder": dg.MetadataValue.path(str(folder)),
            "label_coverage": chosen.label_coverage,
            "checksum": checksum,
            "contact_sheet": show.picture(_contact_sheet(chosen.records, root)),
        },
    )


def _contact_sheet(frame: pl.DataFrame, root: Path) -> bytes:
    from platform_assets.vision.images.image_files import reader_of
    from platform_assets.vision.views.galleries import contact_sheet

    return contact_sheet(frame, reader_of(root))


def profile(spec: VisionDatasetSpec, tables: Tables, files: FilesResource) -> Iterator[Result]:
    """The issues of the images, and the page that shows them beside all else that is known."""
    from platform_assets.vision.cards.profile_page import profile_page
    from platform_assets.vision.datasets.profile import profile as profile_of
    from platform_assets.vision.images.image_files import reader_of
    from platform_assets.vision.views import plots

    frame, root = tables.read([spec.name, "records"]), files.source_root(spec.source)
    yield image_issues(spec, frame, tables, root)
    numbers = profile_of(frame)
    page = profile_page(_page_facts(spec, frame, numbers, tables), reader_of(root))
    path = write_whole(files.card(spec.name, "profile", suffix=".html"), page)
    tables.write([spec.name, "profile"], numbers.counts)
    yield dg.MaterializeResult(
        asset_key=[spec.name, "profile"],
        data_version=data_version(page),
        metadata={
            "page": dg.MetadataValue.path(str(path)),
            "images": numbers.images,
            "classes": numbers.classes,
            "bytes": numbers.total_bytes,
            "imbalance": numbers.imbalance,
            "channel_mean": json.dumps([round(value, 4) for value in numbers.channel_mean]),
            "channel_std": json.dumps([round(value, 4) for value in numbers.channel_std]),
            "sizes": show.table(numbers.sizes),
            "formats": show.table(numbers.formats),
            "class_balance": show.picture(plots.class_balance(numbers.counts)),
            "contact_sheet": show.picture(_contact_sheet(frame, root)),
        },
    )


def _page_facts(spec: VisionDatasetSpec, frame: pl.DataFrame, numbers: Profile, tables: Tables) -> ProfilePageFacts:
    from platform_assets.vision.cards.profile_page import ProfilePageFacts

    said = spec.model_dump(mode="json", include={"source", "split", "leaks", "max_pixels"}, exclude_unset=True)
    return ProfilePageFacts(
        name=spec.name,
        description=spec.description,
        licence=spec.licence,
        citation=spec.citation,
        version=tables.current_version([spec.name, "records"]) or "",
        made_from=said,
        label_map=read_label_map(tables, spec.name),
        profile=numbers,
        records=frame,
        rejected=tables.read([spec.name, "rejected"]),
        findings=_findings(spec, tables),
    )


def _findings(spec: VisionDatasetSpec, tables: Tables) -> Findings:
    """What was looked for in this version; doubtful labels where an experiment has judged this very version."""
    from platform_assets.vision.quality.findings import Findings
    from platform_assets.vision.quality.near_duplicates import near_duplicate_groups

    near = read_near_pairs(tables, spec.name)
    return Findings(
        near_duplicates=None if near.unlooked else near_duplicate_groups(near.pairs),
        image_faults=tables.read([spec.name, "image_issues"]),
        label_faults=_doubtful_labels(spec, tables),
        overrides=tables.read([spec.name, "overrides"]) if spec.overrides else None,
    )


def _doubtful_labels(spec: VisionDatasetSpec, tables: Tables) -> pl.DataFrame | None:
    key, version = [spec.name, "doubtful_labels"], tables.current_version([spec.name, "records"])
    if not tables.exists(key):
        return None
    judged = tables.read(key)
    return judged.filter("is_fault") if set(judged["records_version"]) == {version} else None


def data_card(spec: VisionDatasetSpec, tables: Tables, files: FilesResource) -> Result:
    from platform_assets.vision.cards.data_card import DataCardFacts
    from platform_assets.vision.cards.data_card import data_card as write_card
    from platform_assets.vision.datasets.profile import profile as profile_of

    facts = DataCardFacts(
        name=spec.name,
        description=spec.description,
        licence=spec.licence,
        citation=spec.citation,
        responsible_ai=spec.responsible_ai,
        split=spec.split,
        label_map=read_label_map(tables, spec.name),
        profile=profile_of(tables.read([spec.name, "records"])),
        rejected=tables.read([spec.name, "rejected"]),
        findings=_findings(spec, tables),
        version=tables.current_version([spec.name, "records"]) or "",
    )
    text = write_card(facts)
    path = write_whole(files.card(spec.name, "data_card"), text)
    return dg.MaterializeResult(
        data_version=data_version(facts.version, text),
        metadata={"card": dg.MetadataValue.md(text), "path": dg.MetadataValue.path(str(path))},
    )
