"""Searches as YAML gives them: every value is checked by its option, and the best ones make a variant."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from platform_assets.vision.recipes.resolving import ProbeRecipe
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.recipes.tuning_options import (
    Choices,
    Range,
    Tune,
    best_parameters,
    best_table,
    require_tunes_fit,
    with_best,
)
from platform_assets.vision.recipes.variants import Variant

CNN = Variant(backbone="baseline_cnn", mode="scratch")
PROBE = Variant(backbone="tf_efficientnet_lite0", mode="linear_probe")
RATE = {"train.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}


def search(space: dict[str, Any], **more: Any) -> Tune:
    return Tune.model_validate({"variant": "cnn", "space": space, "trials": 3, **more})


def test_tune__values_have_the_type_of_their_option() -> None:
    # PyYAML reads 1e-5, without a dot, as text.
    text = """
    train.learning_rate: {low: 1e-5, high: 1e-2, log: true}
    train.epochs: {low: 5.0, high: 30, step: 5.0}
    train.clip_norm: {low: 1, high: 2}
    train.layer_decay: {choices: [null, 1, 0.75]}
    train.augmentation: {choices: [flip, crop_flip]}
    """
    found = search(yaml.safe_load(text))
    assert found.space == {
        "train.learning_rate": Range(low=1e-5, high=1e-2, log=True),
        "train.epochs": Range(low=5, high=30, step=5),
        "train.clip_norm": Range(low=1.0, high=2.0),
        "train.layer_decay": Choices(choices=(None, 1.0, 0.75)),
        "train.augmentation": Choices(choices=("flip", "crop_flip")),
    }
    kinds = {path: type(axis.low) for path, axis in found.space.items() if isinstance(axis, Range)}
    assert kinds == {"train.learning_rate": float, "train.epochs": int, "train.clip_norm": float}
    found.require_fits(CNN)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train.learning_rat": {"low": 1, "high": 2}}, r"train.learning_rat: no such option .* train.learning_rate"),
        ({"train": {"choices": [1, 2]}}, "space train: no such option"),
        ({"seeds": {"choices": [1, 2]}}, "space seeds: no such option"),
        ({"train.epochs": {"low": 0, "high": 4}}, "space train.epochs: 0 is refused: .* greater than or equal to 1"),
        ({"train.epochs": {"low": 1.5, "high": 4}}, "space train.epochs: 1.5 is refused: .*integer"),
        ({"train.epochs": {"low": 1, "high": 4, "step": 1.5}}, "space train.epochs: step 1.5 is not whole"),
        (
            {"train.augmentation": {"choices": ["flip", "flop"]}},
            "space train.augmentation: 'flop' is refused: .*dihedral",
        ),
        ({"train.augmentation": {"low": 1, "high": 2}}, "space train.augmentation: a range needs a number"),
        ({"train.compile": {"low": 0, "high": 1}}, "space train.compile: a range needs a number"),
        ({"train.epochs": {"low": 4, "high": 4}}, "low 4 is not below high 4"),
        ({"train.epochs": {"low": 1, "high": 10, "step": 2}}, "high 10 is not reached in steps of 2"),
        ({"train.weight_decay": {"low": 0, "high": 1, "log": True}}, "low 0 has no logarithm"),
        ({"train.epochs": {"low": 1, "high": 9, "log": True, "step": 2}}, "step 2 and log exclude each other"),
        ({"train.epochs": {"choices": [3]}}, "at least 2 items"),
        ({"train.epochs": {"choices": [3, 3.0]}}, "name one value twice"),
        ({"train.epochs": {"low": 1, "hi": 9}}, r"range.high\n  Field required"),
        ({"train.learning_rate": {"low": 1e-3, "high": float("inf")}}, "finite number"),
        ({}, "at least 1 item"),
    ],
)
def test_tune__refuses_with_the_path_and_the_value(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        search(space)


def test_tune__needs_an_end() -> None:
    with pytest.raises(ValidationError, match="has no end; set one of them or both"):
        search(RATE, trials=None)
    assert search(RATE, trials=None, minutes=5).minutes == 5


def test_require_fits__an_end_that_the_variant_refuses() -> None:
    with pytest.raises(ValueError, match=r"train.momentum: 0.5 is refused by variant 'cnn': .* without optimizer: sgd"):
        search({"train.momentum": {"low": 0.5, "high": 0.99}}).require_fits(CNN)
    short = Variant(backbone="baseline_cnn", mode="scratch", train=TrainRecipe(warmup_epochs=3))
    with pytest.raises(ValueError, match=r"train.epochs: 2 is refused .* longer than the 2 epochs"):
        search({"train.epochs": {"low": 2, "high": 9}}).require_fits(short)
    with pytest.raises(ValueError, match=r"probe.points: 5 is refused .*no meaning in mode 'scratch'"):
        search({"probe.points": {"low": 5, "high": 9}}).require_fits(CNN)


def test_require_fits__a_probe_has_neither_epochs_nor_other_vectors() -> None:
    space = {"probe.log10_c_max": {"low": -1.0, "high": 3.0}}
    search(space).require_fits(PROBE)
    search(space, pruner="none").require_fits(PROBE)
    with pytest.raises(ValueError, match="pruner 'median' has no meaning in mode 'linear_probe'"):
        search(space, pruner="median").require_fits(PROBE)
    sizes = {"image_size_px": {"choices": [160, 224]}}
    with pytest.raises(ValueError, match="image_size_px: mode 'linear_probe' would need vectors of every value"):
        search(sizes).require_fits(PROBE)
    search(sizes).require_fits(CNN)


def test_require_tunes_fit__names_the_search() -> None:
    require_tunes_fit({"rates": search(RATE)}, {"cnn": CNN}, resample=False)
    require_tunes_fit({}, {"cnn": CNN}, resample=True)
    with pytest.raises(ValueError, match="tune rates: 'cnn' is not a variant; name one of net, probe"):
        require_tunes_fit({"rates": search(RATE)}, {"net": CNN, "probe": PROBE}, resample=False)
    with pytest.raises(ValueError, match=r"tune rates: space train.learning_rate: 1e-05 is refused"):
        require_tunes_fit({"rates": search(RATE)}, {"cnn": PROBE}, resample=False)
    with pytest.raises(ValueError, match="would have seen the test; remove resample"):
        require_tunes_fit({"rates": search(RATE)}, {"cnn": CNN}, resample=True)


def test_with_best__changes_the_named_options_alone() -> None:
    base = Variant(backbone="baseline_cnn", mode="scratch", seeds=(1, 2), train=TrainRecipe(epochs=9, optimizer="sgd"))
    found = with_best(base, {"train.momentum": 0.5, "train.clip_norm": None, "image_size_px": 64})
    assert found.train == TrainRecipe(epochs=9, optimizer="sgd", momentum=0.5, clip_norm=None)
    assert found.train.model_fields_set == {"epochs", "optimizer", "momentum", "clip_norm"}
    assert (found.image_size_px, found.seeds) == (64, (1, 2))
    assert base.train == TrainRecipe(epochs=9, optimizer="sgd")
    assert with_best(PROBE, {"probe.points": 7}).probe == ProbeRecipe(points=7)
    assert with_best(base, {}) == base


def test_with_best__a_combination_that_the_recipe_refuses() -> None:
    with pytest.raises(ValidationError, match=r"warmup_epochs 3.0 is longer than the 2 epochs"):
        with_best(CNN, {"train.epochs": 2, "train.warmup_epochs": 3.0})


@given(
    st.dictionaries(
        st.from_regex(r"train\.[a-z_]{1,12}", fullmatch=True),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    )
)
def test_best_table__keeps_values_and_their_types(best: dict[str, Any]) -> None:
    found = best_parameters(best_table(best))
    assert found == best
    assert [type(value) for value in found.values()] == [type(value) for value in best.values()]


def test_fingerprint__is_of_what_decides_the_trials() -> None:
    plain = search(RATE)
    assert search(RATE, trials=99, minutes=5).fingerprint(CNN) == plain.fingerprint(CNN)
    others = [
        search(RATE, seed=1).fingerprint(CNN),
        search(RATE, sampler="random").fingerprint(CNN),
        search(RATE, pruner="none").fingerprint(CNN),
        search({**RATE, "train.epochs": {"low": 1, "high": 2}}).fingerprint(CNN),
        plain.fingerprint(with_best(CNN, {"train.epochs": 3})),
    ]
    assert len({plain.fingerprint(CNN), *others}) == 6
