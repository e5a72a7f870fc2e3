"""Which image belongs to train, val or test: official parts stand, others are drawn stratified, seeded, by group."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from platform_assets.vision.datasets.allotment import allot_groups, allot_images

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.vision.datasets.label_map import LabelMap

Part = Literal["train", "val", "test"]
"""train = fit, val = select and calibrate, test = report only."""

PARTS: tuple[Part, ...] = get_args(Part)

NEAR_GROUP = "near_group"
"""The column of records that names an image's near-duplicate group, null for none."""


class BadSplit(ValueError):
    """Records that the split rule does not fit."""


class EmptySplit(BadSplit):
    """A part without images, or a class that train does not have."""


class SplitRule(BaseModel):
    """How images are divided.

    official: the parts of the dataset stand; a missing val is drawn from train, val / (train + val) of it.
    stratified: all images are drawn anew by the three fractions, official parts or not.
    grouped: as stratified, and images of one near-duplicate group (column `near_group`) stay together too.
    Drawing keeps the fractions within every combination of `stratify_by`, and images with the same bytes or the same
    value of `group_by` together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["official", "stratified", "grouped"]
    train: float = Field(0.7, gt=0, lt=1)
    val: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)
    stratify_by: tuple[str, ...] = Field(("label",), min_length=1)
    group_by: str | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _whole(self) -> SplitRule:
        total = self.train + self.val + self.test
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"train + val + test is {total:g}; the fractions must add up to 1")
        return self

    @property
    def kept_together_by(self) -> tuple[str, ...]:
        """The columns whose equal values stay on one side."""
        named = (self.group_by,) if self.group_by else ()
        return (*named, NEAR_GROUP) if self.kind == "grouped" else named


def assign_splits(records: pl.DataFrame, rule: SplitRule, *, seed: int | None = None) -> pl.DataFrame:
    """The records, in their order, with `split` decided for every row. Depends on the rows, never on their order.

    Raises BadSplit for columns or parts that the rule needs and the records lack, EmptySplit for a part without images
    or a class that has none in train.
    """
    _require_columns(records, rule)
    seed = rule.seed if seed is None else seed
    if rule.kind != "official":
        divided = _drawn(records, rule, {part: getattr(rule, part) for part in PARTS}, seed)
    else:
        divided = _official(records, rule, seed)
    _require_trainable(divided)
    return divided


def split_leaks(records: pl.DataFrame, *, group_by: str = "group", near: pl.DataFrame | None = None) -> pl.DataFrame:
    """One row per image bytes, group or pair that stands in more than one part: kind, key, parts, paths.

    Kinds are bytes, group and, when the pairs of near duplicates are given (image_id, other_id), near_duplicate; its key is
    both ids. The first two spoil a comparison; look-alikes may be meant, as in official sets.
    """
    import polars as pl

    placed = records.filter(pl.col("split").is_not_null())
    keyed = [("bytes", placed, "image_id"), ("group", placed, group_by)]
    leaks = [_crossing(rows, column).select(pl.lit(kind).alias("kind"), pl.all()) for kind, rows, column in keyed]
    if near is not None:
        parted = pairs_in_two_parts(records, near)
        leaks.append(parted.select(pl.lit("near_duplicate").alias("kind"), "key", "parts", "paths"))
    return pl.concat(leaks)


def pairs_in_two_parts(records: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs (image_id, other_id) that stand in more than one part, with key (both ids), parts and paths, by key."""
    import polars as pl

    keyed = pairs.with_columns(key=pl.concat_str("image_id", "other_id", separator=" "))
    sides = pl.concat([keyed.select("key", image_id=side) for side in ("image_id", "other_id")])
    placed = records.filter(pl.col("split").is_not_null())
    crossing = _crossing(placed.join(sides, on="image_id"), "key")
    return keyed.join(crossing, on="key").sort("key")


def _crossing(rows: pl.DataFrame, column: str) -> pl.DataFrame:
    """key, parts, paths of each value of the column that stands in more than one part, by key."""
    import polars as pl

    # What stands once is in one part: of a hundred thousand images grouping all takes most of the check.
    shared = rows.filter(pl.col(column).is_not_null() & pl.col(column).is_duplicated())
    keyed = shared.group_by(pl.col(column).cast(pl.String).alias("key"))
    by_key = keyed.agg(pl.col("split").unique().sort().alias("parts"), pl.col("path").sort().alias("paths"))
    return by_key.filter(pl.col("parts").list.len() > 1).sort("key")


def absent_classes(records: pl.DataFrame, label_map: LabelMap) -> dict[Part, list[str]]:
    """The classes of the label map that a part has no image of, in label-map order. A fact to report, not an error."""
    present = {part: set(records.filter(records["split"] == part)["label"]) for part in PARTS}
    return {part: [name for name in label_map.names if name not in present[part]] for part in PARTS}


def _require_columns(records: pl.DataFrame, rule: SplitRule) -> None:
    wanted = [*rule.stratify_by, *rule.kept_together_by]
    if missing := [name for name in wanted if name not in records.columns]:
        if missing == [NEAR_GROUP]:
            raise BadSplit("kind: grouped needs the column near_group; find near duplicates before the split")
        raise BadSplit(f"split rule uses columns {missing}, the records have {records.columns}; correct the rule")


def _official(records: pl.DataFrame, rule: SplitRule, seed: int) -> pl.DataFrame:
    """Official parts as they are. Val is carved from train when the dataset has none; the other two must be there."""
    import polars as pl

    without = records.filter(pl.col("split").is_null())
    if not without.is_empty():
        raise BadSplit(
            f"{len(without)} of {len(records)} images have no official part, the first is {without['path'][0]}; "
            "name the part in the source, or use kind: stratified"
        )
    present = set(records["split"])
    if "val" in present or "train" not in present:
        return records
    numbered = records.with_row_index("__row")
    train = numbered.filter(pl.col("split") == "train")
    whole = rule.train + rule.val
    carved = _drawn(train, rule, {"train": rule.train / whole, "val": rule.val / whole}, seed)
    return pl.concat([carved, numbered.filter(pl.col("split") != "train")]).sort("__row").drop("__row")


def _require_trainable(records: pl.DataFrame) -> None:
    counts = Counter(records["split"])
    if empty := [part for part in PARTS if not counts[part]]:
        have = {part: counts[part] for part in PARTS}
        raise EmptySplit(
            f"no images in {' and '.join(empty)} ({have}); an official set must bring train and test, "
            "a drawn one needs more images (or groups) or larger fractions: see kind: stratified"
        )
    absent = sorted(set(records["label"]) - set(records.filter(records["split"] == "train")["label"]))
    if absent:
        raise EmptySplit(f"classes {absent} have no image in train; add images, drop the classes, or change the split")


def _drawn(records: pl.DataFrame, rule: SplitRule, fractions: dict[Part, float], seed: int) -> pl.DataFrame:
    import polars as pl

    units = units_of(records, rule.kept_together_by)
    strata = list(records.select(rule.stratify_by).rows())
    labels = list(records["label"])
    order = seeded_order(set(units), seed)
    if len(order) == len(records):
        parts = allot_images(
            dict(zip(units, strata, strict=True)), dict(zip(units, labels, strict=True)), order, fractions
        )
    else:
        parts = allot_groups(units, strata, labels, order, fractions)
    return records.with_columns(pl.Series("split", [parts[unit] for unit in units], dtype=pl.String))


def units_of(records: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """For each row the name of what must stay together: its image, or all images tied by groups and equal bytes.

    The name is the smallest image_id of the unit, so it depends on neither row order nor group names.
    """
    image_ids = list(records["image_id"])
    if not columns:
        return image_ids
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while (above := parent.setdefault(node, node)) != node:
            parent[node] = parent[above]
            node = above
        return node

    for column in columns:
        for image_id, group in zip(image_ids, records[column], strict=True):
            if group is not None:
                parent[root(f"{column} {group}")] = root(image_id)
    names: dict[str, str] = {}
    for image_id in image_ids:
        names[root(image_id)] = min(image_id, names.get(root(image_id), image_id))
    return [names[root(image_id)] for image_id in image_ids]


def seeded_order(units: Iterable[str], seed: int) -> list[str]:
    return sorted(units, key=lambda unit: hashlib.sha256(f"{seed}:{unit}".encode()).digest())
