"""Trainings of a fraction of a second for the tests of the loop, and the same one as a process that ends itself.

python -m platform_tests.vision.trainings FOLDER MODE KIND STEP trains in FOLDER and ends by KIND within step STEP.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from platform_assets.vision.networks.models import Classifier, build_classifier
from platform_assets.vision.recipes.backbones import get_backbone
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.batches import LabelledImages
from platform_assets.vision.training.computing_threads import computing_threads
from platform_assets.vision.training.train import TrainResult, train
from platform_tests.vision.shapes import PREPROCESSING, SHAPES, SIDE_PX, coloured_shapes

TRAIN, VAL = coloured_shapes(22, seed=1), coloured_shapes(12, seed=2)
# 22 images in batches of 8 are three steps an epoch, of 8, 7 and 7 images.
RECIPE = TrainRecipe(epochs=2, batch_size=8, backbone_learning_rate_factor=1.0, warmup_epochs=0.5)

MODES: dict[str, TrainRecipe] = {
    "scratch": RECIPE.model_copy(update={"clip_norm": 1.0}),
    "finetune": TrainRecipe(
        epochs=2,
        batch_size=8,
        accumulate=2,
        layer_decay=0.8,
        freeze_backbone_epochs=1,
        drop_path=0.3,
        ema_decay=0.6,
        cutmix=1.0,
        warmup_epochs=0.5,
    ),
    "two_processes": RECIPE.model_copy(update={"epochs": 12, "devices": 2, "ema_decay": 0.6, "patience_epochs": 12}),
    "ddp": RECIPE.model_copy(
        update={"epochs": 6, "batch_size": 9, "devices": 3, "strategy": "ddp", "freeze_backbone_epochs": 1}
    ),
}
SIGNALS = {"sigkill": signal.SIGKILL, "ctrl_c": signal.SIGINT, "sigterm": signal.SIGTERM}


class SmallNet(nn.Module):
    """A convolution, a dropout and, where asked for, a batch norm."""

    num_features = 32

    def __init__(self, *, norm: bool = True, dropout: float = 0.2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=4)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.wide = nn.Linear(8 * 7 * 7, self.num_features)

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        x_bchw = self.dropout(torch.relu(self.norm(self.stem(x_bchw))))
        features_bd: torch.Tensor = torch.relu(self.wide(x_bchw.flatten(1)))
        return features_bd


class WideNet(SmallNet):
    """Of more than the first mebibyte, which is one bucket of DistributedDataParallel."""

    num_features = 1024

    def __init__(self) -> None:
        super().__init__()
        self.wider = nn.Linear(self.num_features, self.num_features)

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        features_bd: torch.Tensor = torch.relu(self.wider(super().forward(x_bchw)))
        return features_bd


def net_classifier(net: Callable[[], nn.Module] = SmallNet, *, seed: int = 0) -> Classifier:
    """A classifier of shapes around any module whose features are `num_features` wide."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = net()
        classifier = Classifier(
            backbone, backbone_name="baseline_cnn", num_classes=len(SHAPES.names), preprocessing=PREPROCESSING
        )
        classifier.head = nn.Linear(int(backbone.num_features), len(SHAPES.names))
    return classifier.eval()


def timm_classifier(name: str, **options: Any) -> Classifier:
    """Around one of timm's models made for tests, with random weights."""
    import timm

    return net_classifier(lambda: timm.create_model(name, pretrained=False, num_classes=0, **options))


def vit_classifier(**options: Any) -> Classifier:
    return timm_classifier("test_vit", img_size=SIDE_PX, **options)


def classifier_of(mode: str) -> Classifier:
    if mode != "finetune":
        return net_classifier(WideNet if mode == "ddp" else SmallNet)
    preprocessing = get_backbone("tf_efficientnet_lite0").preprocessing(image_size_px=SIDE_PX)
    return build_classifier("tf_efficientnet_lite0", len(SHAPES.names), preprocessing, pretrained=True, seed=0)


def run(
    work_dir: Path, recipe: TrainRecipe = RECIPE, *, classifier: Classifier | None = None, **options: Any
) -> tuple[Classifier, TrainResult]:
    """Train on the shapes; `options` are those of `train` and replace the ones here."""
    arguments = {"train_part": TRAIN, "val_part": VAL, "metric": "top1", "seed": 0, "device": "cpu"} | options
    classifier = classifier or net_classifier()
    return classifier, train(classifier, recipe=recipe, work_dir=work_dir, **arguments)


def without_times(result: TrainResult) -> list[dict[str, object]]:
    return result.history.drop("seconds", "images_per_second").to_dicts()


def within_step(classifier: Classifier, step: int, act: Callable[[], None]) -> Classifier:
    """`act` in the forward pass of the step-th optimizer step from 0, when statistics of norms have changed already."""
    passes = iter(range(10**6))

    def hook(module: nn.Module, *_: object) -> None:
        if module.training and next(passes) == step:
            act()

    classifier.head.register_forward_hook(hook)
    return classifier


def some_images(part: LabelledImages, images: int) -> LabelledImages:
    return LabelledImages(part.image_ids[:images], part.images_nchw[:images], part.labels_n[:images])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The order of summation follows the number of threads; equality to the bit needs the same number."""
    with computing_threads(1):
        yield


def main(folder: str, mode: str, kind: str, step: int) -> None:
    torch.set_num_threads(1)

    def end() -> None:
        os.kill(os.getpid(), SIGNALS[kind])

    if mode == "two_processes":
        heard: list[object] = []

        def on_epoch(row: object) -> None:
            heard.append(row)
            if len(heard) == step:
                end()

        run(Path(folder), MODES[mode], classifier=classifier_of(mode), on_epoch=on_epoch, save_every_seconds=0)
        return
    forwards = step * MODES[mode].accumulate
    classifier = within_step(classifier_of(mode), forwards, end)
    run(Path(folder), MODES[mode], classifier=classifier, save_every_seconds=0)


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
