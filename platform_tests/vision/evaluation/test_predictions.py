"""Predictions as rows, and the figures of one part."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from sklearn import metrics as oracle

from platform_assets.vision.datasets.label_map import LabelMap, UnknownLabel
from platform_assets.vision.evaluation.metrics import Metrics
from platform_assets.vision.evaluation.predictions import (
    compute_metrics,
    image_ids_sha256,
    predictions_frame,
    reliability_bins,
)
from platform_assets.vision.evaluation.scores import EvaluationError, log_softmax
from platform_assets.vision.networks.inference import predict
from platform_tests.vision.shapes import coloured_shapes, randomise_batch_norms, small_classifier

ABC = LabelMap(names=("a", "b", "c"))


def _rows(labels: str, part: str = "test") -> pl.DataFrame:
    ids = [f"{part}{number:03}" for number in range(len(labels))]
    paths = [f"{image_id}.png" for image_id in ids]
    return pl.DataFrame({"image_id": ids, "path": paths, "part": [part] * len(ids), "label": list(labels)})


def _logits(predicted: str, *, margin: float = 2.0) -> NDArray[np.float32]:
    return np.eye(3, dtype=np.float32)[[ABC.index(name) for name in predicted]] * margin


def _frame(labels: str, predicted: str, part: str = "test") -> pl.DataFrame:
    return predictions_frame(_rows(labels, part), _logits(predicted), ABC)


def _random_frame(images: int = 60) -> pl.DataFrame:
    generator = np.random.default_rng(0)
    labels = "".join(generator.choice(list("abc"), size=images))
    return predictions_frame(_rows(labels), generator.normal(size=(images, 3)).astype(np.float32), ABC)


def test_predict__does_not_depend_on_the_batch_size_or_the_mode() -> None:
    classifier = small_classifier()
    randomise_batch_norms(classifier)
    images_nchw = coloured_shapes(7, seed=0).images_nchw
    classifier.train()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    logits_nk = predict(classifier, images_nchw, batch_size=3)
    np.testing.assert_allclose(predict(classifier, images_nchw, batch_size=64), logits_nk, atol=1e-4)
    assert logits_nk.shape == (7, 3)
    assert logits_nk.dtype == np.float32
    assert classifier.training, "left in the mode it was in"
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())


def test_predictions_frame__one_row_per_image_with_truth_and_verdict() -> None:
    frame = _frame("abc", "abb")
    assert frame.columns == [
        *("image_id", "path", "part", "truth", "prediction", "truth_index", "prediction_index"),
        *("correct", "confidence", "logits", "probabilities", "group"),
    ]
    assert frame["prediction"].to_list() == ["a", "b", "b"]
    assert frame["correct"].to_list() == [True, True, False]
    assert frame["confidence"][0] == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    assert frame["probabilities"].list.sum().to_list() == pytest.approx([1.0] * 3)
    assert frame["logits"].to_list()[2] == [0.0, 2.0, 0.0]


def test_predictions_frame__a_tie_goes_to_the_smaller_index() -> None:
    frame = predictions_frame(_rows("bc"), np.zeros((2, 3), dtype=np.float32), ABC)
    assert frame["prediction"].to_list() == ["a", "a"]


def test_predictions_frame__no_images_is_an_empty_frame() -> None:
    assert predictions_frame(_rows(""), np.zeros((0, 3), dtype=np.float32), ABC).height == 0


def test_predictions_frame__refuses_what_does_not_fit() -> None:
    with pytest.raises(EvaluationError, match=r"\(2, 3\).*\(3, 3\)"):
        predictions_frame(_rows("abc"), _logits("ab"), ABC)
    with pytest.raises(EvaluationError, match=r"1 of 2 .* test001\.png; the model diverged"):
        predictions_frame(_rows("ab"), np.array([[0, 0, 0], [0, np.nan, 0]], dtype=np.float32), ABC)
    with pytest.raises(UnknownLabel, match="'z'"):
        predictions_frame(_rows("az"), _logits("ab"), ABC)


def test_compute_metrics__agrees_with_scikit_learn() -> None:
    frame = _random_frame()
    truth, prediction = frame["truth"].to_list(), frame["prediction"].to_list()
    metrics = compute_metrics(frame, ABC, "test")
    assert metrics.top1 == pytest.approx(oracle.accuracy_score(truth, prediction))
    assert metrics.macro_f1 == pytest.approx(oracle.f1_score(truth, prediction, average="macro"))
    assert metrics.balanced_accuracy == pytest.approx(oracle.balanced_accuracy_score(truth, prediction))
    assert metrics.loss == pytest.approx(
        oracle.log_loss(truth, np.exp(log_softmax(np.stack(frame["logits"].to_list()))))
    )
    assert metrics.top5 == 1.0
    np.testing.assert_array_equal(metrics.confusion, oracle.confusion_matrix(truth, prediction))
    precision, recall, f1, images = oracle.precision_recall_fscore_support(truth, prediction)
    got = [(row.precision, row.recall, row.f1, row.images) for row in metrics.per_class]
    assert got == [pytest.approx(values) for values in zip(precision, recall, f1, images, strict=True)]
    assert metrics.top1_interval[0] < metrics.top1 < metrics.top1_interval[1]


def test_compute_metrics__ece_is_that_of_torchmetrics() -> None:
    # 2026-11: torchmetrics 1.9.0, multiclass_calibration_error(n_bins=15, norm="l1"); pinned, as its import takes 10 s.
    assert compute_metrics(_random_frame(), ABC, "test").ece == pytest.approx(0.2267611, abs=1e-6)


def test_compute_metrics__ece_by_hand() -> None:
    # Four equal confidences, three of them right.
    confidence = np.exp(2) / (np.exp(2) + 2)
    assert compute_metrics(_frame("aabb", "aaba"), ABC, "test").ece == pytest.approx(abs(confidence - 0.75))


def test_compute_metrics__absent_classes_are_none_and_never_nan() -> None:
    metrics = compute_metrics(_frame("aab", "aab"), ABC, "test")
    absent = metrics.per_class[2]
    assert (absent.images, absent.predicted, absent.precision, absent.recall, absent.f1) == (0, 0, None, None, None)
    assert metrics.macro_f1 == metrics.balanced_accuracy == 1.0
    assert Metrics.model_validate_json(metrics.model_dump_json()) == metrics
    assert "NaN" not in json.dumps(metrics.model_dump(mode="json"))


def test_compute_metrics__looks_at_its_part_alone() -> None:
    both = pl.concat([_frame("abc", "abc", "val"), _frame("abcc", "bbbb", "test")])
    assert compute_metrics(both, ABC, "val").top1 == 1.0
    assert compute_metrics(both, ABC, "test").top1 == 0.25
    assert compute_metrics(both, ABC, "test").images == 4


def test_compute_metrics__same_seed_same_intervals() -> None:
    frame = _random_frame()
    first, again, other = (compute_metrics(frame, ABC, "test", seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.macro_f1_interval != other.macro_f1_interval


def test_compute_metrics__refuses_an_empty_part_and_an_image_twice() -> None:
    frame = _frame("abc", "abc", "val")
    with pytest.raises(EvaluationError, match="part 'test': no predictions"):
        compute_metrics(frame, ABC, "test")
    with pytest.raises(EvaluationError, match=r"val000.*more than once"):
        compute_metrics(pl.concat([frame, frame]), ABC, "val")


@pytest.mark.parametrize("names", [("a", "c", "b"), ("a", "b"), ("a", "b", "c", "d")])
def test_compute_metrics__refuses_another_label_map(names: tuple[str, ...]) -> None:
    with pytest.raises(EvaluationError, match="label map"):
        compute_metrics(_frame("abc", "abc"), LabelMap(names=names), "test")


def test_reliability_bins__hold_every_image_once() -> None:
    frame = _random_frame()
    bins = reliability_bins(frame, "test")
    assert bins["images"].sum() == frame.height
    assert ((bins["confidence"] >= bins["low"] - 1e-6) & (bins["confidence"] <= bins["high"] + 1e-6)).all()
    certain = predictions_frame(_rows("ab"), _logits("ab", margin=500.0), ABC)
    assert reliability_bins(certain, "test").row(0) == pytest.approx((14 / 15, 1.0, 2, 1.0, 1.0))


def test_image_ids_sha256__knows_the_set_and_not_the_order() -> None:
    assert image_ids_sha256(["a", "b"]) == image_ids_sha256(["b", "a"]) != image_ids_sha256(["a", "c"])
