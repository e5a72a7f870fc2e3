"""What the quality of a dataset version is measured by: near duplicates, image issues, and the checks on records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.specs import code_version, data_version
from platform_assets.resources import FilesResource

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.datasets.label_map import LabelMap

Result = dg.MaterializeResult[Any]
_UNLOOKED = "near_duplicates_unlooked"
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR

NEAR_DUPLICATES = (
    "One row a pair of images that look the same: resized, re-encoded, brightened or slightly cropped copies, by perceptual "
    "hash and then by their pixels."
)
IMAGE_ISSUES = (
    "One row an image and fault, the worst first: dark, bright, blurred, without information, odd in size or aspect."
)
CHANGES = "One row an image that came, went, moved, or has another label or part than in the version before."


@dataclass(frozen=True)
class NearPairs:
    """Pairs of near duplicates, none where nobody looked: then `unlooked` says why."""

    pairs: pl.DataFrame
    unlooked: str | None = None


def near_pairs(
    spec: VisionDatasetSpec, rows: pl.DataFrame, root: Path, on_progress: Callable[[int, int], None]
) -> NearPairs:
    """The pairs of near duplicates, unless the YAML says not to look, or there are too many to list.

    Raises TooManyPairs where they block, or the split needs them.
    """
    from platform_assets.vision.images.image_files import reader_of
    from platform_assets.vision.quality.hash_pairs import TooManyPairs
    from platform_assets.vision.quality.near_duplicates import near_duplicates

    read = reader_of(root)
    none = near_duplicates(rows.clear(), read)
    if spec.near_duplicates == "ignore":
        return NearPairs(none, "near_duplicates is ignore")
    try:
        return NearPairs(near_duplicates(rows, read, on_progress=on_progress))
    except TooManyPairs as error:
        if spec.near_duplicates == "fail" or spec.split.kind == "grouped":
            raise
        return NearPairs(none, str(error))


def write_near_pairs(tables: Tables, dataset: str, found: NearPairs) -> None:
    tables.write([dataset, "near_duplicates"], found.pairs)
    tables.write([dataset, _UNLOOKED], show.one_row(said=found.unlooked or ""))


def read_near_pairs(tables: Tables, dataset: str) -> NearPairs:
    key = [dataset, _UNLOOKED]
    unlooked = tables.read(key)["said"].item() if tables.exists(key) else ""
    return NearPairs(tables.read([dataset, "near_duplicates"]), unlooked or None)


def near_duplicate_check(spec: VisionDatasetSpec) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        "near_duplicates_stay_in_one_part",
        asset=[spec.name, "near_duplicates"],
        description="No two images that look the same stand in two parts.",
        blocking=spec.near_duplicates == "fail",
    )


def near_duplicates_result(
    spec: VisionDatasetSpec, frame: pl.DataFrame, tables: Tables, files: FilesResource
) -> Result:
    from platform_assets.vision.datasets.splits import pairs_in_two_parts
    from platform_assets.vision.images.image_files import reader_of
    from platform_assets.vision.quality.near_duplicates import near_duplicate_groups
    from platform_assets.vision.views.galleries import pairs_sheet

    found, root = read_near_pairs(tables, spec.name), files.source_root(spec.source)
    pairs, unlooked = found.pairs, found.unlooked
    leaks = pairs_in_two_parts(frame, pairs)
    cure = "split: {kind: grouped} keeps them on one side; near_duplicates: ignore says that they are meant"
    said = f"{leaks.height} pairs stand in two parts: {cure}" if leaks.height else None
    sheet = pairs_sheet(pairs, frame, reader_of(root))
    return dg.MaterializeResult(
        asset_key=[spec.name, "near_duplicates"],
        data_version=data_version(pairs.write_ndjson(), *([unlooked] if unlooked else [])),
        metadata={
            "dagster/row_count": pairs.height,
            "groups": near_duplicate_groups(pairs)["near_group"].n_unique(),
            "most_alike": show.picture(sheet),
            "pairs": show.table(pairs, max_rows=50),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="near_duplicates_stay_in_one_part",
                asset_key=[spec.name, "near_duplicates"],
                passed=leaks.is_empty() and (unlooked is None or spec.near_duplicates == "ignore"),
                severity=ERROR if spec.near_duplicates == "fail" else WARN,
                description=f"not looked for, because {unlooked}" if unlooked else said,
                metadata={
                    "pairs_in_two_parts": leaks.height,
                    "threshold": 0,
                    "shared": show.table(leaks.select("paths", "parts"), max_rows=20),
                },
            )
        ],
    )


def record_check_results(
    spec: VisionDatasetSpec, frame: pl.DataFrame, label_map: LabelMap
) -> list[dg.AssetCheckResult]:
    """The checks on records, each with the measured value and its threshold."""
    import polars as pl

    from platform_assets.vision.datasets.splits import absent_classes, split_leaks
    from platform_assets.vision.quality.class_balance import class_balance_problems
    from platform_assets.vision.quality.record_schema import schema_problems

    def result(name: str, problems: pl.DataFrame, why: str, severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            asset_key=[spec.name, "records"],
            check_name=name,
            passed=problems.is_empty(),
            severity=severity,
            description=None if problems.is_empty() else why,
            metadata={"problems": problems.height, "threshold": 0, "found": show.table(problems, max_rows=20)},
        )

    leaks = split_leaks(frame, group_by=spec.split.group_by or "group")
    cure = "remove the copies, group them with split.group_by, or set leaks: drop"
    absent = pl.DataFrame(
        [(part, name) for part, names in absent_classes(frame, label_map).items() for name in names],
        schema={"part": pl.String, "class": pl.String},
        orient="row",
    )
    limits = f"under {spec.min_images_per_class} images, or 1 in {spec.max_imbalance:g} of the largest class"
    unbalanced = class_balance_problems(frame, spec.min_images_per_class, spec.max_imbalance, label_map=label_map)
    schema = schema_problems(frame)
    return [
        result(
            "records_match_their_schema", schema, "records are not as they should be: a bug, or an edited table", ERROR
        ),
        result("records_have_no_split_leak", leaks, f"{leaks.height} shared between parts: {cure}", ERROR),
        result("records_cover_every_class", absent, f"{absent.height} times a part lacks a class", WARN),
        result("classes_are_balanced", unbalanced, f"{unbalanced.height} classes: {limits}", WARN),
        _likeness(spec, frame),
    ]


def _likeness(spec: VisionDatasetSpec, frame: pl.DataFrame) -> dg.AssetCheckResult:
    import polars as pl

    train, test = (frame.filter(pl.col("split") == part) for part in ("train", "test"))
    return _shift_result(spec, "records", "test_is_like_train", (train, test))


def _shift_result(
    spec: VisionDatasetSpec, asset: str, check: str, sides: tuple[pl.DataFrame, pl.DataFrame]
) -> dg.AssetCheckResult:
    """Labels by chi-square, sizes and brightness by Kolmogorov-Smirnov, Holm-corrected: false alarms at most alpha.

    Sets that cannot be compared fail, as nothing is known of them.
    """
    from platform_assets.vision.quality.shift import CannotCompare, shift

    metadata: dict[str, Any] = {"alpha": spec.shift_alpha}
    shifted, uncompared = [], None
    try:
        tests = shift(*sides, alpha=spec.shift_alpha)
    except CannotCompare as error:
        uncompared = f"not compared: {error}"
    else:
        shifted = list(tests.filter("shifted")["subject"])
        metadata |= {"smallest_p": tests.row(0, named=True)["p_adjusted"], "tests": show.table(tests)}
    return dg.AssetCheckResult(
        asset_key=[spec.name, asset],
        check_name=check,
        passed=not shifted and uncompared is None,
        severity=WARN,
        description=f"the two sets differ in {', '.join(shifted)}" if shifted else uncompared,
        metadata=metadata,
    )


def image_issues(spec: VisionDatasetSpec, frame: pl.DataFrame, tables: Tables, root: Path) -> Result:
    import polars as pl

    from platform_assets.vision.images.image_files import reader_of
    from platform_assets.vision.quality.image_faults import THRESHOLDS, image_faults, scores_by_pixels
    from platform_assets.vision.views.galleries import captioned_sheet

    read, key, code = reader_of(root), [spec.name, "pixel_scores"], code_version("vision.quality.image_faults")
    known = tables.read(key).filter(code=code).drop("code") if tables.exists(key) else None
    scores = scores_by_pixels(frame, read, known)
    tables.write(key, scores.with_columns(code=pl.lit(code)))
    found = image_faults(frame, scores)
    tables.write([spec.name, "image_issues"], found)
    worst = found.head(32)
    captions = [(fault, f"score {score:.3f}") for fault, score in worst.select("fault", "score").rows()]
    counts = found.group_by("fault").agg(images=pl.len()).sort("images", "fault", descending=[True, False])
    return dg.MaterializeResult(
        asset_key=[spec.name, "image_issues"],
        data_version=data_version(found.write_ndjson()),
        metadata={
            "dagster/row_count": found.height,
            "faults": show.table(counts),
            "thresholds": dg.MetadataValue.json(THRESHOLDS),
            "worst": show.picture(captioned_sheet(list(worst["path"]), captions, read)),
            "issues": show.table(found, max_rows=50),
        },
    )


def changes_check(spec: VisionDatasetSpec) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        "new_images_are_like_the_old",
        asset=[spec.name, "changes"],
        description="No test tells the images that came from those of the version before.",
    )


def changes(spec: VisionDatasetSpec, tables: Tables) -> Result:
    """The current version of the records beside the one before, and whether what came looks the same."""
    import polars as pl

    from platform_assets.vision.datasets.dataset_diff import change_counts, diff

    versions = list(tables.read([spec.name, "records_versions"])["version"])
    now = tables.read([spec.name, "records"])
    before = now if len(versions) < 2 else tables.read([spec.name, "records"], version=versions[-2])
    found = diff(before, now)
    tables.write([spec.name, "changes"], found)
    came = now.filter(~pl.col("image_id").is_in(before["image_id"].implode()))
    counts: dict[str, Any] = {str(change): count for change, count in change_counts(found).items()}
    return dg.MaterializeResult(
        data_version=data_version(*versions[-2:]),
        metadata={
            "dagster/row_count": found.height,
            "versions": f"{versions[-2]} to {versions[-1]}" if len(versions) > 1 else f"{versions[-1]}, the first",
            "counts": dg.MetadataValue.json(counts),
            "changes": show.table(found.with_columns(pl.col("change").cast(pl.String)), max_rows=100),
        },
        check_results=[_novelty(spec, before, came, first=len(versions) < 2)],
    )


def _novelty(spec: VisionDatasetSpec, before: pl.DataFrame, came: pl.DataFrame, *, first: bool) -> dg.AssetCheckResult:
    """A version without new images has none that could be unlike the old: that passes, and says so."""
    check = "new_images_are_like_the_old"
    if not came.is_empty():
        return _shift_result(spec, "changes", check, (before, came))
    return dg.AssetCheckResult(
        asset_key=[spec.name, "changes"],
        check_name=check,
        passed=True,
        severity=WARN,
        description=f"nothing to compare: {'the first version' if first else 'no image came'}",
        metadata={"alpha": spec.shift_alpha},
    )
