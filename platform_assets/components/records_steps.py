"""The body of the records assets: every file read once, split or rejected, and the checks on what came out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.source_steps import source_code
from platform_assets.components.specs import code_version, data_version
from platform_assets.resources import FilesResource

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


def records_code(spec: VisionDatasetSpec) -> list[str]:
    return [*source_code(spec), "vision.splits"]


def record_checks(dataset: str) -> list[dg.AssetCheckSpec]:
    def check(name: str, asset: str, text: str, *, blocking: bool) -> dg.AssetCheckSpec:
        return dg.AssetCheckSpec(name, asset=[dataset, asset], description=text, blocking=blocking)

    return [
        check("records_have_no_split_leak", "records", "No bytes and no group stand in two parts.", blocking=True),
        check("records_cover_every_class", "records", "Every part has images of every class.", blocking=False),
        check("rejected_fraction_is_acceptable", "rejected", "Few files were rejected.", blocking=True),
    ]


def records(
    context: dg.AssetExecutionContext, spec: VisionDatasetSpec, tables: Tables, files: FilesResource
) -> Iterator[Result]:
    """Decode and check every file once, split what is readable, keep what is not with its reason.

    When files, YAML and code are those of the tables at hand, those are taken as they are.
    """
    made_from = _made_from(spec, tables)
    if not _is_made(spec, tables, made_from):
        _make_records(context, spec, tables, files)
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


def _make_records(
    context: dg.AssetExecutionContext, spec: VisionDatasetSpec, tables: Tables, files: FilesResource
) -> None:
    from platform_assets.vision.profile import records_version
    from platform_assets.vision.scanning import scan
    from platform_assets.vision.splits import assign_splits

    progress = show.every_two_seconds(context.log.info, f"{spec.name}: reading images")
    root = files.source_root(spec.source)
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
        data_version=dg.DataVersion(frame_version(rejected)),
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


def frame_version(frame: pl.DataFrame) -> str:
    import hashlib

    return hashlib.sha256(frame.write_ndjson().encode()).hexdigest()[:16]
