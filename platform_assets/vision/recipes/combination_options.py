"""Soups and ensembles before anything is computed: which variants go together, and the resolved trial they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from platform_assets.vision.recipes.backbones import known_now
from platform_assets.vision.recipes.modes import COMBINATION_MODES, DEFAULT_RECIPES
from platform_assets.vision.recipes.resolving import Member, Protocol, ResolvedTrial, resolve_preprocessing
from platform_assets.vision.recipes.variants import Variant

if TYPE_CHECKING:
    from platform_assets.vision.recipes.modes import Mode
    from platform_assets.vision.recipes.preprocessing import Preprocessing

Trials = Mapping[str, tuple[str, int]]
"""Partition key to variant name and seed."""

# Weights of heads alone are solved anew for every trial; their mean is no head.
SOUP_MODES: tuple[Mode, ...] = ("scratch", "finetune")
_INSIDE_THE_NETWORK = ("mean", "std")
_NEUTRAL = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class MembersDoNotFit(ValueError):
    """Trials that cannot be one soup or one ensemble."""


def members_of(variant: Variant, trials: Trials) -> tuple[str, ...]:
    """The partition keys of every seed of the variants that a combination names, in their order."""
    return tuple(sorted(key for key, (name, _) in trials.items() if name in variant.of))


def require_combinations_fit(variants: Mapping[str, Variant], trials: Trials, protocol: Protocol) -> None:
    """Raises MembersDoNotFit, before anything is trained, for what YAML alone shows."""
    for name, variant in variants.items():
        if variant.mode not in COMBINATION_MODES:
            continue
        _require_single_trials(name, variant, variants)
        if protocol.resample or protocol.folds is not None:
            raise MembersDoNotFit(
                f"variants.{name}: with resample or folds the val images of one seed are train images of another, and "
                "nothing could be judged; remove the combination, or resample and folds"
            )
        if len(keys := members_of(variant, trials)) < 2:
            raise MembersDoNotFit(
                f"variants.{name}.of: {', '.join(keys)} is one trial alone; name another variant or give it more seeds"
            )
        if variant.mode == "soup":
            _require_one_backbone(name, variant, variants)
        _require_known_pixels_alike(name, variant, variants, protocol)


def _require_single_trials(name: str, variant: Variant, variants: Mapping[str, Variant]) -> None:
    for other in variant.of:
        if other not in variants:
            raise MembersDoNotFit(f"variants.{name}.of: {other!r} is no variant; name of {', '.join(variants)}")
        if variants[other].mode in COMBINATION_MODES:
            raise MembersDoNotFit(f"variants.{name}.of: {other!r} is itself a combination; name its members")


def _require_one_backbone(name: str, variant: Variant, variants: Mapping[str, Variant]) -> None:
    first = variant.of[0]
    for other in variant.of:
        mode, backbone = variants[other].mode, variants[other].backbone
        if mode not in SOUP_MODES:
            raise MembersDoNotFit(
                f"variants.{name}.of: {other!r} is of mode {mode!r}, and a soup averages networks "
                f"({', '.join(SOUP_MODES)}); use mode ensemble"
            )
        if backbone != variants[first].backbone:
            raise MembersDoNotFit(
                f"variants.{name}.of: {first!r} has backbone {variants[first].backbone!r} and {other!r} {backbone!r}; "
                "a soup averages one architecture, use mode ensemble"
            )


def _require_known_pixels_alike(
    name: str, variant: Variant, variants: Mapping[str, Variant], protocol: Protocol
) -> None:
    """Of the backbones whose record needs no import of timm; the others are compared when their trials are resolved."""
    known = {other: variants[other] for other in variant.of if known_now(variants[other].backbone) is not None}
    if known:
        try:
            shared_pixels({other: resolve_preprocessing(member, protocol) for other, member in known.items()})
        except MembersDoNotFit as error:
            raise MembersDoNotFit(f"variants.{name}.of: {error}") from None


def resolve_combination(
    variant: Variant, *, name: str, seed: int, protocol: Protocol, members: Sequence[Member]
) -> ResolvedTrial:
    """The trial of a soup or ensemble, called `name`, of finished members. `seed` is the experiment's first one.

    Its config hash follows from what the members were asked to be and from the checkpoints that they became. Raises
    MembersDoNotFit, naming two, when they differ in architecture or pixels.
    """
    ordered = tuple(sorted(members, key=lambda member: member.trial.trial))
    trials = [member.trial for member in ordered]
    assert len(trials) > 1, f"variant {name!r} combines {len(trials)} trials"
    first, soup = trials[0], variant.mode == "soup"
    if soup:
        _require_one_architecture(name, trials)
    return ResolvedTrial(
        dataset=protocol.dataset,
        experiment=protocol.experiment,
        variant=name,
        seed=seed,
        metric=protocol.metric,
        label_map_checksum=protocol.label_map_checksum,
        backbone=first.backbone if soup else "",
        mode=variant.mode,
        pretrained_sha256=None,
        plugin_sha256=first.plugin_sha256 if soup else None,
        architecture=first.architecture if soup else None,
        preprocessing=shared_pixels({trial.trial: trial.preprocessing for trial in trials}),
        parts=first.parts if soup else None,
        members=ordered,
        combine=None if soup else variant.combine or "mean",
        **dict.fromkeys(DEFAULT_RECIPES),
    )


def _require_one_architecture(name: str, trials: Sequence[ResolvedTrial]) -> None:
    first = trials[0]
    for trial in trials[1:]:
        for fact in ("backbone", "architecture", "parts", "plugin_sha256", "preprocessing"):
            one, other = getattr(first, fact), getattr(trial, fact)
            if one != other:
                raise MembersDoNotFit(
                    f"soup {name!r}: {fact} of {first.trial} is {one!r} and of {trial.trial} {other!r}; a soup averages "
                    "one architecture on the same pixels, use mode ensemble"
                )


def shared_pixels(named: Mapping[str, Preprocessing]) -> Preprocessing:
    """The pixels that networks, by name, want alike; mean and std are inside each, and neutral here where they differ.

    Raises MembersDoNotFit, naming two that want other pixels.
    """
    (first, wanted), *others = named.items()
    ours = wanted.model_dump(exclude=set(_INSIDE_THE_NETWORK))
    for other, preprocessing in others:
        theirs = preprocessing.model_dump(exclude=set(_INSIDE_THE_NETWORK))
        if differing := [option for option in ours | theirs if ours.get(option) != theirs.get(option)]:
            said = ", ".join(f"{option} {ours.get(option)!r} and {theirs.get(option)!r}" for option in differing)
            raise MembersDoNotFit(
                f"{first} and {other} see different pixels ({said}), and an ensemble sees one picture; give both variants "
                "the same preprocessing, by `image_size_px` and `resize` or by backbones of one interpolation"
            )
    alike = all(preprocessing == wanted for preprocessing in named.values())
    return wanted if alike else wanted.model_copy(update=_NEUTRAL)
