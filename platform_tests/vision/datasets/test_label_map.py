"""The label map: one order, one checksum, no silent mismatch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platform_assets.vision.datasets.label_map import (
    BadLabelMap,
    LabelMap,
    LabelMapMismatch,
    UnknownLabel,
    normal_label,
)

names = st.lists(st.text(min_size=1).map(normal_label).filter(bool), min_size=1, max_size=9, unique=True)


def test_from_labels__without_class_list_is_code_point_order() -> None:
    assert LabelMap.from_labels(["2", "10", "a", "B", "é", "1", "2"]).names == ("1", "10", "2", "B", "a", "é")


def test_from_labels__own_class_list_keeps_its_order_and_its_empty_classes() -> None:
    assert LabelMap.from_labels(["cat"], classes=["dog", "cat", "bird"]).names == ("dog", "cat", "bird")


def test_from_labels__label_outside_the_class_list_is_named() -> None:
    with pytest.raises(UnknownLabel, match=r"\['auklet'\] are not in the dataset's class list; add"):
        LabelMap.from_labels(["cat", "auklet"], classes=["dog", "cat"])


def test_from_labels__composed_and_decomposed_names_are_one_class() -> None:
    assert LabelMap.from_labels(["caf\u00e9", "cafe\u0301 ", "tea"]).names == ("caf\u00e9", "tea")


@pytest.mark.parametrize(
    ("bad", "said"),
    [((), "at least one"), (("a", "a"), "more than once"), (("a", ""), "empty"), ((" a",), "outer blanks")],
)
def test_label_map__refuses_names_without_one_index_each(bad: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LabelMap(names=bad)


def test_checksum__is_pinned() -> None:
    # Stored in checkpoints and exports: a changed rule would make every one of them foreign.
    expected = "fa1844c2988ad15ab7b49e0ece09684500fad94df916859fb9a43ff85f5bb477"
    assert LabelMap(names=("a", "b", "c")).checksum == expected
    assert LabelMap(names=("caf\u00e9", '"')).checksum == hashlib.sha256('["caf\u00e9","\\""]'.encode()).hexdigest()


def test_checksum__order_counts_and_names_do_not_run_together() -> None:
    maps = [LabelMap(names=names) for names in [("a", "b"), ("b", "a"), ("ab",), ("a,b",), ('a","b',)]]
    assert len({label_map.checksum for label_map in maps}) == len(maps)


@given(names)
def test_json__round_trip(some: list[str]) -> None:
    label_map = LabelMap(names=tuple(some))
    assert LabelMap.from_json(label_map.to_json()) == label_map
    assert [label_map.index(name) for name in some] == list(range(len(some)))


@pytest.mark.parametrize("change", [{"names": ["a", "c"]}, {"names": ["b", "a"]}, {"checksum": "0"}, {"more": 1}])
def test_from_json__edited_file_is_refused(change: dict[str, object]) -> None:
    stored = json.loads(LabelMap(names=("a", "b")).to_json())
    with pytest.raises(BadLabelMap, match="restore the file"):
        LabelMap.from_json(json.dumps({**stored, **change}))


@pytest.mark.parametrize("text", ["", "[]", '{"names": ["a"]}', '{"checksum": "0", "names": []}'])
def test_from_json__not_a_label_map(text: str) -> None:
    with pytest.raises(BadLabelMap, match="not a label map"):
        LabelMap.from_json(text)


def test_index__unknown_label_names_the_nearest() -> None:
    with pytest.raises(UnknownLabel, match=r"'crackd' is not one of the 2 classes; nearest: \['cracked'\]"):
        LabelMap(names=("cracked", "whole")).index("crackd")


def test_require_same__names_what_is_missing_added_and_moved() -> None:
    ours, theirs = LabelMap(names=("a", "b", "c")), LabelMap(names=("b", "a", "d"))
    said = r"^x/ckpt: .*missing: 'c'; not expected: 'd'; moved: 'a' at 1 instead of 0, 'b' at 0 instead of 1;"
    with pytest.raises(LabelMapMismatch, match=said):
        ours.require_same(theirs, what="x/ckpt")


def test_require_same__long_differences_are_cut() -> None:
    ours, theirs = (LabelMap(names=tuple(f"{letter}{i:02}" for i in range(20))) for letter in "xy")
    with pytest.raises(LabelMapMismatch, match=r"missing: 'x00', .*'x07' and 12 more; not expected"):
        ours.require_same(theirs, what="it")


def test_require_same__equal_maps_pass() -> None:
    LabelMap(names=("a", "b")).require_same(LabelMap.from_labels(["b", "a"]), what="it")


def test_light_modules__load_nothing_heavy() -> None:
    # The code location imports these three: numpy, polars and torch must stay out.
    code = "import sys, platform_assets.vision.datasets.{}; print(sorted({{'numpy', 'polars', 'torch'}} & set(sys.modules)))"
    for module in ("label_map", "sources", "splits"):
        done = subprocess.run([sys.executable, "-c", code.format(module)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]", module
