"""What the head of a classifier sees of each image, taken while it predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from platform_assets.vision.networks.ensembles import Ensemble
from platform_assets.vision.networks.inference import predict

if TYPE_CHECKING:
    import torch
    from torch import nn

    from platform_assets.vision.machine.devices import Device
    from platform_assets.vision.networks.models import Classifier


class _Inputs:
    """The rows of a head's input that are wanted, as it is called on batch after batch."""

    def __init__(self, wanted_n: NDArray[np.bool_]) -> None:
        self._wanted_n, self._seen = wanted_n, 0
        self._kept: list[NDArray[np.float32]] = []

    def __call__(self, head: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        rows = np.flatnonzero(self._wanted_n[self._seen : self._seen + len(given[0])])
        self._seen += len(given[0])
        self._kept.append(given[0][rows.tolist()].flatten(1).float().cpu().numpy())

    @property
    def features_md(self) -> NDArray[np.float32]:
        return np.concatenate(self._kept)


def predict_with_features(
    classifier: Classifier, images_nchw: NDArray[np.uint8], wanted_n: NDArray[np.bool_], *, device: Device = "cpu"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """logits_nk as `predict` gives them and, of the same pass, features_md of the m wanted images: the vector before the head.

    The head of an ensemble sees what its members say. Its vector is those before their heads, each of length one, side by side.
    """
    heads: list[Any] = [classifier.head]
    if isinstance(classifier, Ensemble):
        heads = [member.head for member in classifier.members.values()]
    inputs = [_Inputs(wanted_n) for _ in heads]
    hooks = [head.register_forward_pre_hook(each) for head, each in zip(heads, inputs, strict=True)]
    try:
        logits_nk = predict(classifier, images_nchw, device=device)
    finally:
        for hook in hooks:
            hook.remove()
    features = [each.features_md for each in inputs]
    if len(features) > 1:
        features = [_of_length_one(features_md) for features_md in features]
    return logits_nk, np.hstack(features)


def _of_length_one(features_md: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths_m1 = np.linalg.norm(features_md, axis=1, keepdims=True)
    return np.asarray(features_md / np.where(lengths_m1 > 0, lengths_m1, 1))
