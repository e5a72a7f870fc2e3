"""The bodies of the assets that describe a dataset version: tiny subset, profile and data card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.records_steps import frame_version, read_label_map
from platform_assets.resources import FilesResource

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.stores.tables import Tables

Result = dg.MaterializeResult[Any]

TINY = "At most two batches a part, every label where that fits: copied bytes, manifest and checksum, for smoke runs."
PROFILE = "Counts, sizes, channel mean and standard deviation, class balance and a contact sheet of this version."
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
        from platform_assets.vision.tiny import verify_tiny

        problems = verify_tiny(files.tiny_subset(spec.name))
        return dg.AssetCheckResult(
            passed=not problems,
            description="; ".join(problems[:3]) or None,
            metadata={"problems": len(problems), "threshold": 0},
        )

    return tiny_subset_is_unchanged


def tiny_subset(spec: VisionDatasetSpec, tables: Tables, files: FilesResource) -> Result:
    from platform_assets.vision.tiny import choose_tiny, copy_tiny

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
    from platform_assets.vision.galleries import contact_sheet

    return contact_sheet(frame, lambda path: (root / path).read_bytes())


def profile(spec: VisionDatasetSpec, tables: Tables, files: FilesResource) -> Result:
    from platform_assets.vision import plots
    from platform_assets.vision.profile import profile as profile_of

    frame = tables.read([spec.name, "records"])
    numbers = profile_of(frame)
    tables.write([spec.name, "profile"], numbers.counts)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(
            frame_version(frame.select("image_id", "label", "split", "pixel_mean", "pixel_std"))
        ),
        metadata={
            "images": numbers.images,
            "classes": numbers.classes,
            "bytes": numbers.total_bytes,
            "imbalance": numbers.imbalance,
            "channel_mean": json.dumps([round(value, 4) for value in numbers.channel_mean]),
            "channel_std": json.dumps([round(value, 4) for value in numbers.channel_std]),
            "sizes": show.table(numbers.sizes),
            "formats": show.table(numbers.formats),
            "class_balance": show.picture(plots.class_balance(numbers.counts)),
            "contact_sheet": show.picture(_contact_sheet(frame, files.source_root(spec.source))),
        },
    )


def data_card(spec: VisionDatasetSpec, tables: Tables, files: FilesResource) -> Result:
    from platform_assets.vision.data_card import DataCardFacts
    from platform_assets.vision.data_card import data_card as write_card
    from platform_assets.vision.profile import profile as profile_of

    frame = tables.read([spec.name, "records"])
    facts = DataCardFacts(
        name=spec.name,
        description=spec.description,
        licence=spec.licence,
        citation=spec.citation,
        split=spec.split,
        label_map=read_label_map(tables, spec.name),
        profile=profile_of(frame),
        rejected=tables.read([spec.name, "rejected"]),
        version=tables.current_version([spec.name, "records"]) or "",
    )
    text = write_card(facts)
    path = files.card(spec.name, "data_card")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(facts.version),
        metadata={"card": dg.MetadataValue.md(text), "path": dg.MetadataValue.path(str(path))},
    )
