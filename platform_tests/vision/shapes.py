"""Generated pictures of rings, squares and crosses in random colours: the smallest real task for the vision tests."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.networks.models import Classifier, build_classifier
from platform_assets.vision.recipes.backbones import get_backbone
from platform_assets.vision.recipes.resolving import Protocol, ResolvedTrial, TrainRecipe, resolve_trial
from platform_assets.vision.recipes.variants import Variant
from platform_assets.vision.training.batches import LabelledImages

SHAPES = LabelMap(names=("cross", "ring", "square"))
SIDE_PX = 32
PREPROCESSING = get_backbone("baseline_cnn").preprocessing(image_size_px=SIDE_PX)
PROTOCOL = Protocol(
    dataset="shapes", experiment="smoke", metric="top1", label_map_checksum=SHAPES.checksum, image_size_px=SIDE_PX
)


def coloured_shapes(images: int, *, seed: int) -> LabelledImages:
    """`images` pictures, the classes in turn; the same seed gives the same pixels."""
    generator = np.random.default_rng(seed)
    labels_n = np.arange(images, dtype=np.int64) % len(SHAPES.names)
    images_nchw = np.stack([_picture(SHAPES.names[label], generator) for label in labels_n])
    image_ids = tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in images_nchw)
    return LabelledImages(image_ids, images_nchw, labels_n)


def _picture(shape: str, generator: np.random.Generator) -> NDArray[np.uint8]:
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] - generator.integers(11, 21, size=2)[:, None, None]
    radius = int(generator.integers(6, 10))
    inside = {
        "ring": abs(np.hypot(x, y) - radius) <= 1.5,
        "square": np.maximum(abs(x), abs(y)) <= radius,
        "cross": (np.minimum(abs(x), abs(y)) <= 1) & (np.maximum(abs(x), abs(y)) <= radius),
    }[shape]
    background = generator.integers(0, 80, size=(3, SIDE_PX, SIDE_PX))
    colour = generator.integers(130, 256, size=(3, 1, 1))
    return np.where(inside, colour, background).astype(np.uint8)


def small_classifier(*, seed: int = 0) -> Classifier:
    return build_classifier("baseline_cnn", len(SHAPES.names), PREPROCESSING, pretrained=False, seed=seed)


def shapes_trial(*, seed: int = 0, **train: object) -> ResolvedTrial:
    variant = Variant(backbone="baseline_cnn", mode="scratch", train=TrainRecipe.model_validate(train))
    return resolve_trial(variant, name="baseline", seed=seed, protocol=PROTOCOL)


def randomise_batch_norms(classifier: Classifier, *, seed: int = 0) -> None:
    """Statistics as after a training; freshly built ones make many mistakes invisible."""
    generator = torch.Generator().manual_seed(seed)
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                assert tensor is not None
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
