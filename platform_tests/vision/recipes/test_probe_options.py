"""Options of heads on frozen features: what a variant may ask for, and where the parts of a vector lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from platform_assets.vision.recipes.modes import FROZEN_MODES, RECIPE_OF_MODE
from platform_assets.vision.recipes.probe_options import FEATURE_CHOICES, KnnRecipe, ProbeRecipe, columns_of
from platform_assets.vision.recipes.resolving import ResolvedTrial, resolve_trial
from platform_assets.vision.recipes.variants import Variant
from platform_tests.vision.shapes import PROTOCOL

LITE0 = {"backbone": "tf_efficientnet_lite0"}
DINOV2 = {"points": 45, "log10_c_min": -6, "log10_c_max": 5}


def test_probe_recipe__has_dinov2s_grid() -> None:
    grid = np.array(ProbeRecipe.model_validate(DINOV2).log10_c_grid)
    np.testing.assert_allclose(10**grid, np.logspace(-6, 5, 45))


def _read(features: Any, *, token: int, pooled: int, stages: int) -> dict[str, str]:
    """What each part reads of a vector whose features are marked by a letter."""
    letters = {
        "stages": "s" * stages + "p" * pooled,
        "cls_mean": "d" * token + "m" * token,
        "tokens": "".join(letter * token for letter in "abcdm"),
    }.get(features, "x" * pooled)
    found = {
        choice: letters[columns_of(choice, features, width=len(letters), pooled_width=pooled)]
        for choice in FEATURE_CHOICES[features]
    }
    assert found.pop("whole") == letters
    return found


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_columns_of__are_the_parts_in_the_order_of_the_vector(token: int, pooled: int, stages: int) -> None:
    sizes = {"token": token, "pooled": pooled, "stages": stages}
    assert _read("pooled", **sizes) == {}
    assert _read("stages", **sizes) == {"pooled": "p" * pooled, "stages": "s" * stages}
    assert _read("cls_mean", **sizes) == {"cls": "d" * token, "mean": "m" * token}
    assert _read("tokens", **sizes) == {
        "cls_1": "d" * token,
        "mean": "m" * token,
        "cls_1_mean": "d" * token + "m" * token,
        "cls_4": "".join(letter * token for letter in "abcd"),
    }


def test_choices_of__come_in_their_own_order_and_unknown_ones_are_refused() -> None:
    assert ProbeRecipe(feature_choices=("whole", "cls_4", "mean")).choices_of("tokens") == ("mean", "cls_4", "whole")
    assert KnnRecipe().choices_of("stages") == ("pooled", "stages", "whole")
    assert ProbeRecipe().choices_of("stages") == ("whole",)
    with pytest.raises(ValidationError, match="'cls_4' is no part of features 'stages'; use of pooled, stages, whole"):
        Variant.model_validate(
            {**LITE0, "mode": "linear_probe", "features": "stages", "probe": {"feature_choices": ["cls_4"]}}
        )
    with pytest.raises(ValidationError, match="feature_choices"):
        ProbeRecipe(feature_choices=())


def test_knn_recipe__k_ascends_without_repeats() -> None:
    assert KnnRecipe(k=(20, 5, 20)).k == (5, 20)
    for wrong in ((), (0,)):
        with pytest.raises(ValidationError, match="k"):
            KnnRecipe(k=wrong)


@pytest.mark.parametrize("mode", FROZEN_MODES)
def test_frozen_modes__take_their_own_recipe_and_features(mode: Any) -> None:
    variant = Variant.model_validate({**LITE0, "mode": mode, "features": "stages"})
    trial = resolve_trial(variant, name="v", seed=0, protocol=PROTOCOL)
    assert getattr(trial, RECIPE_OF_MODE[mode]) is not None
    assert ResolvedTrial.model_validate_json(trial.canonical_json()) == trial
    for other in {*RECIPE_OF_MODE.values()} - {RECIPE_OF_MODE[mode]}:
        with pytest.raises(ValidationError, match=f"option {other!r} has no meaning in mode {mode!r}"):
            Variant.model_validate({**LITE0, "mode": mode, other: {}})


def test_config_hash__of_a_head_counts_its_options() -> None:
    variants = [{"knn": {"k": [3]}}, {"knn": {"k": [5]}}, {"knn": {"temperature": 0.1}}, {}]
    hashes = {
        resolve_trial(
            Variant.model_validate({**LITE0, "mode": "knn", **options}), name="v", seed=0, protocol=PROTOCOL
        ).config_hash
        for options in variants
    }
    assert len(hashes) == 4
