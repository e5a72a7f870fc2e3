"""The heads that stand where a linear layer is not enough: features to logits, in torch, so that they are saved and exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from platform_assets.vision.heads.tree_head import TreeHead

# Rows at once: a k-NN head compares each with every train image, a tree head walks every tree.
_ROWS_AT_ONCE = 256


class UnitVectors(nn.Module):
    """(features_bd[:, columns_s] - shift_s) * scale_s at unit length."""

    columns_s: torch.Tensor
    shift_s: torch.Tensor
    scale_s: torch.Tensor

    def __init__(self, columns_s: torch.Tensor, shift_s: torch.Tensor, scale_s: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("columns_s", columns_s.long())
        self.register_buffer("shift_s", shift_s.float())
        self.register_buffer("scale_s", scale_s.float())

    def forward(self, features_bd: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize((features_bd[:, self.columns_s] - self.shift_s) * self.scale_s, dim=1)


class UnitLinear(nn.Module):
    """A linear layer on vectors of unit length."""

    def __init__(self, unit: UnitVectors, weight_ks: torch.Tensor, bias_k: torch.Tensor) -> None:
        super().__init__()
        self.unit = unit
        self.linear = linear_layer(weight_ks, bias_k)

    def forward(self, features_bd: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.linear(self.unit(features_bd)))


def linear_layer(weight_kd: torch.Tensor, bias_k: torch.Tensor) -> nn.Linear:
    """A layer of these weights; nothing is drawn for it."""
    layer = nn.Linear(weight_kd.shape[1], len(weight_kd), device="meta").to_empty(device="cpu")
    layer.load_state_dict({"weight": weight_kd.float(), "bias": bias_k.float()})
    return layer


class NeighbourHead(nn.Module):
    """Votes of the k train images of highest cosine, weighted by exp(cosine / temperature): DINO's k-NN classifier.

    After Caron et al. 2021, arXiv 2104.14294. Logits are log-probabilities; one more neighbour, of mean weight, votes
    for every class alike, so that a class without votes has a finite one. Train vectors are kept in float16.
    """

    vectors_ns: torch.Tensor
    labels_n: torch.Tensor
    temperature: torch.Tensor

    def __init__(
        self,
        unit: UnitVectors,
        vectors_ns: torch.Tensor,
        labels_n: torch.Tensor,
        *,
        k: int,
        temperature: float,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.unit = unit
        self.neighbours = k
        self.num_classes = num_classes
        self.register_buffer("vectors_ns", vectors_ns.half())
        self.register_buffer("labels_n", labels_n.long())
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))
        # Saved beside the vectors: the graph needs a number, the file a tensor.
        self.register_buffer("k", torch.tensor(k))

    def with_neighbours(self, k: int) -> NeighbourHead:
        """The same train vectors, another k."""
        return NeighbourHead(
            self.unit,
            self.vectors_ns,
            self.labels_n,
            k=k,
            temperature=float(self.temperature),
            num_classes=self.num_classes,
        )

    def forward(self, features_bd: torch.Tensor) -> torch.Tensor:
        return self.votes(*self.nearest(features_bd, self.neighbours))

    def nearest(self, features_bd: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cosines_bn and labels_bn of the k nearest train images, nearest first."""
        cosines_bn, rows_bn = (self.unit(features_bd) @ self.vectors_ns.float().T).topk(k, dim=1)
        return cosines_bn, self.labels_n[rows_bn]

    def votes(self, cosines_bn: torch.Tensor, labels_bn: torch.Tensor) -> torch.Tensor:
        """log-probabilities_bk from the nearest neighbours."""
        shares_bn = (cosines_bn / self.temperature).softmax(dim=1)
        empty_bk = shares_bn.new_zeros((shares_bn.shape[0], self.num_classes))
        votes_bk = empty_bk.scatter_add(1, labels_bn, shares_bn)
        count = cosines_bn.shape[1]
        return ((votes_bk * count + 1 / self.num_classes) / (count + 1)).log()


def head_of_tensors(linear: nn.Module, tensors: Mapping[str, torch.Tensor], *, prefix: str = "head.") -> nn.Module:
    """A head of the kind and sizes that the tensors of a checkpoint name; `linear` itself when they are of a linear one.

    Their values are still to be loaded, after names, shapes and types are verified against it.
    """
    assert isinstance(linear, nn.Linear), "a classifier is built with a linear head"
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    classes = linear.out_features
    if "node_threshold_n" in found:
        return TreeHead.shaped_as(found, num_classes=classes)
    if "unit.scale_s" not in found:
        return linear
    size = len(found["unit.scale_s"])
    unit = UnitVectors(torch.zeros(size), torch.zeros(size), torch.zeros(size))
    if "vectors_ns" not in found:
        return UnitLinear(unit, torch.zeros(classes, size), torch.zeros(classes))
    rows = len(found["vectors_ns"])
    k = int(found.get("k", torch.tensor(1)))
    return NeighbourHead(
        unit, torch.zeros(rows, size).half(), torch.zeros(rows), k=k, temperature=1.0, num_classes=classes
    )


def logits_of_features(head: nn.Module, features_nd: NDArray[np.float32]) -> NDArray[np.float32]:
    """logits_nk of any number of cached vectors, in batches that bound the memory; the head is on the CPU."""
    with torch.inference_mode():
        logits = [head(rows_bd) for rows_bd in in_batches(features_nd)]
    return cast("NDArray[np.float32]", torch.cat(logits).numpy())


def in_batches(features_nd: NDArray[np.float32]) -> Iterator[torch.Tensor]:
    for start in range(0, len(features_nd), _ROWS_AT_ONCE):
        yield torch.from_numpy(features_nd[start : start + _ROWS_AT_ONCE])
