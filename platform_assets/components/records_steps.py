"""The body of the records assets: every file read once, split or rejected, and the checks on what came out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.decoding_steps import decoded_table, decoding_ahead
from platform_assets.components.quality_steps import (
    near_duplicate_check,
    near_duplicates_result,
    near_pairs,
    record_check_results,
    write_near_pairs,
)
from platform_assets.components.source_steps import overrides_hash, source_code
from platform_assets.components.specs import code_version, data_version
from platform_assets.resources import FilesResource

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.datasets.label_map import LabelMap
    from platform_assets.vision.datasets.scanning import Scan
    from platform_assets.vision.images.decoding_ahead import DecodingAhead

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
    return [*source_code(spec), "vision.datasets.splits", "vision.quality.near_duplicates", "vision.quality.reviews"]


def record_checks(dataset: str) -> list[dg.AssetCheckSpec]:
    def check(name: str, asset: str, text: str, *, blocking: bool) -> dg.AssetCheckSpec:
        return dg.AssetCheckSpec(name, asset=[dataset, asset], description=text, blocking=blocking)

    return [
        check("records_match_their_schema", "records", "Types, ranges and uniqueness, by pandera.", blocking=True),
        check("records_have_no_split_leak", "records", "No bytes and no group stand in two parts.", blocking=True),
        check("records_cover_every_class", "records", "Every part has images of every class.", blocking=False),
        check("classes_are_balanced", "records", "Every class has enough images, none far too many.", blocking=False),
        check("test_is_like_train", "records", "No test tells the images of train and test apart.", blocking=False),
        check("rejected_fraction_is_acceptable", "rejected", "Few files were rejected.", blocking=True),
    ]


def records(
    context: dg.AssetExecutionContext, spec: VisionDatasetSpec, tables: Tables, files: FilesResource
) -> Iterator[Result]:
    """Decode and check every file once, split what is readable, keep what is not with its reason.

    When files, YAML and code are those of the tables at hand, those are taken as they are, and a file whose content was
    seen before is not opened again.
    """
    made_from, ahead = _made_from(spec, tables, files), decoding_ahead(spec, files, context.log)
    files_opened = 0
    if not _is_made(spec, tables, made_from):
        tables.write([spec.name, "records_made_from"], show.one_row(version="in the making"))
        files_opened = _make_records(context, spec, tables, files, ahead)
        tables.write([spec.name, "records_made_from"], show.one_row(version=made_from))
    frame, rejected = tables.read([spec.name, "records"]), tables.read([spec.name, "rejected"])
    label_map = read_label_map(tables, spec.name)
    context.log.info(f"{spec.name}: {frame.height:,} images taken in, {rejected.height:,} rejected")
    results = [
        _records_result(spec, frame, label_map, tables, {"files_opened": files_opened, **_decoded(ahead, frame)}),
        _rejected_result(spec, frame, rejected),
        _label_map_result(spec, label_map),
        near_duplicates_result(spec, frame, tables, files),
    ]
    _remember_faults(spec, tables, [check for result in results for check in result.check_results])
    yield from results


def _made_from(spec: VisionDatasetSpec, tables: Tables, files: FilesResource) -> str:
    """The version of all that the records follow from: files, YAML, decisions and code."""
    from platform_assets.vision.datasets.scanning import source_version

    said = spec.model_dump_json(include={"source", "split", "leaks", "max_pixels", "near_duplicates"})
    hashes = source_version(tables.read([spec.name, "source"]))
    return data_version(hashes, said, overrides_hash(spec, files), code_version(*records_code(spec))).value


def _is_made(spec: VisionDatasetSpec, tables: Tables, made_from: str) -> bool:
    names = ("records_made_from", "records", "rejected", "label_map", "near_duplicates", "overrides")
    whole = all(tables.exists([spec.name, name]) for name in names)
    return whole and tables.read([spec.name, "records_made_from"])["version"].item() == made_from


def _make_records(
    context: dg.AssetExecutionContext,
    spec: VisionDatasetSpec,
    tables: Tables,
    files: FilesResource,
    ahead: DecodingAhead | None,
) -> int:
    """Write the tables of this version; how many images were opened for their facts."""
    from platform_assets.vision.datasets.profile import records_version

    root = files.source_root(spec.source)
    with show.stops_cleanly("Nothing was written."):
        found = _scan(context, spec, tables, root, ahead)
        rows, applied = reviewed(spec, found.records, found.label_map, Path(files.root))
        progress = show.every_two_seconds(context.log.info, f"{spec.name}: near duplicates")
        near = near_pairs(spec, rows, root, progress)
    frame = divided(spec, rows, near.pairs)
    version = records_version(frame)[:16]
    write_near_pairs(tables, spec.name, near)
    tables.write([spec.name, "overrides"], applied)
    tables.write([spec.name, "rejected"], found.rejected)
    tables.write([spec.name, "label_map"], _label_map_frame(found.label_map))
    tables.write_version([spec.name, "records"], version, frame)
    _remember_version(spec, tables, version)
    return found.files_read


def _scan(
    context: dg.AssetExecutionContext, spec: VisionDatasetSpec, tables: Tables, root: Path, ahead: DecodingAhead | None
) -> Scan:
    from platform_assets.vision.datasets.inspection import Known
    from platform_assets.vision.datasets.scanning import scan

    key = [spec.name, "facts"]
    known = Known(
        hashes=tables.read([spec.name, "source"]),
        facts=tables.read(key) if tables.exists(key) else None,
        code=code_version("vision.datasets.inspection"),
    )
    progress = show.every_two_seconds(context.log.info, f"{spec.name}: reading images")
    found = scan(
        spec.source.read(root),
        root,
        max_pixels=spec.max_pixels,
        leaks=spec.leaks,
        known=known,
        ahead=ahead,
        on_progress=progress,
    )
    tables.write(key, found.facts)
    context.log.info(f"{spec.name}: {found.files_read:,} files opened")
    return found


def divided(spec: VisionDatasetSpec, rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """The rows with their parts; `pairs` of near duplicates stay together where the YAML says so. Raises BadSplit."""
    from platform_assets.vision.datasets.splits import assign_splits
    from platform_assets.vision.quality.near_duplicates import near_duplicate_groups, with_near_group

    if spec.split.kind == "grouped":
        rows = with_near_group(rows, near_duplicate_groups(pairs))
    return assign_splits(rows, spec.split)


def reviewed(
    spec: VisionDatasetSpec, rows: pl.DataFrame, label_map: LabelMap, project: Path
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows after what reviewers decided, and what became of each decision. Raises BadReview."""
    from platform_assets.vision.quality.label_studio import read_label_studio
    from platform_assets.vision.quality.reviews import Override, apply_overrides, read_overrides

    decided: dict[str, Override] = {}
    for name in spec.overrides:
        read = read_label_studio if name.endswith(".json") else read_overrides
        decided |= {decision.image_id: decision for decision in read(project / name)}
    return apply_overrides(rows, [decided[image_id] for image_id in sorted(decided)], label_map)


def _remember_version(spec: VisionDatasetSpec, tables: Tables, version: str) -> None:
    """Append to the list of versions in their order, from which `changes` takes the one before."""
    import polars as pl

    key = [spec.name, "records_versions"]
    known = tables.read(key) if tables.exists(key) else show.one_row(version=version).clear()
    if known.is_empty() or known["version"][-1] != version:
        tables.write(key, pl.concat([known, show.one_row(version=version)]))


def _remember_faults(spec: VisionDatasetSpec, tables: Tables, checks: list[dg.AssetCheckResult]) -> None:
    """What blocks this version: dagster stops the run at hand, and runs started later look here (see inputs.py)."""
    import polars as pl

    blocking = {check.name for check in [*record_checks(spec.name), near_duplicate_check(spec)] if check.blocking}
    faults = [(check.check_name, check.description) for check in checks if not check.passed]
    rows = [(name, said) for name, said in faults if name in blocking]
    tables.write([spec.name, "faults"], pl.DataFrame(rows, {"check": pl.String, "said": pl.String}, orient="row"))


def _records_result(
    spec: VisionDatasetSpec, frame: pl.DataFrame, label_map: LabelMap, tables: Tables, reading: dict[str, Any]
) -> Result:
    from platform_assets.vision.datasets.profile import class_counts

    version, decisions = tables.current_version([spec.name, "records"]) or "", tables.read([spec.name, "overrides"])
    return dg.MaterializeResult(
        asset_key=[spec.name, "records"],
        data_version=dg.DataVersion(version),
        metadata={
            "dagster/row_count": frame.height,
            "counts": show.table(class_counts(frame)),
            "first_rows": show.table(frame.drop("pixel_mean", "pixel_std"), max_rows=20),
            "version": version,
            **reading,
            **({"decisions_of_reviewers": show.table(decisions)} if spec.overrides else {}),
        },
        check_results=record_check_results(spec, frame, label_map),
    )


def _decoded(ahead: DecodingAhead | None, frame: pl.DataFrame) -> dict[str, Any]:
    return {"decoded_ahead": show.table(decoded_table(ahead, frame))} if ahead else {}


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
    from platform_assets.vision.datasets.label_map import LabelMap

    return LabelMap(names=tuple(tables.read([dataset, "label_map"])["name"]))


def frame_version(frame: pl.DataFrame) -> str:
    import hashlib

    return hashlib.sha256(frame.write_ndjson().encode()).hexdigest()[:16]
