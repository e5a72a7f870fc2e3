"""Several classifiers as one: pixels to the log-probabilities that their mean, weighted mean or vote gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.recipes.combination_options import shared_pixels
from platform_assets.vision.recipes.preprocessing import Preprocessing

# Members below it change no figure, and each costs a forward pass.
LEAST_WEIGHT = 1e-3


class Combination(nn.Module):
    """logs_bmk, the members' log-probabilities, to log-probabilities_bk.

    With `votes` a class is as likely as members think it the likeliest, and the mean has one more vote of all, which
    decides between equals. One member alone is as it is.
    """

    weights_m: torch.Tensor

    def __init__(self, weights_m: torch.Tensor, *, votes: bool = False) -> None:
        super().__init__()
        self.votes = votes
        self.members = len(weights_m)
        self.register_buffer("weights_m", weights_m.float())

    def forward(self, logs_bmk: torch.Tensor) -> torch.Tensor:
        mean_bk = (logs_bmk + self.weights_m.log()[:, None]).logsumexp(dim=1)
        if not self.votes or self.members == 1:
            return mean_bk
        votes_bk = nn.functional.one_hot(logs_bmk.argmax(dim=2), logs_bmk.shape[2]).sum(dim=1)
        # A class without votes keeps its logarithm, since its probability may be 0 in float32.
        voted_bk = torch.where(votes_bk > 0, (votes_bk + mean_bk.exp()).log(), mean_bk)
        return voted_bk - math.log(self.members + 1)


class Ensemble(Classifier):
    """uint8 RGB images_bchw to log-probabilities as logits_bk, by the members' names in their order.

    Every member normalises for itself; `preprocessing` is that of the pixels they share. Raises MembersDoNotFit.
    """

    def __init__(
        self, members: Mapping[str, Classifier], head: Combination, *, preprocessing: Preprocessing | None = None
    ) -> None:
        nn.Module.__init__(self)  # there is no backbone and no mean and std beside those of the members
        shared = shared_pixels({name: member.preprocessing for name, member in members.items()})
        self.backbone_name, self.feature_kind = "", "pooled"
        self.num_classes = next(iter(members.values())).num_classes
        self.preprocessing = preprocessing or shared
        self.members = nn.ModuleDict(members)
        self.head = head

    def features(self, images_bchw: torch.Tensor) -> torch.Tensor:
        """The members' log-probabilities, logs_bmk."""
        return torch.stack([member(images_bchw).log_softmax(dim=1) for member in self.members.values()], dim=1)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.members)


def fit_weights(logs_nmk: NDArray[np.floating[Any]], labels_n: NDArray[np.int64]) -> NDArray[np.float64]:
    """weights_m >= 0 of sum 1 whose mean of the members' probabilities has the least log loss; small ones become 0."""
    from scipy.optimize import minimize

    truth_nm = logs_nmk[np.arange(len(labels_n)), :, labels_n].astype(np.float64)
    # Against the best member on each image, so that nothing underflows where all are far off.
    shares_nm = np.exp(truth_nm - truth_nm.max(axis=1, keepdims=True))
    members = shares_nm.shape[1]

    def loss(weights_m: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        mixed_n = shares_nm @ weights_m + 1e-12
        return -float(np.log(mixed_n).mean()), -(shares_nm / mixed_n[:, None]).mean(axis=0)

    found = minimize(
        loss,
        np.full(members, 1 / members),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w_m: w_m.sum() - 1, "jac": lambda w_m: np.ones(members)},
        options={"ftol": 1e-10, "maxiter": 200},
    )
    weights_m = np.where(found.x < LEAST_WEIGHT, 0.0, found.x)
    return cast("NDArray[np.float64]", weights_m / weights_m.sum())
