"""Accuracy by the columns of the records: on which kinds of images a trial is worst, and whether chance explains it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from platform_assets.vision.datasets.splits import Part
from platform_assets.vision.evaluation.predictions import predictions_of_part, unit_indices
from platform_assets.vision.evaluation.scores import EvaluationError
from platform_assets.vision.evaluation.significance import holm

MIN_IMAGES = 20
MOST_VALUES = 50
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_DEFAULT_MOST_VALUES = 20
_MISSING = "(none)"
_NOT_OF_THE_IMAGE = ("image_id", "path", "split", "phash", "near_group")
_AREA = pl.col("width").cast(pl.Float64) * pl.col("height")
_MEASURED: dict[str, tuple[tuple[str, ...], pl.Expr]] = {
    "pixels": (("width", "height"), _AREA),
    "aspect_ratio": (("width", "height"), pl.col("width") / pl.col("height")),
    "brightness": (("pixel_mean",), pl.col("pixel_mean").arr.mean()),
    "contrast": (("pixel_std",), pl.col("pixel_std").arr.mean()),
    "box_share": (("box", "width", "height"), pl.col("box").arr.get(2) * pl.col("box").arr.get(3) / _AREA),
}
SCHEMA = pl.Schema(
    {
        **{"rank": pl.Int64(), "column": pl.String(), "value": pl.String()},
        **dict.fromkeys(("from_value", "to_value"), pl.Float64()),
        **dict.fromkeys(("images", "units"), pl.Int64()),
        **dict.fromkeys(("accuracy", "low", "high", "accuracy_elsewhere", "p_value", "p_holm"), pl.Float64()),
    }
)


class BadSlices(ValueError):
    """A column to slice by that the records do not have, or that no slices can be made of."""


class _Pieces(NamedTuple):
    """The slice of each image, by number; their names and, of a number cut in quantiles, their edges."""

    number_n: NDArray[np.int64]
    names: list[str]
    edges: list[tuple[float | None, float | None]]


def slice_columns(records: pl.DataFrame, named: Sequence[str] | None) -> tuple[str, ...]:
    """The columns to slice by: those named, else every measure of the images and every text with 2 to 20 values.

    Beside the records' own columns there are pixels, aspect_ratio, brightness, contrast and, where boxes are annotated,
    box_share (of the area). Raises BadSlices.
    """
    known = _known(records)
    if named is None:
        return tuple(name for name in known if _is_worth_it(records, name))
    for name in named:
        if name not in known:
            raise BadSlices(f"slices: {name!r} is no column to slice by; there are {', '.join(known)}")
        column = _column(records, name)
        if not column.dtype.is_numeric() and (values := column.n_unique()) > MOST_VALUES:
            raise BadSlices(f"slices: {name!r} has {values} values, {MOST_VALUES} are allowed; name a coarser column")
    return tuple(named)


def _known(records: pl.DataFrame) -> list[str]:
    own = [
        name
        for name, kind in records.schema.items()
        if name not in _NOT_OF_THE_IMAGE and (kind.is_numeric() or kind in (pl.String, pl.Boolean))
    ]
    measured = [name for name, (needs, _) in _MEASURED.items() if name not in own and _has(records, needs)]
    return [*own, *measured]


def _has(records: pl.DataFrame, columns: Sequence[str]) -> bool:
    return all(name in records.columns and records[name].null_count() < records.height for name in columns)


def _is_worth_it(records: pl.DataFrame, name: str) -> bool:
    values = _column(records, name).n_unique()
    if name not in records.columns:
        return values > 1
    is_text = records.schema[name] in (pl.String, pl.Boolean)
    return is_text and name != "label" and 2 <= values <= _DEFAULT_MOST_VALUES


def _column(records: pl.DataFrame, name: str) -> pl.Series:
    """A measure, or a column as it is; texts that are all numbers, and too many to be categories, are read as such."""
    if name not in records.columns:
        return records.select(_MEASURED[name][1].alias(name))[name]
    column = records[name]
    if column.dtype == pl.String and column.n_unique() > MOST_VALUES:
        numbers = column.cast(pl.Float64, strict=False)
        return numbers if numbers.null_count() == column.null_count() else column
    return column


def slices(
    predictions: pl.DataFrame, records: pl.DataFrame, columns: Sequence[str], *, part: Part = "test"
) -> pl.DataFrame:
    """One row a slice, the lowest accuracy of those with MIN_IMAGES or more first; the others have no rank and no test.

    Numbers with more than four values are cut at the quartiles of the evaluated images, `from_value` up to but without
    `to_value`, the last with it. `low` and `high` are Wilson's 95 % interval for one slice by itself. `p_value` is
    Fisher's exact test, one-sided, that the slice is worse than all other images, and `p_holm` the same after all the slices
    that were looked at. Where images are not independent (groups), the interval and the test count as many images as
    there would be after the design effect of the group (Rao and Scott 1992).

    Raises EvaluationError for an image that the records do not have.
    """
    chosen = predictions_of_part(predictions, part)
    at_n = _rows_of(chosen, records)
    right_n, unit_n = chosen["correct"].to_numpy(), unit_indices(chosen)
    rows = [row for name in columns for row in _of_column(name, _column(records, name).gather(at_n), right_n, unit_n)]
    looked_at = [row for row in rows if row["p_value"] is not None]
    for row, p_holm in zip(looked_at, holm([row["p_value"] for row in looked_at]), strict=True):
        row["p_holm"] = p_holm
    looked_at.sort(key=lambda row: (row["accuracy"], -row["images"]))
    for rank, row in enumerate(looked_at, 1):
        row["rank"] = rank
    return pl.DataFrame(rows, SCHEMA).sort("rank", nulls_last=True, maintain_order=True)


def _rows_of(chosen: pl.DataFrame, records: pl.DataFrame) -> pl.Series:
    places = records.select("image_id", "path").with_row_index("row")
    found = chosen.select("image_id", "path").join(places, on=["image_id", "path"], how="left", maintain_order="left")
    if (strangers := found.filter(pl.col("row").is_null())).height:
        raise EvaluationError(
            f"{strangers.height} predicted images are not in the records, the first is {strangers['path'][0]}; "
            "materialize the predictions again"
        )
    return found["row"]


def _of_column(
    name: str, column: pl.Series, right_n: NDArray[np.bool_], unit_n: NDArray[Any]
) -> Iterator[dict[str, Any]]:
    pieces = _pieces(column)
    for number, (value, (low, high)) in enumerate(zip(pieces.names, pieces.edges, strict=True)):
        inside_n = pieces.number_n == number
        if inside_n.any():
            figures = _figures(right_n, unit_n, inside_n)
            yield {"column": name, "value": value, "from_value": low, "to_value": high, **figures}


def _pieces(column: pl.Series) -> _Pieces:
    if not column.dtype.is_numeric():
        texts = column.cast(pl.String).fill_null(_MISSING)
        names = sorted(texts.unique().to_list())
        numbers = texts.replace_strict(names, list(range(len(names))), return_dtype=pl.Int64)
        return _Pieces(numbers.to_numpy(), names, [(None, None)] * len(names))
    values_n = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    is_missing_n = ~np.isfinite(values_n)
    number_n, names, edges = _cut(values_n, np.unique(values_n[~is_missing_n]))
    return _Pieces(np.where(is_missing_n, len(names), number_n), [*names, _MISSING], [*edges, (None, None)])


def _cut(values_n: NDArray[np.float64], distinct: NDArray[np.float64]) -> _Pieces:
    if len(distinct) < len(_QUANTILES):
        names = [f"{value:.4g}" for value in distinct]
        return _Pieces(np.searchsorted(distinct, values_n), names, [(float(value), float(value)) for value in distinct])
    cuts = np.unique(np.quantile(values_n[np.isfinite(values_n)], _QUANTILES))
    number_n = np.clip(np.searchsorted(cuts, values_n, side="right") - 1, 0, len(cuts) - 2)
    edges = [(float(low), float(high)) for low, high in pairwise(cuts)]
    return _Pieces(number_n, [f"{low:.4g} to {high:.4g}" for low, high in edges], [*edges])


def _figures(right_n: NDArray[np.bool_], unit_n: NDArray[Any], inside_n: NDArray[np.bool_]) -> dict[str, Any]:
    own, others = _proportion(right_n[inside_n], unit_n[inside_n]), _proportion(right_n[~inside_n], unit_n[~inside_n])
    low, high = _wilson(own)
    is_tested = own.images >= MIN_IMAGES and others.images > 0
    return {
        "images": own.images,
        "units": len(np.unique(unit_n[inside_n])),
        "accuracy": own.share,
        "low": low,
        "high": high,
        "accuracy_elsewhere": others.share if others.images else None,
        "p_value": _p_worse(own, others) if is_tested else None,
    }


class _Proportion(NamedTuple):
    """A share of images, and how many independent images it is worth."""

    images: int
    share: float
    effective: float


def _proportion(right_n: NDArray[np.bool_], unit_n: NDArray[Any]) -> _Proportion:
    images = len(right_n)
    if not images:
        return _Proportion(0, 0.0, 0.0)
    share = float(right_n.mean())
    _, number_n, sizes = np.unique(unit_n, return_inverse=True, return_counts=True)
    units_there = len(sizes)
    if units_there == images:
        return _Proportion(images, share, float(images))
    if share in (0.0, 1.0) or units_there == 1:
        return _Proportion(images, share, float(units_there))  # nothing to take a variance of: the safe side
    residuals_u = np.bincount(number_n, weights=right_n - share)
    variance = units_there / (units_there - 1) * float((residuals_u**2).sum()) / images**2
    effect = max(1.0, variance / (share * (1 - share) / images))
    return _Proportion(images, share, images / effect)


def _wilson(found: _Proportion) -> tuple[float, float]:
    from scipy.stats import norm

    z, n, share = float(norm.ppf(0.975)), found.effective, found.share
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def _p_worse(own: _Proportion, others: _Proportion) -> float:
    """That so few or fewer right ones fall into the slice by chance, given how many are right in all."""
    from scipy.stats import hypergeom

    size, elsewhere = round(own.effective), round(others.effective)
    right, right_elsewhere = round(own.share * own.effective), round(others.share * others.effective)
    return float(hypergeom.cdf(right, size + elsewhere, right + right_elsewhere, size))
