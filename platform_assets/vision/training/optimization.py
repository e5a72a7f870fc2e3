"""Which parameters move, how fast and by which rule: layers, parameter groups, the rate of a step, what is frozen."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from platform_assets.vision.recipes.train_options import DoesNotTrain

if TYPE_CHECKING:
    from platform_assets.vision.networks.models import Classifier
    from platform_assets.vision.recipes.train_options import OptimizerOptions

# One-cycle as torch's OneCycleLR has it by default: share of the steps that rise, peak / first rate, first / last rate.
_RISING_SHARE, _PEAK_TO_FIRST, _FIRST_TO_LAST = 0.3, 25.0, 1e4
# Names of position embeddings and of class and register tokens, in modules that do not list them in no_weight_decay().
_EMBEDDING_NAME = re.compile(r"(^|_)(pos|position|positional|cls|class|reg|register|dist|mask)_?(embed|token)")


class TooManyFrozenLayers(DoesNotTrain):
    """`frozen_layers` is more than the backbone has."""


def layers_of(backbone: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of the backbone, layer by layer from the stem up, each once.

    A module with timm's `group_matcher` says itself what its layers are (timm's models do; a plug-in may). Of any other
    module they are its own parameters, then its children in order, where a Sequential or ModuleList of blocks counts
    block by block.
    """
    seen: set[int] = set()
    layers = []
    for parameters in _layers(backbone):
        fresh = [parameter for parameter in parameters if id(parameter) not in seen]
        seen.update(map(id, fresh))
        if fresh:
            layers.append(fresh)
    return layers


def _layers(module: nn.Module) -> Iterator[list[nn.Parameter]]:
    matcher = getattr(module, "group_matcher", None)
    if callable(matcher):
        from timm.models import group_parameters

        groups = group_parameters(module, matcher(coarse=False), return_values=True)
        yield from (groups[layer] for layer in sorted(groups))
        return
    own = list(module.parameters(recurse=False))
    yield own
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    for child in children:
        only_wrapped = len(children) == 1 and not own
        if only_wrapped or hasattr(child, "group_matcher") or _is_list_of_blocks(child):
            yield from _layers(child)
        else:
            yield list(child.parameters())


def _is_list_of_blocks(module: nn.Module) -> bool:
    """A chain of composite modules, unlike the convolution, norm and activation of a stem."""
    is_list = isinstance(module, nn.Sequential | nn.ModuleList)
    return is_list and any(any(True for _ in block.children()) for block in module.children())


def parameter_groups(classifier: Classifier, options: OptimizerOptions) -> list[dict[str, Any]]:
    """Every parameter in one group: `params`, `weight_decay` and `rate_share`, its rate / that of the head.

    From the stem up, the head last; in each layer first what decays. Layers of the backbone are told apart under
    `layer_decay` only: the n-th below the head has the share layer_decay ** n.
    """
    exempt = _exempt_from_decay(classifier)
    backbone = {id(parameter) for parameter in classifier.backbone.parameters()}
    above = [parameter for parameter in classifier.parameters() if id(parameter) not in backbone]
    groups: list[dict[str, Any]] = []
    for parameters, rate_share in [*_shares(classifier.backbone, options), (above, 1.0)]:
        decayed = [parameter for parameter in parameters if id(parameter) not in exempt]
        others = [parameter for parameter in parameters if id(parameter) in exempt]
        for members, weight_decay in ((decayed, options.weight_decay), (others, 0.0)):
            if members:
                groups.append({"params": members, "weight_decay": weight_decay, "rate_share": rate_share})
    return groups


def _shares(backbone: nn.Module, options: OptimizerOptions) -> list[tuple[list[nn.Parameter], float]]:
    if options.layer_decay is None:
        return [(list(backbone.parameters()), options.backbone_learning_rate_factor)]
    layers = layers_of(backbone)
    return [(layer, options.layer_decay ** (len(layers) - below)) for below, layer in enumerate(layers)]


def _exempt_from_decay(classifier: nn.Module) -> set[int]:
    """Ids of vectors, biases, norms, embeddings and tokens, and of what a module lists in `no_weight_decay()`."""
    exempt: set[int] = set()
    for module in classifier.modules():
        all_exempt = isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.Embedding)
        for name, parameter in module.named_parameters(recurse=False):
            is_bias = name == "bias" or name.endswith("_bias")
            if all_exempt or parameter.ndim <= 1 or is_bias or _EMBEDDING_NAME.search(name):
                exempt.add(id(parameter))
        listed = getattr(module, "no_weight_decay", None)
        if callable(listed):
            exempt |= _ids_matching(module, listed())
    return exempt


def _ids_matching(module: nn.Module, patterns: Iterable[str]) -> set[int]:
    joined = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or "(?!)")
    return {id(parameter) for name, parameter in module.named_parameters() if joined.match(name)}


def make_optimizer(classifier: Classifier, options: OptimizerOptions) -> torch.optim.Optimizer:
    """The optimizer over `parameter_groups`, each at its full rate; a step at a lower one sets the groups' `lr`.

    adamw: Loshchilov and Hutter 2019, arXiv 1711.05101. lion: Chen et al. 2023, arXiv 2302.06675; it steps by the sign
    alone, so it wants a `learning_rate` 3 to 10 times lower than adamw and a `weight_decay` higher by as much. sgd has
    Nesterov's momentum; its weight decay is part of the gradient, so it wants 1e-4 or so.

    Frozen parameters are in it too and stay as they are as long as their gradient is None.
    """
    groups = [
        group | {"lr": options.learning_rate * group["rate_share"]} for group in parameter_groups(classifier, options)
    ]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.learning_rate)
    if options.optimizer == "sgd":
        momentum = options.momentum
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=momentum, nesterov=momentum > 0)
    from timm.optim import Lion

    lion: torch.optim.Optimizer = Lion(groups, lr=options.learning_rate)
    return lion


def rate_factor(step: int, *, total_steps: int, epoch_steps: int, options: OptimizerOptions) -> float:
    """Share of the base rate at a step counted from 0: linear up to 1 in `warmup_epochs`, then by the schedule.

    The warm-up takes half of the steps at most. cosine is half a cosine and linear a line down towards 0 at
    `total_steps`. step multiplies by `step_factor` at every `step_epochs`-th epoch of the training, counted from its
    start. one_cycle (Smith and Topin 2018, arXiv 1708.07120) rises and falls by itself: `warmup_epochs` is not used
    with it, and momentum is left alone.
    """
    if options.schedule == "one_cycle":
        return _one_cycle(step, total_steps)
    warmup_steps = min(round(options.warmup_epochs * epoch_steps), total_steps // 2)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if options.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if options.schedule == "linear":
        return 1 - done
    if options.schedule == "step":
        return float(options.step_factor ** (step // epoch_steps // options.step_epochs))
    return 1.0


def _one_cycle(step: int, total_steps: int) -> float:
    first, last = 1 / _PEAK_TO_FIRST, 1 / _PEAK_TO_FIRST / _FIRST_TO_LAST
    peak_step, last_step = _RISING_SHARE * total_steps - 1, total_steps - 1
    if step <= peak_step:
        return _half_cosine(first, 1.0, step / peak_step)
    return _half_cosine(1.0, last, (step - peak_step) / (last_step - peak_step))


def _half_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


def trainable(classifier: Classifier) -> frozenset[int]:
    """The ids of the parameters that ask for a gradient: all but those that the author of a network has frozen."""
    return frozenset(id(parameter) for parameter in classifier.parameters() if parameter.requires_grad)


def freeze(classifier: Classifier, options: OptimizerOptions, epoch: int, trainable: frozenset[int]) -> None:
    """Freeze what `epoch`, counted from 1, does not train, and train every other one of the `trainable` parameters.

    Norms of frozen layers are put in evaluation mode, so that their running statistics stay; call it after
    `classifier.train()`. Raises TooManyFrozenLayers.
    """
    layers = layers_of(classifier.backbone)
    if options.frozen_layers > len(layers):
        raise TooManyFrozenLayers(
            f"frozen_layers {options.frozen_layers}: backbone {classifier.backbone_name!r} has {len(layers)} layers; "
            f"choose 0 to {len(layers)}"
        )
    frozen_layers = layers if epoch <= options.freeze_backbone_epochs else layers[: options.frozen_layers]
    trained = trainable - {id(parameter) for layer in frozen_layers for parameter in layer}
    for parameter in classifier.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    frozen = {id(parameter) for parameter in classifier.parameters()} - trained
    _stop_statistics(classifier.backbone, frozen)


def _stop_statistics(module: nn.Module, frozen: set[int], around: bool = False) -> None:
    """Evaluation mode for norms whose parameters are frozen; one without any goes by the module around it (`around`)."""
    own = [id(parameter) in frozen for parameter in module.parameters()]
    is_frozen = all(own) if own else around
    if is_frozen and getattr(module, "running_var", None) is not None:
        module.eval()
    for child in module.children():
        _stop_statistics(child, frozen, is_frozen)
