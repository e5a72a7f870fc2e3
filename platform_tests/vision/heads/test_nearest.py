"""Nearest class mean and k nearest neighbours, against loops in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from platform_assets.vision.evaluation.scores import cross_entropy, log_softmax, score
from platform_assets.vision.heads.feature_scaling import LabelledFeatures, ProbeError
from platform_assets.vision.heads.modules import NeighbourHead, logits_of_features
from platform_assets.vision.heads.nearest import fit_nearest_mean, fit_neighbours
from platform_assets.vision.recipes.probe_options import KnnRecipe, NearestMeanRecipe


def clouds(images: int, *, seed: int, classes: int = 3, width: int = 6) -> LabelledFeatures:
    """Gaussian clouds around class centres that do not depend on the seed."""
    centres_kd = np.random.default_rng(99).normal(size=(classes, width)) * 1.2
    labels_n = np.arange(images) % classes
    noise_nd = np.random.default_rng(seed).normal(size=(images, width))
    return (centres_kd[labels_n] + noise_nd + 2).astype(np.float32), labels_n


TRAIN, VAL = clouds(90, seed=1), clouds(45, seed=2)
COMMON: dict[str, Any] = {"num_classes": 3, "metric": "top1"}


def _unit(rows_nd: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(rows_nd / np.linalg.norm(rows_nd, axis=1, keepdims=True))


def _means(rows_nd: NDArray[Any], labels_n: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.stack([rows_nd[labels_n == label].mean(axis=0) for label in range(3)])


def test_nearest_mean__euclidean_is_a_linear_layer_in_the_order_of_the_distances() -> None:
    recipe = NearestMeanRecipe(distance="euclidean", scaling="none")
    fitted = fit_nearest_mean(TRAIN, VAL, recipe=recipe, **COMMON)
    assert isinstance(fitted.head, torch.nn.Linear)
    means_kd = _means(TRAIN[0].astype(np.float64), TRAIN[1])
    half_square_nk = -0.5 * np.square(VAL[0][:, None].astype(np.float64) - means_kd).sum(axis=2)
    scale = 10 ** float(fitted.summary["log10_scale"])
    np.testing.assert_allclose(
        log_softmax(logits_of_features(fitted.head, VAL[0])), log_softmax(scale * half_square_nk), atol=1e-4
    )


def test_nearest_mean__cosine_of_standardised_vectors() -> None:
    fitted = fit_nearest_mean(TRAIN, VAL, recipe=NearestMeanRecipe(), **COMMON)
    mean_d, std_d = TRAIN[0].mean(axis=0), TRAIN[0].std(axis=0)
    train_nd, val_nd = (_unit((features_nd - mean_d) / std_d) for features_nd, _ in (TRAIN, VAL))
    cosines_nk = val_nd @ _unit(_means(train_nd, TRAIN[1])).T
    scale = 10 ** float(fitted.summary["log10_scale"])
    np.testing.assert_allclose(
        log_softmax(logits_of_features(fitted.head, VAL[0])), log_softmax(scale * cosines_nk), atol=1e-3
    )


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_nearest_mean__no_other_scale_has_a_lower_val_loss(distance: Any) -> None:
    fitted = fit_nearest_mean(TRAIN, VAL, recipe=NearestMeanRecipe(distance=distance), **COMMON)
    logits_nk = logits_of_features(fitted.head, VAL[0]).astype(np.float64)
    found = cross_entropy(logits_nk, VAL[1])
    assert found == pytest.approx(fitted.candidates["val_loss"].item(), abs=1e-4)
    assert all(cross_entropy(logits_nk * factor, VAL[1]) > found for factor in (0.8, 1.25))


def test_knn__is_the_weighted_vote_of_a_loop() -> None:
    recipe = KnnRecipe(k=(7,), temperature=0.1)
    fitted = fit_neighbours(TRAIN, VAL, recipe=recipe, **COMMON)
    found_nk = np.exp(logits_of_features(fitted.head, VAL[0]))
    train_nd, val_nd = _unit(TRAIN[0].astype(np.float64)), _unit(VAL[0].astype(np.float64))
    for row, probabilities_k in zip(val_nd, found_nk, strict=True):
        cosines_n = train_nd @ row
        votes_k = np.zeros(3)
        for neighbour in np.argsort(-cosines_n)[:7]:
            votes_k[TRAIN[1][neighbour]] += np.exp(cosines_n[neighbour] / 0.1)
        wanted_k = (votes_k / votes_k.sum() * 7 + 1 / 3) / 8
        np.testing.assert_allclose(probabilities_k, wanted_k, atol=5e-3)  # train vectors are float16
    np.testing.assert_allclose(found_nk.sum(axis=1), 1, rtol=1e-5)


def test_knn__chooses_k_on_val_and_says_so() -> None:
    for select_by, best in (("loss", "val_loss"), ("metric", "val_metric")):
        recipe = KnnRecipe(k=(30, 1, 5, 1000, 5), select_by=select_by)  # type: ignore[arg-type]
        fitted = fit_neighbours(TRAIN, VAL, recipe=recipe, **COMMON)
        table = fitted.candidates
        assert table["k"].to_list() == [1, 5, 30]
        wanted = table[best].min() if select_by == "loss" else table[best].max()
        chosen = table.filter("chosen")
        assert (chosen[best].item(), chosen["k"].item()) == (wanted, fitted.summary["k"])
        assert isinstance(fitted.head, NeighbourHead)
        logits_nk = logits_of_features(fitted.head, VAL[0])
        assert cross_entropy(logits_nk, VAL[1]) == pytest.approx(chosen["val_loss"].item(), abs=1e-5)
        assert score(logits_nk, VAL[1], "top1") == chosen["val_metric"].item()


def test_knn__refuses_where_no_k_has_its_images() -> None:
    with pytest.raises(ProbeError, match=r"k: \[100, 200\] are all over the 90 train images"):
        fit_neighbours(TRAIN, VAL, recipe=KnnRecipe(k=(100, 200)), **COMMON)


@pytest.mark.parametrize(("fit", "recipe"), [(fit_nearest_mean, NearestMeanRecipe()), (fit_neighbours, KnnRecipe())])
def test_heads__a_class_without_train_images_is_never_predicted_and_its_loss_is_finite(fit: Any, recipe: Any) -> None:
    train = (TRAIN[0][TRAIN[1] != 1], TRAIN[1][TRAIN[1] != 1])
    logits_nk = logits_of_features(fit(train, VAL, recipe=recipe, num_classes=4, metric="top1").head, VAL[0])
    assert logits_nk.shape == (45, 4)
    assert set(logits_nk.argmax(axis=1)) <= {0, 2}
    assert np.isfinite(cross_entropy(logits_nk, VAL[1]))


@pytest.mark.parametrize(
    ("fit", "recipe"), [(fit_nearest_mean, NearestMeanRecipe(scaling="none")), (fit_neighbours, KnnRecipe())]
)
def test_heads__take_the_part_of_the_features_that_is_best_on_val(fit: Any, recipe: Any) -> None:
    """Beside the clouds as many columns of loud noise: only the first half is worth reading."""
    noisy = [
        (np.hstack([x, np.random.default_rng(7 + len(x)).normal(size=x.shape) * 9]).astype(np.float32), y)
        for x, y in (TRAIN, VAL)
    ]
    slices = {"cls": slice(0, 6), "mean": slice(6, 12), "whole": slice(0, 12)}
    fitted = fit(noisy[0], noisy[1], recipe=recipe, slices=slices, **COMMON)
    assert fitted.candidates.filter("chosen")["features"].item() == "cls"
    assert set(fitted.candidates["features"]) == {"cls", "mean", "whole"}
    other_nd = noisy[1][0].copy()
    other_nd[:, 6:] = 0
    np.testing.assert_array_equal(
        logits_of_features(fitted.head, other_nd), logits_of_features(fitted.head, noisy[1][0])
    )
