"""How the network computes while it trains: stochastic depth, recomputed activations, deterministic kernels, compilation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from platform_assets.vision.machine.allocator import freed_memory_kept
from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.recipes.train_options import DoesNotTrain, TrainRecipe


class NotOfThisBackbone(DoesNotTrain):
    """A recipe asks for something that its backbone does not offer."""


@contextmanager
def prepared(classifier: Classifier, recipe: TrainRecipe) -> Iterator[None]:
    """The classifier as `recipe` trains it; afterwards it and torch's settings are as before.

    Raises NotOfThisBackbone. Parameters and the names in the state dict are never touched.
    """
    with ExitStack() as stack:
        stack.enter_context(_same_parameters_trained(classifier))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if next(classifier.parameters()).device.type == "cpu":
            stack.enter_context(freed_memory_kept())
        if recipe.drop_path:
            stack.enter_context(_stochastic_depth(classifier, recipe.drop_path))
        if recipe.gradient_checkpointing:
            stack.enter_context(_recomputed_activations(classifier))
        if recipe.deterministic:
            stack.enter_context(_deterministic_algorithms())
        yield


def compiled(forward: Callable[..., Any], recipe: TrainRecipe) -> Callable[..., Any]:
    """`forward`, by torch.compile where the recipe says so; the module behind it stays as it is."""
    return torch.compile(forward) if recipe.compile else forward


@contextmanager
def _same_parameters_trained(classifier: Classifier) -> Iterator[None]:
    """What a training freezes is not frozen for whoever uses the classifier next."""
    before = [(parameter, parameter.requires_grad) for parameter in classifier.parameters()]
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


@contextmanager
def _stochastic_depth(classifier: Classifier, rate: float) -> Iterator[None]:
    """Residual branches dropped per image, from probability 0 in the first block to `rate` in the last (arXiv 1603.09382).

    timm leaves a placeholder, named drop_path or the like, where a network built without it would have it.
    """
    from timm.layers import DropPath

    blocks = [(block, names) for block in classifier.backbone.modules() if (names := _drop_path_places(block))]
    if not blocks:
        raise NotOfThisBackbone(
            f"backbone {classifier.backbone_name!r} has no residual branches that drop_path could drop; remove drop_path"
        )
    before = [(block, name, getattr(block, name)) for block, names in blocks for name in names]
    for number, (block, names) in enumerate(blocks):
        for name in names:
            setattr(block, name, DropPath(rate * number / max(1, len(blocks) - 1)))
    try:
        yield
    finally:
        for block, name, place in before:
            setattr(block, name, place)


def _drop_path_places(block: nn.Module) -> list[str]:
    """Names of a block's drop paths: children, or plain None as timm's ResNets have it."""
    from timm.layers import DropPath

    places = [
        name
        for name, child in block.named_children()
        if name.startswith("drop_path") and isinstance(child, nn.Identity | DropPath)
    ]
    if not places and getattr(block, "drop_path", "") is None:
        places = ["drop_path"]
    return places


@contextmanager
def _recomputed_activations(classifier: Classifier) -> Iterator[None]:
    """Activations are computed again in the backward pass instead of kept (Chen et al. 2016, arXiv 1604.06174)."""
    backbone: Any = classifier.backbone
    try:
        backbone.set_grad_checkpointing(True)
    # Some networks of timm have the method, and it asserts that nobody calls it.
    except (AttributeError, AssertionError):
        raise NotOfThisBackbone(
            f"backbone {classifier.backbone_name!r} cannot recompute its activations; remove gradient_checkpointing"
        ) from None
    try:
        yield
    finally:
        backbone.set_grad_checkpointing(False)


@contextmanager
def _deterministic_algorithms() -> Iterator[None]:
    """torch refuses kernels whose result may vary from run to run."""
    # cuBLAS asks for this in its first call; it is read nowhere else.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    before, only_warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warned)
