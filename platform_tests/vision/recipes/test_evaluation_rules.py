"""Costs and coarse labels: by hand, against the label map, and refused with the key."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from sklearn.metrics import confusion_matrix

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.recipes.evaluation_options import Costs
from platform_assets.vision.recipes.evaluation_rules import (
    BadCosts,
    coarse_labels,
    cost_matrix,
    evaluation_rules,
    rolled_up,
)

ABC = LabelMap(names=("a", "b", "c"))


def test_cost_matrix__what_is_not_named_costs_one() -> None:
    assert cost_matrix({"a": {"b": 10, "c": 0}}, ABC).tolist() == [[0, 10, 0], [1, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize(
    ("costs", "key"), [({"z": {}}, r"costs\.z: label 'z'"), ({"a": {"bb": 1}}, r"costs\.a\.bb: label 'bb' .* nearest")]
)
def test_cost_matrix__refuses_a_strange_label_with_its_key(costs: dict[str, Any], key: str) -> None:
    with pytest.raises(BadCosts, match=key):
        cost_matrix(costs, ABC)


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ({"a": {"b": -1}}, "greater than or equal to 0"),
        ({"a": {"b": float("inf")}}, "finite"),
        ({"a": {"a": 1}}, "a.a: a right answer costs nothing"),
    ],
)
def test_costs__refuse_what_is_no_cost(costs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(Costs).validate_python(costs)


def _records(**columns: list[Any]) -> pl.DataFrame:
    return pl.DataFrame({"label": ["a", "b", "c", "a"], **columns})


def test_coarse_labels__by_their_column_or_the_parent_in_the_hierarchy() -> None:
    by_column = coarse_labels(_records(coarse_label=["x", "w", "x", "x"]), ABC)
    by_parent = coarse_labels(_records(hierarchy=[["all", "x"], ["w"], ["all", "x"], None]), ABC)
    for found in (by_column, by_parent):
        assert found is not None
        assert found.names == ("w", "x")
        assert found.of_class_k.tolist() == [1, 0, 1]


def test_coarse_labels__a_class_without_one_stands_for_itself() -> None:
    found = coarse_labels(_records(coarse_label=["x", None, "x", None]), ABC)
    assert found is not None
    assert [found.names[index] for index in found.of_class_k] == ["x", "b", "x"]


@pytest.mark.parametrize(
    "columns",
    [{}, {"coarse_label": [None] * 4}, {"coarse_label": ["x", "y", "z", "x"]}, {"coarse_label": ["x", "x", "x", "y"]}],
)
def test_coarse_labels__none_where_there_are_none_or_a_label_has_two(columns: dict[str, Any]) -> None:
    assert coarse_labels(_records(**columns), ABC) is None
    assert evaluation_rules(_records(**columns), ABC, None).coarse is None


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_rolled_up__is_the_confusion_matrix_of_the_coarse_labels(pairs: list[tuple[int, int]]) -> None:
    truth_n, prediction_n = np.array(pairs).T
    coarse = coarse_labels(_records(coarse_label=["x", "w", "x", "x"]), ABC)
    assert coarse is not None
    fine = confusion_matrix(truth_n, prediction_n, labels=range(3))
    wanted = confusion_matrix(coarse.of_class_k[truth_n], coarse.of_class_k[prediction_n], labels=range(2))
    np.testing.assert_array_equal(rolled_up(fine, coarse), wanted)
