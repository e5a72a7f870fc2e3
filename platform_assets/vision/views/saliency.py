"""Where in an image a classifier finds its evidence: Grad-CAM of a CNN, attention rollout of a vision transformer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.eva import Eva, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from platform_assets.vision.networks.ensembles import Combination, Ensemble
from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.networks.part_selectors import READABLE_ATTENTION, queries_and_keys, query_weights

Method = Literal["Grad-CAM", "attention rollout"]


@dataclass(frozen=True)
class Saliency:
    """maps_nhw float32 from 0 to 1, each image at its own scale, on the grid of the layer or of the patches."""

    maps_nhw: NDArray[np.float32]
    method: Method


def saliency(
    classifier: Classifier, images_nchw: NDArray[np.uint8], classes_n: NDArray[np.integer[Any]]
) -> Saliency | None:
    """The evidence for one class an image, in images at the classifier's size; of an ensemble, its heaviest member's.

    Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) is of the last layer that has a height and a width; what a head
    reads of earlier stages is not in it. Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928) does not depend on
    the class. None where there is neither: blocks whose attention cannot be read, boosted trees, which have no gradient.
    """
    if isinstance(classifier, Ensemble):
        return saliency(_heaviest(classifier), images_nchw, classes_n)
    images_bchw = torch.from_numpy(images_nchw.copy()).to(classifier.mean.device)
    classes_b = torch.from_numpy(classes_n.astype(np.int64)).to(classifier.mean.device)
    transformer = next((m for m in classifier.backbone.modules() if isinstance(m, VisionTransformer | Eva)), None)
    with _evaluating(classifier):
        if transformer is not None:
            maps_bhw = attention_rollout(transformer, lambda: classifier(images_bchw))
            return None if maps_bhw is None else Saliency(_scaled(maps_bhw, lowest=True), "attention rollout")
        maps_bhw = grad_cam(classifier, images_bchw, classes_b)
        return None if maps_bhw is None else Saliency(_scaled(maps_bhw, lowest=False), "Grad-CAM")


def _heaviest(ensemble: Ensemble) -> Classifier:
    assert isinstance(ensemble.head, Combination)
    member = list(ensemble.members.values())[int(ensemble.head.weights_m.argmax())]
    assert isinstance(member, Classifier)
    return member


def grad_cam(classifier: Classifier, images_bchw: torch.Tensor, classes_b: torch.Tensor) -> torch.Tensor | None:
    """maps_bhw: the channels of the last spatial layer, weighted by the mean gradient of the class's logit, positive part."""
    first = _channels_first(classifier)
    layer = _last_spatial_layer(classifier, images_bchw[:1], first)
    if layer is None:
        return None
    seen: list[torch.Tensor] = []

    def cut(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """The graph starts here; what follows may work in place, which a leaf must not be changed by."""
        seen.append(output.detach().requires_grad_())
        return seen[-1] + 0

    handle = layer.register_forward_hook(cut)
    try:
        with torch.enable_grad():
            logits_bk = classifier(images_bchw)
    finally:
        handle.remove()
    if not logits_bk.requires_grad:
        return None
    of_class = logits_bk.gather(1, classes_b[:, None]).sum()
    (gradient,) = torch.autograd.grad(of_class, seen[-1])
    maps_bchw, slopes_bchw = first(seen[-1].detach()), first(gradient)
    return (slopes_bchw.mean((2, 3), keepdim=True) * maps_bchw).sum(dim=1).relu()


def attention_rollout(transformer: VisionTransformer | Eva, forward: Callable[[], object]) -> torch.Tensor | None:
    """maps_bhw over the patches: how much the class token has read of each, through all blocks that see every patch.

    `forward` runs the transformer once. Without a class token all patches together are the query.
    """
    if not all(type(b) in (Block, EvaBlock) and type(b.attn) in READABLE_ATTENTION for b in transformer.blocks):
        return None
    seen: list[tuple[nn.Module, torch.Tensor, torch.Tensor | None]] = []

    def see(block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append((block, inputs[0].detach(), named.get("rope")))

    handles = [block.register_forward_pre_hook(see, with_kwargs=True) for block in transformer.blocks]
    try:
        with torch.inference_mode():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    whole = [each for each in seen if each[1].shape == seen[0][1].shape]  # a last block of parts sees fewer tokens
    prefix: int = transformer.num_prefix_tokens
    row_bn = _rolled_out(whole, prefix, class_token=transformer.cls_token is not None)
    rows, columns = transformer.patch_embed.grid_size
    return row_bn[:, prefix:].reshape(len(row_bn), rows, columns)


@torch.inference_mode()
def _rolled_out(
    seen: list[tuple[nn.Module, torch.Tensor, torch.Tensor | None]], prefix: int, *, class_token: bool
) -> torch.Tensor:
    """row_bn: the query's row of the product of (mean of the heads + identity) / 2, the last block first.

    One image at a time: a map of 1,370 tokens and twelve heads takes 90 MB.
    """
    rows = []
    for image in range(len(seen[0][1])):
        row_n = query_weights(seen[0][1], prefix, class_token=class_token)
        for block, tokens_bnd, rope in reversed(seen):
            queries_hnd, keys_hnd = (each[0].float() for each in queries_and_keys(block, tokens_bnd[image, None], rope))
            map_nn = (queries_hnd @ keys_hnd.transpose(-2, -1)).softmax(dim=-1).mean(dim=0)
            row_n = (row_n + row_n.to(map_nn.dtype) @ map_nn) / 2
        rows.append(row_n)
    return torch.stack(rows)


def _last_spatial_layer(
    classifier: Classifier, images_bchw: torch.Tensor, first: Callable[[torch.Tensor], torch.Tensor]
) -> nn.Module | None:
    """The module of the backbone whose output is the last with a height and a width, as one image goes through."""
    found: list[nn.Module] = []

    def see(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and min(first(output).shape[2:]) > 1:
            found.append(module)

    handles = [module.register_forward_hook(see) for module in classifier.backbone.modules()]
    try:
        with torch.inference_mode():
            classifier(images_bchw)
    finally:
        for handle in handles:
            handle.remove()
    return found[-1] if found else None


def _channels_first(classifier: Classifier) -> Callable[[torch.Tensor], torch.Tensor]:
    """What makes maps_bchw of a layer's output: timm's Swin and its kin keep channels last, and say so."""
    layouts = {getattr(module, "output_fmt", None) for module in classifier.backbone.modules()}
    return (lambda output: output.permute(0, 3, 1, 2)) if "NHWC" in layouts else (lambda output: output)


@contextmanager
def _evaluating(classifier: Classifier) -> Iterator[None]:
    """Evaluation mode, and no gradient of any weight: the graph holds what follows the layer alone."""
    was_training, trained = classifier.training, [p for p in classifier.parameters() if p.requires_grad]
    classifier.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        classifier.train(was_training)
        for parameter in trained:
            parameter.requires_grad_(True)


def _scaled(maps_bhw: torch.Tensor, *, lowest: bool) -> NDArray[np.float32]:
    """Each image's map from 0 to 1; with `lowest` its least value becomes 0. A map without any evidence stays 0."""
    flat_bp = maps_bhw.float().flatten(1)
    flat_bp = flat_bp - flat_bp.amin(dim=1, keepdim=True) if lowest else flat_bp
    scaled_bp = flat_bp / flat_bp.amax(dim=1, keepdim=True).clamp(min=1e-12)
    found: NDArray[np.float32] = scaled_bp.reshape(maps_bhw.shape).cpu().numpy()
    return found
