"""Model soups: the weights of several trainings of one architecture, averaged as long as val agrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from platform_assets.vision.machine.devices import Device
from platform_assets.vision.networks.models import Classifier, place
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.batches import LabelledImages, epoch_batches
from platform_assets.vision.training.loop import weights_of

State = dict[str, torch.Tensor]
Renormalise = Callable[[State], State]
# Pictures as they are, in batches that are drawn with seed 0; cumulative means have settled long before the limit.
_STATISTICS_RECIPE = TrainRecipe(augmentation="none", batch_size=64)
_STATISTICS_BATCHES = 64


class NotOneArchitecture(ValueError):
    """Weights whose average is no network."""


class Judged(NamedTuple):
    """Figures on val. A higher metric is better, of equal ones the lower loss."""

    metric: float
    loss: float

    @property
    def rank(self) -> tuple[float, float]:
        return self.metric, -self.loss


class Soup(NamedTuple):
    """`steps` has one row per average that was judged: the members alone, each one added, all of them (uniform).

    Of one member alone `state` is its own, untouched.
    """

    state: State
    included: tuple[str, ...]
    judged: Judged
    alone: dict[str, Judged]
    uniform: Judged
    steps: pl.DataFrame


def greedy_soup(
    members: Mapping[str, State], score: Callable[[State], Judged], *, renormalise: Renormalise | None = None
) -> Soup:
    """Recipe 1 of Wortsman et al. 2022 (arXiv 2203.05482): from the best on, add each whose average is not worse.

    Equal metrics go by the loss, then by the name. `renormalise` gives an average new batch norm statistics. A member is
    looked up twice and not kept. Raises NotOneArchitecture.
    """
    everything, alone = _Total(), {}
    for name in sorted(members):
        state = members[name]
        everything.add(name, state)
        alone[name] = score(state)
    best, *others = best_first(alone)
    rows = [step_row("alone", name, 1, alone[name], taken=name == best) for name in (best, *others)]
    total = _Total().add(best, members[best])
    found, state = alone[best], total.mean()
    for name in others:
        tried_total = total.copy().add(name, members[name])
        tried_state = tried_total.mean(renormalise)
        tried = score(tried_state)
        taken = tried.rank >= found.rank
        rows.append(step_row("added", name, len(tried_total.names), tried, taken=taken))
        if taken:
            total, found, state = tried_total, tried, tried_state
    whole = len(total.names) == len(members)
    uniform = found if whole else score(everything.mean(renormalise))
    rows.append(step_row("uniform", "", len(members), uniform, taken=whole))
    return Soup(state, tuple(total.names), found, alone, uniform, pl.DataFrame(rows))


def best_first(alone: Mapping[str, Judged]) -> list[str]:
    return sorted(alone, key=lambda name: (-alone[name].metric, alone[name].loss, name))


def step_row(step: str, trial: str, members: int, judged: Judged, *, taken: bool) -> dict[str, Any]:
    """One row of a combination's history."""
    figures = {"val_metric": judged.metric, "val_loss": judged.loss}
    return {"step": step, "trial": trial, "members": members, **figures, "taken": taken}


class _Total:
    """The sum of states in float64, tensor by tensor. What is no floating-point number is the first one's."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._first: State = {}
        self._sums: State = {}

    def copy(self) -> _Total:
        copied = _Total()
        copied.names, copied._first, copied._sums = list(self.names), self._first, self._sums
        return copied

    def add(self, name: str, state: State) -> _Total:
        floats = {key: value.double() for key, value in state.items() if value.is_floating_point()}
        if not self.names:
            self._first, self._sums = state, floats
        else:
            _require_same_tensors(self.names[0], self._first, name, state)
            self._sums = {key: self._sums[key] + value for key, value in floats.items()}
        self.names.append(name)
        return self

    def mean(self, renormalise: Renormalise | None = None) -> State:
        if len(self.names) == 1:
            return self._first
        state = dict(self._first)
        for key, total in self._sums.items():
            state[key] = (total / len(self.names)).to(state[key].dtype)
        return renormalise(state) if renormalise else state


def _require_same_tensors(first: str, ours: State, name: str, theirs: State) -> None:
    for key in sorted(ours.keys() | theirs.keys()):
        one, other = (tuple(state[key].shape) if key in state else "missing" for state in (ours, theirs))
        if one != other:
            raise NotOneArchitecture(
                f"tensor {key} of {first} is {one} and of {name} {other}; average weights of one architecture"
            )


def has_batch_norms(network: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) and module.track_running_stats for module in network.modules())


def with_new_statistics(classifier: Classifier, state: State, part: LabelledImages, *, device: Device) -> State:
    """`state` with its batch norms' statistics estimated on `part`, up to 4096 images of it; `classifier` is used for it.

    Averaged statistics are not those of averaged weights (Izmailov et al. 2018, arXiv 1803.05407).
    """
    classifier.load_state_dict(state)
    batches = epoch_batches(part, recipe=_STATISTICS_RECIPE, seed=0, epoch=1, num_classes=classifier.num_classes)
    with closing(batches), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of dropout, which is on while statistics are collected
        images = (batch.images_bchw.to(device) for batch in islice(batches, _STATISTICS_BATCHES))
        update_bn(images, place(classifier, device))
    return weights_of(classifier)
