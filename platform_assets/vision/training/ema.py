"""The exponential moving average of a classifier's weights, which is evaluated and kept in their place."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from platform_assets.vision.networks.models import Classifier


class WeightAverage:
    """average = decay * average + (1 - decay) * weights after every step; it starts as the weights after the first one.

    Buffers, batch norm's running statistics among them, are the classifier's own: they are averages already.
    """

    def __init__(self, classifier: Classifier, decay: float) -> None:
        update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._averaged = AveragedModel(classifier, multi_avg_fn=update)
        self._averaged.requires_grad_(False)

    @property
    def classifier(self) -> Classifier:
        return cast(Classifier, self._averaged.module)

    def update(self, classifier: Classifier) -> None:
        self._averaged.update_parameters(classifier)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return dict(self._averaged.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._averaged.load_state_dict(state)
