"""Every figure of a part against scikit-learn, on random and degenerate predictions, and its interval."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as oracle

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation import bootstrap
from platform_assets.vision.evaluation.metrics import HEADLINES, Metrics
from platform_assets.vision.evaluation.predictions import compute_metrics, predictions_frame
from platform_assets.vision.evaluation.scores import log_softmax
from platform_assets.vision.recipes.evaluation_rules import CoarseLabels, EvaluationRules

ABCD = LabelMap(names=("a", "b", "c", "d"))
COSTS = np.array([[0, 1, 5, 1], [2, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=np.float64)
COARSE = CoarseLabels(("x", "y"), np.array([0, 0, 1, 1]))
RULES = EvaluationRules(costs_kk=COSTS, coarse=COARSE)


def _frame(truth_n: NDArray[Any], logits_nk: NDArray[Any], groups: list[str | None] | None = None) -> pl.DataFrame:
    ids = [f"{number:03}" for number in range(len(truth_n))]
    labels = [ABCD.names[index] for index in truth_n]
    rows = pl.DataFrame({"image_id": ids, "path": ids, "part": "test", "label": labels})
    if groups:
        rows = rows.with_columns(group=pl.Series(groups, dtype=pl.String))
    return predictions_frame(rows, logits_nk.astype(np.float32), ABCD)


def _random(images: int, seed: int = 0, classes: int = 4) -> tuple[NDArray[Any], NDArray[Any]]:
    """The truth has two logits more than the others have."""
    generator = np.random.default_rng(seed)
    truth_n = generator.integers(classes, size=images)
    return truth_n, generator.normal(size=(images, 4)) + 2 * np.eye(4)[truth_n]


def _metrics(truth_n: NDArray[Any], logits_nk: NDArray[Any], **more: Any) -> Metrics:
    return compute_metrics(
        _frame(truth_n, logits_nk, more.pop("groups", None)), ABCD, "test", **{"rules": RULES, **more}
    )


def test_metrics__are_those_of_scikit_learn() -> None:
    truth_n, logits_nk = _random(200)
    found, probabilities_nk, prediction_n = (
        _metrics(truth_n, logits_nk),
        np.exp(log_softmax(logits_nk)),
        logits_nk.argmax(1),
    )
    rel = 1e-5  # logits are float32 in the frame
    assert found.micro_f1 == pytest.approx(oracle.f1_score(truth_n, prediction_n, average="micro"))
    assert found.micro_f1 == found.top1
    brier = oracle.brier_score_loss(truth_n, probabilities_nk, labels=range(4), scale_by_half=False)
    assert found.brier == pytest.approx(brier, rel=rel)
    auroc = oracle.roc_auc_score(truth_n, probabilities_nk, multi_class="ovr", average="macro")
    assert found.macro_auroc == pytest.approx(auroc, rel=rel)
    ap = oracle.average_precision_score(np.eye(4)[truth_n], probabilities_nk, average=None)
    assert [row.ap for row in found.per_class] == pytest.approx(list(ap), rel=rel)
    assert found.macro_ap == pytest.approx(ap.mean(), rel=rel)
    assert [row.images for row in found.per_class] == np.bincount(truth_n).tolist()
    coarse_n, coarse_prediction_n = COARSE.of_class_k[truth_n], COARSE.of_class_k[prediction_n]
    assert found.coarse is not None
    assert found.coarse.top1 == pytest.approx(oracle.accuracy_score(coarse_n, coarse_prediction_n))
    assert found.coarse.macro_f1 == pytest.approx(oracle.f1_score(coarse_n, coarse_prediction_n, average="macro"))
    np.testing.assert_array_equal(found.coarse.confusion, oracle.confusion_matrix(coarse_n, coarse_prediction_n))
    wrong_n = truth_n != prediction_n
    assert found.coarse.mistakes_within == pytest.approx((coarse_n == coarse_prediction_n)[wrong_n].mean())


def test_cost_accuracy__by_hand_and_with_equal_costs_as_top1() -> None:
    # a as c costs 5 of at most 5, b as a 2 of 2, d as a 1 of 1, c as a nothing of nothing; a and b are right once.
    truth_n, prediction_n = np.array([0, 1, 3, 2, 0, 1]), np.array([2, 0, 0, 0, 0, 1])
    found = _metrics(truth_n, np.eye(4)[prediction_n])
    assert found.mean_cost == pytest.approx((5 + 2 + 1) / 6)
    assert found.cost_accuracy == pytest.approx(1 - (5 + 2 + 1) / (5 + 2 + 1 + 0 + 5 + 2))
    equal = _metrics(truth_n, np.eye(4)[prediction_n], rules=EvaluationRules(costs_kk=1 - np.eye(4)))
    assert equal.cost_accuracy == pytest.approx(equal.top1)
    assert equal.cost_accuracy_interval == pytest.approx(equal.top1_interval)
    free = _metrics(np.array([2, 2]), np.eye(4)[[0, 2]])
    assert (free.cost_accuracy, free.cost_accuracy_interval, free.mean_cost) == (None, None, 0.0)
    none = _metrics(truth_n, np.eye(4)[prediction_n], rules=None)
    assert (none.cost_accuracy, none.mean_cost, none.coarse) == (None, None, None)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(-300, 300), min_size=4, max_size=4)), min_size=1, max_size=6
    )
)
def test_metrics__of_few_images_are_numbers_or_none_and_never_nan(images: list[tuple[int, list[int]]]) -> None:
    """One image, one class, absent classes, ties, probabilities of exactly 0 and 1."""
    truth_n, logits_nk = np.array([truth for truth, _ in images]), np.array([logits for _, logits in images])
    found = _metrics(truth_n, logits_nk)
    text = found.model_dump_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert Metrics.model_validate_json(text) == found
    present = len(set(truth_n))
    assert (found.macro_auroc is None) == (present == 1)
    assert found.macro_ap is not None
    assert found.loss_interval is not None
    for name in HEADLINES:
        bounds = getattr(found, f"{name}_interval")
        assert bounds is None or bounds[0] <= bounds[1], name


def test_intervals__hold_their_figure() -> None:
    found = _metrics(*_random(300))
    assert found.top5_interval == (1, 1), "of four classes"
    for name in set(HEADLINES) - {"top5"}:
        low, high = getattr(found, f"{name}_interval")
        assert low < getattr(found, name) < high, name
    assert found.coarse is not None
    assert found.coarse.top1_interval[0] < found.coarse.top1 < found.coarse.top1_interval[1]


def test_intervals__are_as_wide_as_figures_spread_over_new_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of resamples, but of 120 new sets of 150 images: what an interval is a guess of."""
    intervals = [_metrics(*_random(150, seed)) for seed in range(6)]
    monkeypatch.setattr(bootstrap, "BOOTSTRAP_DRAWS", 1)
    others = [_metrics(*_random(150, seed)) for seed in range(10, 130)]
    for name in set(HEADLINES) - {"top5"}:
        spread = np.std([getattr(found, name) for found in others])
        width = np.mean([np.diff(getattr(found, f"{name}_interval")) for found in intervals])
        assert width / 2 / 1.96 == pytest.approx(spread, rel=0.25), name


def test_intervals__of_a_calibrated_classifier_reach_down_to_no_error() -> None:
    """Percentiles alone would lie above: resampling adds to the error what sampling has added."""
    reaches = []
    for seed in range(8):
        generator = np.random.default_rng(seed)
        logits_nk = 2 * generator.normal(size=(400, 4))
        cumulative_nk = np.exp(log_softmax(logits_nk)).cumsum(axis=1)
        truth_n = np.minimum((generator.random((400, 1)) > cumulative_nk).sum(axis=1), 3)
        found = _metrics(truth_n, logits_nk)
        assert found.ece_interval is not None
        reaches.append(found.ece_interval[0] / found.ece)
    assert np.median(reaches) < 0.5


def test_intervals__with_groups_are_those_of_the_groups() -> None:
    truth_n, logits_nk = _random(100)
    alone = _metrics(truth_n, logits_nk)
    copies = [f"g{number // 5}" for number in range(500)]
    copied = _metrics(truth_n.repeat(5), logits_nk.repeat(5, axis=0), groups=copies)
    assert (alone.units, copied.units, copied.images) == (100, 100, 500)
    for name in HEADLINES:
        assert getattr(copied, f"{name}_interval") == pytest.approx(getattr(alone, f"{name}_interval"), abs=1e-5), name
    ungrouped = _metrics(truth_n.repeat(5), logits_nk.repeat(5, axis=0))
    assert np.diff(ungrouped.top1_interval) < 0.6 * np.diff(copied.top1_interval), "500 images of their own"
    mixed = _metrics(truth_n, logits_nk, groups=["g", "g", *[None] * 98])
    assert mixed.units == 99


def test_metrics__written_by_older_code_are_read() -> None:
    """A champion's metrics.json stays as it is for as long as it serves."""
    whole = json.loads(_metrics(*_random(30), rules=None).model_dump_json())
    optional = {name for name, field in Metrics.model_fields.items() if not field.is_required()}
    older = {name: value for name, value in whole.items() if name not in optional}
    older["per_class"] = [{k: v for k, v in row.items() if k not in ("auroc", "ap")} for row in older["per_class"]]
    found = Metrics.model_validate(older)
    assert found.top1 == whole["top1"]
    assert (found.brier, found.per_class[0].auroc, found.ece_interval) == (None, None, None)


def test_rankings__without_a_mistake_are_certain_and_of_one_class_not_defined() -> None:
    truth_n, logits_nk = _random(30)
    found = _metrics(truth_n, 9 * np.eye(4)[truth_n])
    assert found.macro_auroc_interval == pytest.approx((1, 1), abs=1e-6)
    one_class = _metrics(np.zeros(30, dtype=int), logits_nk)
    assert (one_class.macro_auroc, one_class.macro_auroc_interval) == (None, None)
    assert one_class.macro_ap_interval == pytest.approx((1, 1), abs=1e-6)
