"""What changed between two versions of a dataset: images that came, went, moved, or changed label or part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import polars as pl

Change = Literal["added", "removed", "moved", "label", "part"]
"""An image is its bytes. A file that was edited in place is one that went and one that came, at the same path."""

CHANGES: tuple[Change, ...] = get_args(Change)


def diff(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """One row a change: change, image_id, path, old, new; sorted by change, path and image_id.

    `path` is the new one where there is one. `old` and `new` are labels for an image that came or went or has another
    label, parts for one in another part, paths for one that moved; an image may have a row of each. Copies of the same
    bytes are told apart by their paths, and those that moved are paired in the order of their paths.
    """
    import polars as pl

    pairs, removed, added = _paired(_facts(old), _facts(new))
    found = [
        _rows("added", added, old=pl.lit(None, pl.String), new=pl.col("label")),
        _rows("removed", removed, old=pl.col("label"), new=pl.lit(None, pl.String)),
    ]
    for change, column in (("moved", "path"), ("label", "label"), ("part", "split")):
        before, after = pl.col(f"old_{column}"), pl.col(column)
        found.append(_rows(change, pairs.filter(before.ne_missing(after)), old=before, new=after))
    return pl.concat(found).sort("change", "path", "image_id").with_columns(pl.col("change").cast(pl.String))


def change_counts(changes: pl.DataFrame) -> dict[Change, int]:
    """How many rows of `diff` there are of each change, those without any included."""
    counts = dict(changes.group_by("change").len().iter_rows())
    return {change: counts.get(change, 0) for change in CHANGES}


def _facts(records: pl.DataFrame) -> pl.DataFrame:
    return records.select("image_id", "path", "label", "split").sort("path", "image_id")


def _paired(old: pl.DataFrame, new: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The images in both with the facts of each, those in old alone and those in new alone."""
    import polars as pl

    before = old.rename({name: f"old_{name}" for name in ("path", "label", "split")})
    stayed = new.join(before.with_columns(path="old_path"), on=("image_id", "path"))
    rest_new = _numbered(new.join(old, on=("image_id", "path"), how="anti"), "path")
    rest_old = _numbered(
        before.join(new, left_on=("image_id", "old_path"), right_on=("image_id", "path"), how="anti"), "old_path"
    )
    moved = rest_new.join(rest_old, on=("image_id", "copy"))
    removed = rest_old.join(rest_new, on=("image_id", "copy"), how="anti")
    added = rest_new.join(rest_old, on=("image_id", "copy"), how="anti")
    columns = ("image_id", "path", "label", "split", "old_path", "old_label", "old_split")
    return (
        pl.concat([stayed.select(columns), moved.select(columns)]),
        removed.select("image_id", path="old_path", label="old_label"),
        added.select("image_id", "path", "label"),
    )


def _numbered(rows: pl.DataFrame, path: str) -> pl.DataFrame:
    """`copy` counts the rows of the same bytes in the order of their paths."""
    import polars as pl

    return rows.sort(path).with_columns(copy=pl.int_range(pl.len()).over("image_id"))


def _rows(change: str, rows: pl.DataFrame, *, old: pl.Expr, new: pl.Expr) -> pl.DataFrame:
    import polars as pl

    kind = pl.lit(change).cast(pl.Enum(CHANGES))
    return rows.select(change=kind, image_id="image_id", path="path", old=old, new=new)
