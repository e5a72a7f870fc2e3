"""The linear probe: fitted on train, chosen on val, folded into one linear layer."""

from __future__ import annotations

import inspect
from typing import Literal

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler, normalize

from platform_assets.vision.evaluation.scores import cross_entropy, log_softmax, score
from platform_assets.vision.heads.feature_scaling import LabelledFeatures, ProbeError
from platform_assets.vision.heads.probe import fit_probe
from platform_assets.vision.recipes.probe_options import FeatureChoice, ProbeRecipe

RECIPE = ProbeRecipe(log10_c_min=-4, log10_c_max=2, points=7)
ONE_POINT = ProbeRecipe(log10_c_min=-1, log10_c_max=-1, points=1, tolerance=1e-8)


def _features(images: int, *, seed: int, classes: int = 3, spread: float = 1.0) -> LabelledFeatures:
    """Gaussian clouds, badly scaled on purpose: feature d has the scale 10 ** d."""
    centres_kd = np.random.default_rng(99).normal(size=(classes, 6)) * 1.2
    generator = np.random.default_rng(seed)
    labels_n = np.arange(images) % classes
    features_nd = (centres_kd[labels_n] + generator.normal(size=(images, 6)) * spread) * 10.0 ** np.arange(-2, 4) + 7
    return features_nd.astype(np.float32), labels_n


TRAIN, VAL = _features(150, seed=1), _features(60, seed=2)


@pytest.mark.parametrize("classes", [2, 3])
def test_fit_probe__folded_head_is_scikit_learns_pipeline(classes: int) -> None:
    """Features of like scale, so that the floor of the standardisation, which scikit-learn has not, is not reached."""
    scales_d = 10.0 ** -np.arange(-2.0, 4.0)
    train, val = (
        ((x * scales_d).astype(np.float32), y)
        for x, y in (_features(150, seed=1, classes=classes), _features(60, seed=2, classes=classes))
    )
    probe = fit_probe(train, val, num_classes=classes, recipe=ONE_POINT, metric="top1")
    scaler = StandardScaler().fit(train[0].astype(np.float64))
    model = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000).fit(scaler.transform(train[0]), train[1])
    ours = np.exp(log_softmax(val[0] @ probe.weight_kd.T + probe.bias_k))
    np.testing.assert_allclose(ours, model.predict_proba(scaler.transform(val[0])), atol=2e-3)


BEST = {"loss": (["val_loss", "val_metric"], [False, True]), "metric": (["val_metric", "val_loss"], [True, False])}


@pytest.mark.parametrize("select_by", BEST)
def test_fit_probe__chooses_the_best_on_val(select_by: Literal["loss", "metric"]) -> None:
    recipe = RECIPE.model_copy(update={"select_by": select_by})
    probe = fit_probe(TRAIN, VAL, num_classes=3, recipe=recipe, metric="macro_f1")
    table = probe.candidates
    assert table["log10_c"].to_list() == list(RECIPE.log10_c_grid)
    columns, descending = BEST[select_by]
    best = table.sort(columns, descending=descending).row(0, named=True)
    assert table.filter("chosen")["log10_c"].to_list() == [probe.log10_c] == [best["log10_c"]]
    assert score(VAL[0] @ probe.weight_kd.T + probe.bias_k, VAL[1], "macro_f1") == pytest.approx(best["val_metric"])


def test_fit_probe__loss_and_metric_may_choose_differently() -> None:
    """Weak labels: the strongest hit count and the best calibrated head are not at the same C."""
    train, val = _features(60, seed=5, spread=3), _features(30, seed=6, spread=3)
    chosen = {
        rule: fit_probe(train, val, num_classes=3, recipe=ProbeRecipe(select_by=rule), metric="top1").log10_c
        for rule in ("loss", "metric")
    }
    assert chosen["loss"] != chosen["metric"]
    assert fit_probe(train, val, num_classes=3, recipe=ProbeRecipe(), metric="top1").log10_c == chosen["loss"]


def test_fit_probe__equals_go_to_the_lower_loss_and_the_edge_is_said() -> None:
    easy_train, easy_val = _features(90, seed=1, spread=0.01), _features(30, seed=2, spread=0.01)
    by_metric = RECIPE.model_copy(update={"select_by": "metric"})
    probe = fit_probe(easy_train, easy_val, num_classes=3, recipe=by_metric, metric="top1")
    assert probe.candidates["val_metric"].to_list()[-2:] == [1.0, 1.0]
    assert probe.candidates.filter("chosen")["val_loss"].item() == probe.candidates["val_loss"].min()
    assert probe.log10_c == 2.0
    assert probe.at_grid_edge


def test_fit_probe__has_no_way_in_for_the_test_part() -> None:
    assert [name for name in inspect.signature(fit_probe).parameters if name.endswith("_xy")] == ["train_xy", "val_xy"]


def test_fit_probe__val_does_not_touch_the_weights() -> None:
    other_val = _features(60, seed=5)
    first, second = (fit_probe(TRAIN, v, num_classes=3, recipe=ONE_POINT, metric="top1") for v in (VAL, other_val))
    np.testing.assert_array_equal(first.weight_kd, second.weight_kd)


def test_fit_probe__a_class_without_train_images_is_never_predicted() -> None:
    train = (TRAIN[0][TRAIN[1] != 1], TRAIN[1][TRAIN[1] != 1])
    probe = fit_probe(train, VAL, num_classes=4, recipe=RECIPE, metric="top1")
    logits_nk = VAL[0] @ probe.weight_kd.T + probe.bias_k
    assert logits_nk.shape == (60, 4)
    assert np.isfinite(logits_nk).all()
    assert set(logits_nk.argmax(axis=1)) <= {0, 2}
    gap_n = logits_nk[:, [0, 2]].mean(axis=1) - logits_nk[:, 1]
    np.testing.assert_allclose(gap_n, np.log(len(train[1]) + 1), rtol=1e-2)


def test_fit_probe__a_constant_feature_does_no_harm() -> None:
    train, val = ((np.pad(x, ((0, 0), (0, 1)), constant_values=3.0), y) for x, y in (TRAIN, VAL))
    probe = fit_probe(train, val, num_classes=3, recipe=RECIPE, metric="top1")
    assert np.isfinite(probe.weight_kd).all()


def test_fit_probe__a_nearly_constant_feature_weighs_no_more_than_the_others() -> None:
    """One stray activation of such a feature outweighed all others (docs/log.md)."""
    like_nd = TRAIN[0] / TRAIN[0].std(axis=0)
    like_nd[:, 0] *= 1e-4
    probe = fit_probe((like_nd, TRAIN[1]), (like_nd, TRAIN[1]), num_classes=3, recipe=ONE_POINT, metric="top1")
    weight_d = abs(probe.weight_kd).max(axis=0)
    assert weight_d[0] < weight_d[1:].max()


def test_fit_probe__says_when_the_solver_stopped_short() -> None:
    short = RECIPE.model_copy(update={"max_iterations": 1})
    assert not fit_probe(TRAIN, VAL, num_classes=3, recipe=short, metric="top1").candidates["converged"].all()
    assert fit_probe(TRAIN, VAL, num_classes=3, recipe=RECIPE, metric="top1").candidates["converged"].all()


def test_fit_probe__chooses_the_part_of_the_features_on_val_together_with_c() -> None:
    """Noise of the same scale in the second half; the head is zero there and scores as its row says."""
    parts = [(np.hstack([x, np.random.default_rng(len(x)).normal(size=x.shape)]), y) for x, y in (TRAIN, VAL)]
    train, val = ((x.astype(np.float32), y) for x, y in parts)
    slices: dict[FeatureChoice, slice] = {"cls": slice(0, 6), "mean": slice(6, 12), "whole": slice(0, 12)}
    probe = fit_probe(train, val, num_classes=3, recipe=RECIPE, metric="top1", slices=slices)
    table = probe.candidates
    assert table.select("features", "log10_c").rows() == [(c, at) for c in slices for at in RECIPE.log10_c_grid]
    chosen = table.filter("chosen").row(0, named=True)
    assert (chosen["features"], chosen["val_loss"]) == ("cls", table["val_loss"].min())
    assert probe.columns == slices["cls"]
    assert not probe.weight_kd[:, 6:].any()
    alone = fit_probe((train[0][:, :6], train[1]), (val[0][:, :6], val[1]), num_classes=3, recipe=RECIPE, metric="top1")
    np.testing.assert_allclose(probe.weight_kd[:, :6], alone.weight_kd)
    assert cross_entropy(val[0] @ probe.weight_kd.T + probe.bias_k, val[1]) == pytest.approx(chosen["val_loss"], 1e-4)


def test_fit_probe__of_equal_parts_the_first_is_taken() -> None:
    slices: dict[FeatureChoice, slice] = {"mean": slice(0, 6), "cls": slice(0, 6)}
    probe = fit_probe(TRAIN, VAL, num_classes=3, recipe=ONE_POINT, metric="top1", slices=slices)
    assert probe.candidates.filter("chosen")["features"].item() == "mean"


@pytest.mark.parametrize("scaling", ["l2", "none"])
def test_fit_probe__scaling_is_that_of_scikit_learns_pipeline(scaling: Literal["l2", "none"]) -> None:
    scales_d = 10.0 ** -np.arange(-2.0, 4.0)
    train, val = (((x * scales_d).astype(np.float32), y) for x, y in (TRAIN, VAL))
    recipe = ONE_POINT.model_copy(update={"scaling": scaling, "log10_c_min": 1, "log10_c_max": 1})
    probe = fit_probe(train, val, num_classes=3, recipe=recipe, metric="top1")
    steps = [Normalizer()] if scaling == "l2" else []
    model = make_pipeline(*steps, LogisticRegression(C=10.0, tol=1e-8, max_iter=5000)).fit(*train)
    inputs_nd = normalize(val[0]) if probe.unit else val[0]
    ours = np.exp(log_softmax(inputs_nd @ probe.weight_kd.T + probe.bias_k))
    np.testing.assert_allclose(ours, model.predict_proba(val[0]), atol=3e-3)


def test_fit_probe__refuses_unusable_input() -> None:
    broken = TRAIN[0].copy()
    broken[4, 2] = np.nan
    cases: list[tuple[LabelledFeatures, LabelledFeatures, str]] = [
        ((broken, TRAIN[1]), VAL, "train: 1 rows hold NaN or infinity, the first is row 4"),
        ((TRAIN[0], TRAIN[1][:-1]), VAL, "one row of 6 features is needed per label"),
        (TRAIN, (VAL[0][:, :5], VAL[1]), r"val: features \(60, 5\)"),
        (TRAIN, (VAL[0][:0], VAL[1][:0]), "val: features"),
        ((TRAIN[0], TRAIN[1] + 1), VAL, "labels run from 1 to 3, classes from 0 to 2"),
        ((TRAIN[0], np.zeros_like(TRAIN[1])), VAL, "all 150 images are of class 0"),
    ]
    for train, val, said in cases:
        with pytest.raises(ProbeError, match=said):
            fit_probe(train, val, num_classes=3, recipe=RECIPE, metric="top1")
