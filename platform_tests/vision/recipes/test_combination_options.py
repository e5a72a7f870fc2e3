"""What YAML may say of soups and ensembles, and the record that is hashed."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from platform_assets.vision.recipes.combination_options import (
    MembersDoNotFit,
    members_of,
    require_combinations_fit,
    resolve_combination,
    shared_pixels,
)
from platform_assets.vision.recipes.resolving import Member, Protocol, ResolvedTrial, resolve_trial, trial_key
from platform_assets.vision.recipes.variants import Variant

PROTOCOL = Protocol(dataset="cells", experiment="binary", metric="top1", label_map_checksum="ab" * 32)
CNN = Variant(backbone="baseline_cnn", mode="scratch")
LITE = Variant(backbone="tf_efficientnet_lite0", mode="finetune")
PROBE = Variant(backbone="tf_efficientnet_lite0", mode="linear_probe")
SOUP = Variant(mode="soup", of=("lite",))
BOTH = Variant(mode="ensemble", of=("probe", "lite"))


def member(variant: Variant, name: str, seed: int = 0, *, checkpoint: str = "00" * 8, **protocol: Any) -> Member:
    trial = resolve_trial(variant, name=name, seed=seed, protocol=PROTOCOL.model_copy(update=protocol))
    return Member(trial=trial, config_hash=trial.config_hash, checkpoint_id=checkpoint)


def resolved(variant: Variant, *members: Member) -> ResolvedTrial:
    return resolve_combination(variant, name="all", seed=0, protocol=PROTOCOL, members=members)


def fit(variants: dict[str, Variant], *, seeds: tuple[int, ...] = (0, 1), **protocol: Any) -> None:
    trials = {trial_key(name, seed): (name, seed) for name in variants for seed in variants[name].seeds or seeds}
    require_combinations_fit(variants, trials, PROTOCOL.model_copy(update=protocol))


@pytest.mark.parametrize(
    ("given_options", "said"),
    [
        ({"mode": "soup"}, "option 'of' is missing"),
        ({"mode": "soup", "of": ["a"], "backbone": "baseline_cnn"}, "option 'backbone' has no meaning in mode 'soup'"),
        ({"mode": "soup", "of": ["a"], "train": {}}, "option 'train' has no meaning"),
        ({"mode": "soup", "of": ["a"], "combine": "mean"}, "option 'combine' has no meaning in mode 'soup'"),
        ({"mode": "ensemble", "of": ["a"], "seeds": [1]}, "option 'seeds' has no meaning in mode 'ensemble'"),
        ({"mode": "ensemble", "of": ["a"], "image_size_px": 64}, "option 'image_size_px' has no meaning"),
        ({"mode": "ensemble", "of": ["a"], "combine": "median"}, "'mean', 'weighted' or 'vote'"),
        ({"mode": "ensemble", "of": ["a", "a"]}, "names one variant twice"),
        ({"mode": "scratch", "backbone": "baseline_cnn", "of": ["a"]}, "option 'of' is for mode 'soup' or 'ensemble'"),
        ({"mode": "scratch", "backbone": "baseline_cnn", "combine": "vote"}, "option 'combine' is for mode"),
    ],
)
def test_variant__says_its_members_and_how_they_combine_alone(given_options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Variant.model_validate(given_options)


def test_variant__a_combination_comes_back_from_its_dump() -> None:
    assert Variant.model_validate(BOTH.model_dump()) == BOTH


def test_members_of__are_all_seeds_in_one_order() -> None:
    trials = {"lite__s1": ("lite", 1), "probe__s0": ("probe", 0), "cnn__s0": ("cnn", 0), "lite__s0": ("lite", 0)}
    assert members_of(BOTH, trials) == ("lite__s0", "lite__s1", "probe__s0")


@pytest.mark.parametrize(
    ("variants", "options", "said"),
    [
        ({"lite": LITE, "all": BOTH}, {}, r"variants.all.of: 'probe' is no variant; name of lite, all"),
        ({"lite": LITE, "soup": SOUP, "more": Variant(mode="ensemble", of=("soup",))}, {}, "itself a combination"),
        ({"lite": LITE, "soup": SOUP}, {"seeds": (0,)}, "lite__s0 is one trial alone"),
        ({"lite": LITE, "soup": SOUP}, {"resample": True}, "val images of one seed are train images"),
        ({"lite": LITE, "soup": SOUP}, {"folds": 3}, "val images of one seed are train images"),
        (
            {"cnn": CNN, "lite": LITE, "all": Variant(mode="ensemble", of=("cnn", "lite"))},
            {"image_size_px": 64},
            r"variants.all.of: cnn and lite see different pixels \(interpolation 'bilinear' and 'bicubic'\)",
        ),
        ({"lite": PROBE, "soup": SOUP}, {}, "mode 'linear_probe', and a soup averages networks"),
        (
            {"lite": LITE, "cnn": CNN, "soup": Variant(mode="soup", of=("lite", "cnn"))},
            {},
            "'lite' has backbone 'tf_efficientnet_lite0' and 'cnn' 'baseline_cnn'",
        ),
    ],
)
def test_require_combinations_fit__names_what_does_not(
    variants: dict[str, Variant], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(MembersDoNotFit, match=said):
        fit(variants, **options)


def test_require_combinations_fit__what_fits() -> None:
    fit({"lite": LITE, "probe": PROBE, "soup": SOUP, "all": BOTH})
    fit({"lite": LITE}, resample=True)


def test_config_hash__follows_from_the_members_and_not_from_their_order() -> None:
    one, two = member(LITE, "lite"), member(PROBE, "probe")
    trial = resolved(BOTH, one, two)
    assert trial.config_hash == resolved(BOTH, two, one).config_hash
    assert trial.backbone == ""
    assert trial.networks == (one.trial, two.trial)
    others = [
        resolved(BOTH, one, member(PROBE, "probe", checkpoint="11" * 8)),
        resolved(BOTH, one, member(PROBE, "probe", seed=1)),
        resolved(BOTH.model_copy(update={"combine": "vote"}), one, two),
    ]
    assert len({trial.config_hash, *(other.config_hash for other in others)}) == 4


def test_resolved_trial__comes_back_from_the_json_that_is_hashed() -> None:
    for trial in (
        resolved(BOTH, member(LITE, "lite"), member(PROBE, "probe")),
        resolved(SOUP, member(LITE, "lite"), member(LITE, "lite", 1)),
    ):
        assert ResolvedTrial.model_validate_json(trial.canonical_json()) == trial


def test_resolved_trial__a_plain_one_is_written_without_members() -> None:
    trial = member(LITE, "lite").trial
    assert "members" not in trial.canonical_json()
    assert trial.networks == (trial,)


def test_resolved_trial__needs_members_and_takes_none_elsewhere() -> None:
    whole = resolved(BOTH, member(LITE, "lite"), member(PROBE, "probe")).model_dump(mode="json")
    with pytest.raises(ValidationError, match="mode 'ensemble' is resolved with the recipe 'members' alone, not with"):
        ResolvedTrial.model_validate({**whole, "members": []})
    with pytest.raises(ValidationError, match="has no backbone of its own"):
        ResolvedTrial.model_validate({**whole, "backbone": "baseline_cnn"})
    with pytest.raises(ValidationError, match="every other mode has one"):
        ResolvedTrial.model_validate({**member(LITE, "lite").trial.model_dump(mode="json"), "backbone": ""})


def test_resolve_combination__a_soup_is_of_its_members_network() -> None:
    trial = resolved(SOUP, member(LITE, "lite"), member(LITE, "lite", 1))
    assert (trial.backbone, trial.preprocessing) == (LITE.backbone, member(LITE, "lite").trial.preprocessing)


def test_resolve_combination__refuses_other_pixels_and_names_the_two() -> None:
    small = member(PROBE.model_copy(update={"image_size_px": 64}), "probe")
    with pytest.raises(
        MembersDoNotFit, match=r"lite__s0 and probe__s0 see different pixels \(image_size_px 224 and 64\)"
    ):
        resolved(BOTH, member(LITE, "lite"), small)
    with pytest.raises(MembersDoNotFit, match=r"preprocessing of big__s0 .* and of lite__s0"):
        resolved(SOUP, member(LITE, "lite"), member(LITE.model_copy(update={"image_size_px": 64}), "big"))


def test_shared_pixels__mean_and_std_are_the_members_own() -> None:
    imagenet = member(CNN, "cnn").trial.preprocessing
    half = imagenet.model_copy(update={"mean": (0.4, 0.4, 0.4)})
    assert shared_pixels({"a": imagenet, "b": imagenet}) == imagenet
    neutral = shared_pixels({"a": imagenet, "b": half})
    assert (neutral.mean, neutral.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert neutral.image_size_px == imagenet.image_size_px
