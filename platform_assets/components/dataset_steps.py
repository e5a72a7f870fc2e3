"""The bodies of the dataset assets: read, call one pure function, write, report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.specs import code_version, data_version
from platform_assets.resources import FilesResource
from platform_assets.vision.sources import source_root

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.label_map import LabelMap

Result = dg.MaterializeResult[Any]

RECORDS = (
    "One row per readable image: id (SHA-256 of its bytes), path, label, part (train, val, test), size, mode, perceptual "
    "hash, channel statistics and the columns its source adds."
)
REJECTED = "One row per file that was not taken in: path, reason, detail."
LABEL_MAP = (
    "Label name to index, with checksum. Order: the dataset's own class list where it has one, else the names sorted by "
    "code point, whatever the order of files or folders."
)
TINY = "At most two batches a part, every label where that fits: copied bytes, manifest and checksum, for smoke runs."
PROFILE = "Counts, sizes, channel mean and standard deviation, class balance and a contact sheet of this version."
DATA_CARD = "The data card in Markdown, every number from the assets above; what is not known is marked as not stated."


def source_code(spec: VisionDatasetSpec) -> list[str]:
    """The modules that decide what a source is: that of its own format, and hashing."""
    return [type(spec.source).__module__.removeprefix("platform_assets."), "vision.scanning"]


def records_code(spec: VisionDatasetSpec) -> list[str]:
    return [*source_code(spec), "vision.splits"]


def source(context: dg.AssetExecutionContext, spec: VisionDatasetSpec, tables: Tables, project: str) -> Result:
    """Hash every file as it stands; files whose size and time are unchanged keep their hash."""
    from platform_assets.vision.scanning import hash_files, source_version
    from platform_assets.vision.sources import source_files

    key = [spec.name, "source"]
    root = source_root(spec.source, Path(project))
    known = tables.read(key) if tables.exists(key) else None
    hashes = hash_files(root, source_files(spec.source, root), known=known)
    tables.write(key, hashes)
    context.log.info(f"{spec.name}: {hashes.height:,} files at {root}")
    metadata: dict[str, Any] = {
        "folder": dg.MetadataValue.path(str(root)),
        "dagster/row_count": hashes.height,
        "bytes": int(hashes["bytes"].sum()),
        "licence": spec.licence or "not stated",
        "citation": spec.citation or "not stated",
    }
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(source_version(hashes)[:16]))


def record_checks(dataset: str) -> list[dg.AssetCheckSpec]:
    def check(name: str, asset: str, text: str, *, blocking: bool) -> dg.AssetCheckSpec:
        return dg.AssetCheckSpec(name, asset=[dataset, asset], description=text, blocking=blocking)

    return [
        check("records_have_no_split_leak", "records", "No bytes and no group stand in two parts.", blocking=True),
        check("records_cover_every_class", "records", "Every part has images of every class.", blocking=False),
        check("rejected_fraction_is_acceptable", "rejected", "Few files were rejected.", blocking=True),
    ]


def records(
    context: dg.AssetExecutionContext, spec: VisionDatasetSpec, tables: Tables, project: str
) -> Iterator[Result]:
    """Decode and check every file once, split what is readable, keep what is not with its reason.

    When files, YAML and code are those of the tables at hand, those are taken as they are.
    """
    made_from = _made_from(spec, tables)
    if not _is_made(spec, tables, made_from):
        _make_records(context, spec, tables, project)
        tables.write([spec.name, "records_made_from"], _one_row(version=made_from))
    frame, rejected = tables.read([spec.name, "records"]), tables.read([spec.name, "rejected"])
    label_map = read_label_map(tables, spec.name)
    context.log.info(f"{spec.name}: {frame.height:,} images taken in, {rejected.height:,} rejected")
    yield _records_result(spec, frame, label_map, tables.current_version([spec.name, "records"]) or "")
    yield _rejected_result(spec, frame, rejected)
    yield _label_map_result(spec, label_map)


def _made_from(spec: VisionDatasetSpec, tables: Tables) -> str:
    """The version of all that the records follow from: files, YAML and code."""
    from platform_assets.vision.scanning import source_version

    said = spec.model_dump_json(include={"source", "split", "leaks", "max_pixels"})
    return data_version(
        source_version(tables.read([spec.name, "source"])), said, code_version(*records_code(spec))
    ).value


def _is_made(spec: VisionDatasetSpec, tables: Tables, made_from: str) -> bool:
    names = ("records_made_from", "records", "rejected", "label_map")
    whole = all(tables.exists([spec.name, name]) for name in names)
    return whole and tables.read([spec.name, "records_made_from"])["version"].item() == made_from


def _one_row(**values: str) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame([values])


def _make_records(context: dg.AssetExecutionContext, spec: VisionDatasetSpec, tables: Tables, project: str) -> None:
    from platform_assets.vision.profile import records_version
    from platform_assets.vision.scanning import scan
    from platform_assets.vision.splits import assign_splits

    progress = show.every_two_seconds(context.log.info, f"{spec.name}: reading images")
    root = source_root(spec.source, Path(project))
    with show.stops_cleanly("Nothing was written."):
        found = scan(
            spec.source.read(root),
            root,
            max_pixels=spec.max_pixels,
            leaks=spec.leaks,
            on_progress=progress,
        )
    frame = assign_splits(found.records, spec.split)
    tables.write_version([spec.name, "records"], records_version(frame)[:16], frame)
    tables.write([spec.name, "rejected"], found.rejected)
    tables.write([spec.name, "label_map"], _label_map_frame(found.label_map))


def _records_result(spec: VisionDatasetSpec, frame: pl.DataFrame, label_map: LabelMap, version: str) -> Result:
    from platform_assets.vision.profile import class_counts
    from platform_assets.vision.splits import absent_classes, split_leaks

    leaks = split_leaks(frame, group_by=spec.split.group_by or "group")
    absent = {part: names for part, names in absent_classes(frame, label_map).items() if names}
    cure = "remove the copies, group them with split.group_by, or set leaks: drop"
    return dg.MaterializeResult(
        asset_key=[spec.name, "records"],
        data_version=dg.DataVersion(version),
        metadata={
            "dagster/row_count": frame.height,
            "counts": show.table(class_counts(frame)),
            "first_rows": show.table(frame.drop("pixel_mean", "pixel_std"), max_rows=20),
            "version": version,
        },
        check_results=[
            dg.AssetCheckResult(
                asset_key=[spec.name, "records"],
                check_name="records_have_no_split_leak",
                passed=leaks.is_empty(),
                description=None if leaks.is_empty() else f"{leaks.height} shared between parts: {cure}",
                metadata={"leaks": leaks.height, "threshold": 0, "shared": show.table(leaks, max_rows=20)},
            ),
            dg.AssetCheckResult(
                asset_key=[spec.name, "records"],
                check_name="records_cover_every_class",
                passed=not absent,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={
                    "absent": dg.MetadataValue.json({str(part): names for part, names in absent.items()}),
                    "threshold": 0,
                },
            ),
        ],
    )


def _rejected_result(spec: VisionDatasetSpec, frame: pl.DataFrame, rejected: pl.DataFrame) -> Result:
    import polars as pl

    fraction = rejected.height / (rejected.height + frame.height)
    reasons = (
        rejected.group_by("reason").agg(files=pl.len(), example=pl.col("path").min()).sort("files", descending=True)
    )
    worst = ", ".join(f"{row['files']} {row['reason']} (e.g. {row['example']})" for row in reasons.head(3).to_dicts())
    return dg.MaterializeResult(
        asset_key=[spec.name, "rejected"],
        data_version=dg.DataVersion(_frame_version(rejected)),
        metadata={"dagster/row_count": rejected.height, "reasons": show.table(reasons), "rows": show.table(rejected)},
        check_results=[
            dg.AssetCheckResult(
                asset_key=[spec.name, "rejected"],
                check_name="rejected_fraction_is_acceptable",
                passed=fraction <= spec.max_rejected_fraction,
                description=f"{fraction:.2%} of the files rejected, {spec.max_rejected_fraction:.2%} allowed. {worst}",
                metadata={"rejected_fraction": fraction, "threshold": spec.max_rejected_fraction},
            )
        ],
    )


def _label_map_result(spec: VisionDatasetSpec, label_map: LabelMap) -> Result:
    return dg.MaterializeResult(
        asset_key=[spec.name, "label_map"],
        data_version=dg.DataVersion(label_map.checksum[:16]),
        metadata={
            "checksum": label_map.checksum,
            "dagster/row_count": len(label_map.names),
            "labels": show.table(_label_map_frame(label_map), max_rows=1000),
        },
    )


def _label_map_frame(label_map: LabelMap) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame({"index": range(len(label_map.names)), "name": label_map.names})


def read_label_map(tables: Tables, dataset: str) -> LabelMap:
    from platform_assets.vision.label_map import LabelMap

    return LabelMap(names=tuple(tables.read([dataset, "label_map"])["name"]))


def _frame_version(frame: pl.DataFrame) -> str:
    import hashlib

    return hashlib.sha256(frame.write_ndjson().encode()).hexdigest()[:16]


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

    root, folder = source_root(spec.source, Path(files.root)), files.tiny_subset(spec.name)
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


def profile(spec: VisionDatasetSpec, tables: Tables, project: str) -> Result:
    from platform_assets.vision import plots
    from platform_assets.vision.profile import profile as profile_of

    frame = tables.read([spec.name, "records"])
    numbers = profile_of(frame)
    tables.write([spec.name, "profile"], numbers.counts)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(
            _frame_version(frame.select("image_id", "label", "split", "pixel_mean", "pixel_std"))
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
            "contact_sheet": show.picture(_contact_sheet(frame, source_root(spec.source, Path(project)))),
        },
    )


def data_card(spec: VisionDatasetSpec, tables: Tables, files: FilesResource) -> Result:
    from platform_assets.vision.cards import DataCardFacts
    from platform_assets.vision.cards import data_card as write_card
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
