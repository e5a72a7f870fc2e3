"""Trees walked in torch: LightGBM's own answer, row for row, and the same bytes every time."""

from __future__ import annotations

import sys
from typing import Any

import lightgbm
import numpy as np
import pytest
import torch

from platform_assets.vision.evaluation.scores import cross_entropy
from platform_assets.vision.heads.boosting import LightgbmNotInstalled, fit_trees
from platform_assets.vision.heads.modules import logits_of_features
from platform_assets.vision.heads.tree_head import TreeHead, UnreadableTrees
from platform_assets.vision.recipes.probe_options import LightgbmRecipe
from platform_tests.vision.heads.test_nearest import TRAIN, VAL

RECIPE = LightgbmRecipe(rounds=25, feature_share=1.0, learning_rate=0.3, l2=1.0)
QUIET = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "min_data_in_leaf": 2, "num_threads": 1}


def _booster(rounds: int = 8, **options: Any) -> lightgbm.Booster:
    parameters = {**QUIET, "use_missing": False, **options}
    return lightgbm.train(parameters, lightgbm.Dataset(TRAIN[0], label=TRAIN[1], params=parameters), rounds)


def _fit(recipe: LightgbmRecipe = RECIPE, **options: Any) -> Any:
    return fit_trees(TRAIN, VAL, recipe=recipe, **{"num_classes": 3, "metric": "top1", "seed": 0, **options})


@pytest.mark.parametrize("options", [{"num_leaves": 31}, {"num_leaves": 2}, {"min_data_in_leaf": 80}])
def test_tree_head__gives_lightgbms_scores(options: dict[str, int]) -> None:
    """Deep trees, stumps, and trees that are one leaf."""
    booster = _booster(**options)
    head = TreeHead.of_model_text(booster.model_to_string(), num_classes=3)
    wanted_nk = booster.predict(VAL[0], raw_score=True)
    np.testing.assert_allclose(logits_of_features(head, VAL[0]), wanted_nk, rtol=1e-5, atol=1e-5)
    assert head.steps == max((tree["tree_depth"] for tree in _depths(booster)), default=0)


def _depths(booster: lightgbm.Booster) -> list[dict[str, int]]:
    def depth(node: dict[str, Any]) -> int:
        return 1 + max(depth(node["left_child"]), depth(node["right_child"])) if "left_child" in node else 0

    return [{"tree_depth": depth(tree["tree_structure"])} for tree in booster.dump_model()["tree_info"]]


def test_tree_head__goes_left_at_the_threshold_itself_as_float32_sees_it() -> None:
    """Rounding a double threshold up would send the float32 just above it left."""
    booster = _booster()
    head = TreeHead.of_model_text(booster.model_to_string(), num_classes=3)
    # LightGBM reads everything up to 1e-35 as zero.
    inner = (head.node_left_n != torch.arange(len(head.node_left_n))) & (head.node_threshold_n.abs() > 1e-30)
    rows = []
    for feature, threshold in zip(head.node_feature_n[inner], head.node_threshold_n[inner].numpy(), strict=True):
        for value in (threshold, np.nextafter(threshold, np.float32(np.inf))):
            rows.append(VAL[0][0].copy())
            rows[-1][int(feature)] = value
    features_nd = np.stack(rows)
    np.testing.assert_allclose(
        logits_of_features(head, features_nd), booster.predict(features_nd, raw_score=True), rtol=1e-5, atol=1e-5
    )


def test_fit_trees__keeps_the_round_of_least_val_loss() -> None:
    fitted = _fit(RECIPE.model_copy(update={"rounds": 200, "patience_rounds": 5}))
    table, best = fitted.candidates, int(fitted.summary["rounds"])
    assert table.filter("chosen")["round"].to_list() == [best] == [table["val_loss"].arg_min() + 1]
    assert best + 5 == table.height < 200
    assert cross_entropy(logits_of_features(fitted.head, VAL[0]), VAL[1]) == pytest.approx(
        table["val_loss"].min(), 1e-5
    )


def test_fit_trees__same_input_same_bytes_and_the_seed_counts() -> None:
    recipe = RECIPE.model_copy(update={"feature_share": 0.5})
    first, again, other = (_fit(recipe, seed=seed).head.state_dict() for seed in (0, 0, 1))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_fit_trees__a_class_without_train_images_is_never_predicted() -> None:
    logits_nk = logits_of_features(_fit(num_classes=4).head, VAL[0])
    assert logits_nk.shape == (45, 4)
    assert set(logits_nk.argmax(axis=1)) <= {0, 1, 2}
    assert np.isfinite(cross_entropy(logits_nk, np.full(45, 3)))


def test_tree_head__refuses_trees_that_it_would_walk_wrongly() -> None:
    rows_nd = np.where(TRAIN[0] > 4, np.nan, TRAIN[0])
    missing = lightgbm.train({**QUIET}, lightgbm.Dataset(rows_nd, label=TRAIN[1], params=QUIET), 2)
    with pytest.raises(UnreadableTrees, match="a path for missing values"):
        TreeHead.of_model_text(missing.model_to_string(), num_classes=3)
    with pytest.raises(UnreadableTrees, match="24 trees are no whole rounds of 5 classes"):
        TreeHead.of_model_text(_booster().model_to_string(), num_classes=5)


def test_fit_trees__names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(LightgbmNotInstalled, match="install the extra 'lightgbm'"):
        _fit()
