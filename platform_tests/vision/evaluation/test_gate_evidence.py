"""What the gate measures anew, against independent computations and on evidence that was tampered with."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.calibration import calibrate
from platform_assets.vision.evaluation.calibration_report import report_of
from platform_assets.vision.evaluation.comparison import ComparisonError
from platform_assets.vision.evaluation.gate_evidence import (
    compare,
    file_faults,
    latency_ms,
    lowest_class,
    prediction_faults,
    row_faults,
    split_faults,
)
from platform_assets.vision.evaluation.gates import ClassFloor
from platform_assets.vision.evaluation.predictions import compute_metrics, logits_and_truth, predictions_frame
from platform_assets.vision.networks.models import build_classifier
from platform_assets.vision.recipes.preprocessing import Preprocessing
from platform_assets.vision.recipes.uncertainty_options import UncertaintyOptions

ABC = LabelMap(names=("a", "b", "c"))


def predicted(truth_n: Any, prediction_n: Any, *, part: str = "test") -> pl.DataFrame:
    ids = [f"{part}{number:04}" for number in range(len(truth_n))]
    rows = pl.DataFrame({"image_id": ids, "path": ids, "part": part, "label": [ABC.names[i] for i in truth_n]})
    return predictions_frame(rows, np.eye(3, dtype=np.float32)[np.asarray(prediction_n)] * 4, ABC)


def drawn(images: int, seed: int) -> tuple[Any, Any, Any]:
    """Truths, and two models that are right on eight and seven in ten."""
    random = np.random.default_rng(seed)
    truth_n = np.arange(images) % 3
    models = [np.where(random.random(images) < right, truth_n, (truth_n + 1) % 3) for right in (0.8, 0.7)]
    return truth_n, *models


def test_compare__figures_are_scikit_learns_and_scipys() -> None:
    truth_n, one_n, other_n = drawn(300, 0)
    one, other = predicted(truth_n, one_n), predicted(truth_n, other_n).sample(fraction=1, shuffle=True, seed=1)
    found = compare(one, other, metric="macro_f1")
    assert found.images == 300
    assert found.challenger == pytest.approx(f1_score(truth_n, one_n, average="macro"))
    assert found.incumbent == pytest.approx(f1_score(truth_n, other_n, average="macro"))
    only_one, only_other = (one_n == truth_n) & (other_n != truth_n), (one_n != truth_n) & (other_n == truth_n)
    assert (found.only_challenger, found.only_incumbent) == (only_one.sum(), only_other.sum())
    assert found.p_value == pytest.approx(binomtest(found.only_challenger, only_one.sum() + only_other.sum()).pvalue)


def test_compare__the_interval_is_that_of_the_paired_difference() -> None:
    """Against the formula for a mean of paired differences, which top-1 is."""
    truth_n, one_n, other_n = drawn(2000, 1)
    found = compare(*(predicted(truth_n, n) for n in (one_n, other_n)), metric="top1")
    difference_n = (one_n == truth_n).astype(float) - (other_n == truth_n)
    margin = 1.96 * difference_n.std() / np.sqrt(len(truth_n))
    assert found.low == pytest.approx(difference_n.mean() - margin, abs=margin / 8)
    assert found.high == pytest.approx(difference_n.mean() + margin, abs=margin / 8)
    assert found.challenger - found.incumbent == pytest.approx(
        accuracy_score(truth_n, one_n) - accuracy_score(truth_n, other_n)
    )


def test_compare__whole_groups_are_drawn() -> None:
    """Ten copies of each image say no more than one: the interval stays as wide as without the copies."""
    truth_n, one_n, other_n = drawn(90, 2)
    copies = [np.repeat(each, 10) for each in (truth_n, one_n, other_n)]
    frames = [predicted(copies[0], n) for n in copies[1:]]
    grouped = [frame.with_columns(group=(pl.int_range(pl.len()) // 10).cast(pl.String)) for frame in frames]

    def width(frames: list[pl.DataFrame]) -> float:
        found = compare(*frames, metric="top1")
        return found.high - found.low

    plain = [predicted(truth_n, n) for n in (one_n, other_n)]
    assert width(grouped) == pytest.approx(width(plain), rel=0.15)
    assert width(frames) < 0.5 * width(grouped)


def test_compare__the_same_predictions_differ_by_nothing_and_other_images_are_refused() -> None:
    one = predicted([0, 1, 2, 0], [0, 1, 1, 0])
    found = compare(one, one, metric="macro_f1")
    assert (found.low, found.high, found.p_value) == (0, 0, 1)
    with pytest.raises(ComparisonError, match="a paired test needs the same images"):
        compare(one, one.head(3), metric="macro_f1")


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=40))
def test_lowest_class__is_the_least_of_those_that_have_enough_images(pairs: list[tuple[int, int]]) -> None:
    truth_n, prediction_n = (np.array(each) for each in zip(*pairs, strict=True))
    metrics = compute_metrics(predicted(truth_n, prediction_n), ABC, "test")
    enough = [n for n in range(3) if (truth_n == n).sum() >= 4]
    found = lowest_class(metrics, ClassFloor(minimum=0.5, min_images=4))
    if not enough:
        assert (found.passed, found.measured) == (False, None)
        assert "no class has 4 images of test" in found.said
        return
    recalls = recall_score(truth_n, prediction_n, labels=enough, average=None)
    assert found.measured == pytest.approx(recalls.min())
    assert found.passed == (recalls.min() >= 0.5)


def test_lowest_class__names_it() -> None:
    metrics = compute_metrics(predicted([0] * 5 + [1] * 5, [0] * 5 + [1, 1, 0, 0, 0]), ABC, "test")
    found = lowest_class(metrics, ClassFloor(score="f1", minimum=0.6, min_images=5))
    assert found.said == "f1 of class 'b' is 0.5714, below its floor 0.6000"


@pytest.fixture
def evaluated() -> tuple[pl.DataFrame, pl.DataFrame, pl.Series]:
    """Predictions of val and test, records that agree, and the ids of train."""
    frame = pl.concat([predicted([0, 1, 2], [0, 1, 2], part=part) for part in ("val", "test")])
    train = pl.DataFrame({"image_id": ["t1"], "path": ["t1"], "split": ["train"], "label": ["a"]})
    records = frame.select("image_id", "path", split="part", label="truth")
    return frame, pl.concat([records, train.select(records.columns)]), train["image_id"]


def test_split_faults__none_of_what_is_split_as_the_records_are(evaluated: Any) -> None:
    assert split_faults(*evaluated) == []


def test_split_faults__every_way_to_split_otherwise_is_named(evaluated: Any) -> None:
    frame, records, train = evaluated
    first = pl.col("image_id") == "val0000"
    moved = frame.with_columns(part=pl.when(first).then(pl.lit("test")).otherwise("part"))
    assert (
        "1 images are not split as the records are: val0000 is evaluated as test"
        in split_faults(moved, records, train)[0]
    )
    relabelled = frame.with_columns(truth=pl.when(first).then(pl.lit("b")).otherwise("truth"))
    assert "val0000 is evaluated as val with label 'b'" in split_faults(relabelled, records, train)[0]
    assert split_faults(frame.filter(~first), records, train) == [
        "1 images are not split as the records are: val0000 is in val with label 'a', and not evaluated so"
    ]
    assert "7 rows are of 6 images" in split_faults(pl.concat([frame, frame.head(1)]), records, train)[0]
    seen = pl.Series(["test0001"])
    assert split_faults(frame, records, seen) == ["1 images of test are among those that it was fitted on"]


def test_row_faults__any_column_that_is_not_as_computed_anew_is_found() -> None:
    found = {"trial": "a", "test_top1": 0.75, "test_coarse_top1": 0.5, "test_answered": None, "parameters": 12}
    assert row_faults({**found, "mlflow_run_id": "ab"}, found) == []
    assert row_faults({**found, "test_top1": 0.75 + 1e-9}, found) == []
    assert row_faults({"trial": "a"}, found) == [], "another Kestrel's row has other columns"
    assert row_faults({**found, "test_top1": 0.99}, found) == [
        "the metrics table says test_top1 0.99, the predictions give 0.75"
    ]
    for name, edit in (("test_coarse_top1", 0.9), ("test_answered", 1.0), ("parameters", 11), ("trial", "b")):
        (said,) = row_faults({**found, name: edit}, found)
        assert said.startswith(f"the metrics table says {name} {edit}, the predictions give")


def test_file_faults__an_edit_in_any_place_is_found() -> None:
    metrics = compute_metrics(predicted([0, 1, 2, 0], [0, 1, 1, 0]), ABC, "test")
    found = {"test": metrics.model_dump(mode="json"), "test_shots": {"many": None, "few": 0.5}}
    said = json.loads(json.dumps(found))
    assert file_faults("metrics.json", said, found) == []
    per_class = [{**entry, "recall": 1.0} for entry in said["test"]["per_class"]]
    edited = {"test": {**said["test"], "per_class": per_class, "loss": None}, "test_shots": {"many": 0.9, "few": 0.5}}
    assert file_faults("metrics.json", edited, found) == [
        f"metrics.json says test.loss None, the predictions give {metrics.loss}",
        "metrics.json says test.per_class other than the predictions give",
        "metrics.json says test_shots.many 0.9, the predictions give None",
    ]
    # What is not there says nothing of a figure that there is none of.
    there = [value for section in found.values() for value in section.values() if value is not None]
    assert len(file_faults("metrics.json", {}, found)) == len(there)


def _with_logits(frame: pl.DataFrame, logits_nk: Any) -> pl.DataFrame:
    return frame.with_columns(pl.Series("logits", np.asarray(logits_nk, dtype=np.float32)).cast(pl.List(pl.Float32)))


def test_prediction_faults__another_engine_rounds_and_another_model_does_not() -> None:
    random, truth_n = np.random.default_rng(0), np.arange(100) % 3
    logits_nk = random.normal(size=(100, 3))
    frame = _with_logits(predicted(truth_n, logits_nk.argmax(axis=1)), logits_nk)
    rounded = _with_logits(frame, logits_nk + random.uniform(-0.05, 0.05, size=(100, 3))).reverse()
    assert prediction_faults(frame, rounded) == []
    logits_nk[7, 0] += 1
    assert prediction_faults(frame, _with_logits(frame, logits_nk)) == [
        f"1 of 100 images have not the logits that the weights give; test0007, {frame['prediction'][7]!r}, is one"
    ]


@pytest.mark.parametrize(("differing", "found"), [(2, 0), (3, 1)])
def test_prediction_faults__trees_and_votes_may_jump_on_few_images(differing: int, found: int) -> None:
    truth_n = np.arange(100) % 3
    one, other = predicted(truth_n, truth_n), predicted(truth_n, (truth_n + (np.arange(100) < differing)) % 3)
    assert len(prediction_faults(one, other, jumps=True)) == found
    assert len(prediction_faults(one, other)) == 1


def test_prediction_faults__a_label_that_its_logits_do_not_give() -> None:
    truth_n = np.arange(9) % 3
    frame = predicted(truth_n, truth_n)
    edited = frame.with_columns(prediction_index=pl.when(image_id="test0004").then(2).otherwise("prediction_index"))
    assert "1 of 9 images have not" in prediction_faults(edited, frame, jumps=True)[0]


def test_file_faults__what_a_model_is_served_with_is_that_of_the_predictions_and_of_the_yaml() -> None:
    """Only the ECE was compared: another temperature, threshold of sets or coverage was served."""
    truth_n, one_n, _ = drawn(90, 3)
    frame = pl.concat([predicted(truth_n, one_n, part=part) for part in ("val", "test")])

    def faults(edit: dict[str, Any], options: UncertaintyOptions) -> list[str]:
        fitted = calibrate(*logits_and_truth(frame, "val"), options)
        found = {"calibration": fitted, "on_test": report_of(fitted, frame)}
        return file_faults("calibration.json", edit, {name: each.model_dump() for name, each in found.items()})

    fitted = calibrate(*logits_and_truth(frame, "val"), UncertaintyOptions())
    on_test = report_of(fitted, frame)
    said = {"calibration": fitted.model_dump(mode="json"), "on_test": on_test.model_dump(mode="json")}
    assert faults(said, UncertaintyOptions()) == []
    (fault,) = faults({**said, "calibration": {**said["calibration"], "temperature": 9.0}}, UncertaintyOptions())
    assert fault == f"calibration.json says calibration.temperature 9.0, the predictions give {fitted.temperature}"
    stricter = faults(said, UncertaintyOptions(coverage=0.99))
    assert "calibration.json says calibration.coverage 0.9, the predictions give 0.99" in stricter
    (fault,) = faults({**said, "on_test": {**said["on_test"], "covered": 0.5}}, UncertaintyOptions())
    assert fault.startswith("calibration.json says on_test.covered 0.5, the predictions give")


def test_latency_ms__is_that_of_one_image() -> None:
    preprocessing = Preprocessing(
        image_size_px=16, resize="squash", interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    classifier = build_classifier("baseline_cnn", 3, preprocessing, pretrained=False, seed=0)
    assert 0.01 < latency_ms(classifier, runs=3) < 1000
