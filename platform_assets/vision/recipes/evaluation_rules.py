"""What an evaluation goes by beside the predictions: the cost of each mistake, and the coarse label of each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from platform_assets.vision.datasets.label_map import LabelMap, UnknownLabel

if TYPE_CHECKING:
    import polars as pl


class BadCosts(ValueError):
    """Costs of mistakes between labels that are not those of the label map."""


class CoarseLabels(NamedTuple):
    """Names in code-point order, and which of them each class of a label map belongs to."""

    names: tuple[str, ...]
    of_class_k: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class EvaluationRules:
    """`costs_kk` has the truth in rows and 0 where it is predicted; None where the experiment gives no costs."""

    costs_kk: NDArray[np.float64] | None = None
    coarse: CoarseLabels | None = None


def evaluation_rules(
    records: pl.DataFrame, label_map: LabelMap, costs: Mapping[str, Mapping[str, float]] | None
) -> EvaluationRules:
    """Raises BadCosts."""
    return EvaluationRules(
        costs_kk=None if costs is None else cost_matrix(costs, label_map), coarse=coarse_labels(records, label_map)
    )


def cost_matrix(costs: Mapping[str, Mapping[str, float]], label_map: LabelMap) -> NDArray[np.float64]:
    """[truth, prediction]: what the mistakes cost by YAML, 1 where it names none. Raises BadCosts with the key."""
    matrix_kk = 1.0 - np.eye(len(label_map))
    for truth, row in costs.items():
        row_index = _index(label_map, truth, f"costs.{truth}")
        for prediction, cost in row.items():
            matrix_kk[row_index, _index(label_map, prediction, f"costs.{truth}.{prediction}")] = cost
    return matrix_kk


def _index(label_map: LabelMap, name: str, key: str) -> int:
    try:
        return label_map.index(name)
    except UnknownLabel as error:
        raise BadCosts(f"{key}: {error}; name it as the label map does") from error


def coarse_labels(records: pl.DataFrame, label_map: LabelMap) -> CoarseLabels | None:
    """By the column `coarse_label`, else by the last level of `hierarchy`, which is the parent of the label.

    A class that has neither in any record stands for itself. None where there are no such columns, where a label has
    several coarse ones, and where every class stands for itself.
    """
    import polars as pl

    if "coarse_label" in records.columns:
        above = pl.col("coarse_label")
    elif "hierarchy" in records.columns:
        above = pl.col("hierarchy").list.last()
    else:
        return None
    pairs = records.select("label", above=above).drop_nulls().unique()
    if pairs["label"].is_duplicated().any():
        return None
    known = dict(pairs.rows())
    of_class = [known.get(name, name) for name in label_map.names]
    names = tuple(sorted(set(of_class)))
    if len(names) == len(of_class):
        return None
    return CoarseLabels(names, np.array([names.index(name) for name in of_class]))


def rolled_up(confusion_kk: NDArray[Any], coarse: CoarseLabels) -> NDArray[Any]:
    """The confusion matrix of the coarse labels: rows and columns of the classes of one label added up."""
    belongs_kc = np.equal.outer(coarse.of_class_k, np.arange(len(coarse.names))).astype(confusion_kk.dtype)
    return np.asarray(belongs_kc.T @ confusion_kk @ belongs_kc)
