"""Gradient boosted trees as a head: fitted by LightGBM, then walked in torch, so that nobody needs LightGBM to predict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


class UnreadableTrees(ValueError):
    """A LightGBM model that is not of plain numeric splits."""


class TreeHead(nn.Module):
    """Raw features_bd to logits_bk: every tree walked at once, `depth` steps from the roots to the leaves.

    A leaf is its own child. Trees are ordered round by round, one a class in each round.
    """

    node_feature_n: torch.Tensor
    node_threshold_n: torch.Tensor
    node_left_n: torch.Tensor
    node_right_n: torch.Tensor
    node_value_n: torch.Tensor
    root_t: torch.Tensor

    def __init__(self, arrays: Mapping[str, torch.Tensor], *, depth: int, num_classes: int) -> None:
        super().__init__()
        self.steps = depth
        self.num_classes = num_classes
        for name, array in arrays.items():
            self.register_buffer(name, array)
        # Saved beside the nodes: the graph needs a number, the file a tensor.
        self.register_buffer("depth", torch.tensor(depth))

    @classmethod
    def of_model_text(cls, text: str, *, num_classes: int) -> Self:
        """From what LightGBM's `Booster.model_to_string` gives of a multiclass model. Raises UnreadableTrees."""
        trees = [_tree(block) for block in re.findall(r"^Tree=\d+\n(.*?)\n\n", text, flags=re.DOTALL | re.MULTILINE)]
        if not trees or len(trees) % num_classes:
            raise UnreadableTrees(f"{len(trees)} trees are no whole rounds of {num_classes} classes; fit them again")
        sizes = np.array([len(tree.values) for tree in trees])
        roots_t = np.concatenate([[0], sizes.cumsum()[:-1]])
        children = [
            np.concatenate([getattr(tree, side) + root for tree, root in zip(trees, roots_t, strict=True)])
            for side in ("left", "right")
        ]
        arrays = {
            "node_feature_n": np.concatenate([tree.features for tree in trees]).astype(np.int32),
            "node_threshold_n": _float32_below(np.concatenate([tree.thresholds for tree in trees])),
            "node_left_n": children[0].astype(np.int32),
            "node_right_n": children[1].astype(np.int32),
            "node_value_n": np.concatenate([tree.values for tree in trees]).astype(np.float32),
            "root_t": roots_t.astype(np.int32),
        }
        depth = _depth(roots_t, *children)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return cls(tensors, depth=depth, num_classes=num_classes)

    @classmethod
    def shaped_as(cls, tensors: Mapping[str, torch.Tensor], *, num_classes: int) -> Self:
        """A head of as many nodes, trees and steps as the tensors of another, for these to be loaded into."""
        nodes, trees = len(tensors["node_threshold_n"]), len(tensors.get("root_t", ()))
        arrays = {f"node_{name}_n": torch.zeros(nodes, dtype=torch.int32) for name in ("feature", "left", "right")}
        arrays |= {f"node_{name}_n": torch.zeros(nodes) for name in ("threshold", "value")}
        arrays["root_t"] = torch.zeros(trees, dtype=torch.int32)
        return cls(arrays, depth=int(tensors.get("depth", torch.tensor(0))), num_classes=num_classes)

    def forward(self, features_bd: torch.Tensor) -> torch.Tensor:
        node_bt = self.root_t.long().expand(features_bd.shape[0], -1)
        for _ in range(self.steps):
            values_bt = features_bd.gather(1, self.node_feature_n[node_bt].long())
            goes_left_bt = values_bt <= self.node_threshold_n[node_bt]
            node_bt = torch.where(goes_left_bt, self.node_left_n[node_bt], self.node_right_n[node_bt]).long()
        values_brk = self.node_value_n[node_bt].reshape(features_bd.shape[0], -1, self.num_classes)
        return values_brk.sum(1)


@dataclass(frozen=True)
class _Tree:
    """Inner nodes, then leaves; children count from the first node of the tree."""

    features: NDArray[np.int64]
    thresholds: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    values: NDArray[np.float64]


def _tree(block: str) -> _Tree:
    fields = dict(line.split("=", 1) for line in block.splitlines())
    leaf_values = _numbers(fields["leaf_value"])
    leaves = len(leaf_values)
    inner = leaves - 1
    kinds = _numbers(fields.get("decision_type", "")).astype(np.int64) if inner else np.empty(0, np.int64)
    # Bit 0 is a categorical split, bits 2 and 3 a special path for missing values.
    if fields.get("num_cat", "0") != "0" or fields.get("is_linear", "0") != "0" or (kinds & 0b1101).any():
        raise UnreadableTrees(
            "a tree has categorical splits, linear leaves or a path for missing values; fit plain ones"
        )
    itself = np.arange(inner, inner + leaves)

    def of_inner(name: str) -> NDArray[np.float64]:
        return _numbers(fields[name]) if inner else np.empty(0)

    def children(name: str) -> NDArray[np.int64]:
        """LightGBM counts leaves as -1, -2, ..."""
        child = of_inner(name).astype(np.int64)
        return np.concatenate([np.where(child < 0, inner - child - 1, child), itself])

    return _Tree(
        features=np.concatenate([of_inner("split_feature"), np.zeros(leaves)]).astype(np.int64),
        thresholds=np.concatenate([of_inner("threshold"), np.zeros(leaves)]),
        left=children("left_child"),
        right=children("right_child"),
        values=np.concatenate([np.zeros(inner), leaf_values]),
    )


def _numbers(text: str) -> NDArray[np.float64]:
    return np.array(text.split(), dtype=np.float64)


def _float32_below(thresholds_n: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above: `x <= threshold` is then the same for every float32 x."""
    nearest_n = thresholds_n.astype(np.float32)
    return np.where(nearest_n > thresholds_n, np.nextafter(nearest_n, np.float32(-np.inf)), nearest_n)


def _depth(roots_t: NDArray[np.int64], left_n: NDArray[np.int64], right_n: NDArray[np.int64]) -> int:
    """Steps after which every walk stands in a leaf."""
    reached, steps = roots_t, 0
    while (inner := reached[left_n[reached] != reached]).size:
        reached, steps = np.concatenate([left_n[inner], right_n[inner]]), steps + 1
    return steps
