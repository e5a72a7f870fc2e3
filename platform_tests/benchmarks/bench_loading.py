"""How many images a second the batches of an epoch are made at, by augmentation and workers, and what training keeps.

By turns in one run, from noise in memory. With `--train`, the same batches feed training steps of a backbone on the
CPU: a loader is fast enough when it makes no difference how many workers it has.
python -m platform_tests.benchmarks.bench_loading [--train]; `make bench` runs both as they are.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import torch

from platform_assets.vision.networks.models import Classifier, build_classifier, place
from platform_assets.vision.recipes.backbones import get_backbone
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.batches import Batch, LabelledImages, epoch_batches
from platform_assets.vision.training.loading import choose_workers
from platform_tests.benchmarks.launched import launched

CLASSES = 10
WORKERS = (0, 1, 2)
RECIPES = {
    "none": TrainRecipe(augmentation="none"),
    "crop_flip": TrainRecipe(),
    "crop_flip, randaugment 9": TrainRecipe(randaugment=9),
    "crop_flip, random_erasing 0.25": TrainRecipe(random_erasing=0.25),
    "crop_flip, mixup, cutmix": TrainRecipe(mixup=0.2, cutmix=1.0),
}


def main() -> None:
    arguments = _arguments()
    part = _noise(arguments.images, arguments.image_size_px)
    if arguments.train:
        _train(part, arguments)
        return
    rates: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for turn in range(arguments.rounds + 1):
        for name, recipe in RECIPES.items():
            for workers in WORKERS:
                measured = _load(part, recipe, workers)
                if turn:  # the first is for what is done once
                    rates.setdefault((name, workers), []).append(measured)
    print("| px | augmentation | workers | images/s | CPU ms an image |\n| --- | --- | --- | --- | --- |")
    for (name, workers), kept in rates.items():
        wall, cpu = zip(*kept, strict=True)
        print(f"| {arguments.image_size_px} | {name} | {workers} | {_spread(wall, 0)} | {_spread(cpu, 2)} |")
    for name, recipe in RECIPES.items():
        started = time.perf_counter()
        workers, found = choose_workers(part, recipe.model_copy(update={"epochs": 10_000}))
        seconds, rounded = time.perf_counter() - started, {number: round(rate) for number, rate in found.items()}
        print(f"choose_workers, {name}: {workers} in {seconds:.2f} s, images/s {rounded}")


def _load(part: LabelledImages, recipe: TrainRecipe, workers: int) -> tuple[float, float]:
    """Images per second, and milliseconds of all cores together for one."""
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in epoch_batches(part, recipe=recipe, seed=0, epoch=1, num_classes=CLASSES, workers=workers):
        assert len(batch.images_bchw) == len(batch.rows)
    return len(part) / (time.perf_counter() - wall), (time.process_time() - cpu) * 1e3 / len(part)


def _train(part: LabelledImages, arguments: argparse.Namespace) -> None:
    preprocessing = get_backbone(arguments.backbone).preprocessing(image_size_px=arguments.image_size_px)
    classifier = build_classifier(arguments.backbone, CLASSES, preprocessing, pretrained=False, seed=0)
    place(classifier, "cpu").train()
    optimizer = torch.optim.SGD(classifier.parameters(), lr=1e-3)
    loading, training = dict[int, list[float]](), dict[int, list[float]]()
    for turn in range(arguments.rounds + 1):
        for workers in WORKERS:
            batches = epoch_batches(
                part, recipe=RECIPES[arguments.augmentation], seed=0, epoch=1, num_classes=CLASSES, workers=workers
            )
            wall, images = time.perf_counter(), 0
            with closing(batches):
                for batch in islice(batches, arguments.steps):
                    _step(classifier, optimizer, batch)
                    images += len(batch.rows)
            if turn:
                training.setdefault(workers, []).append(images / (time.perf_counter() - wall))
                loading.setdefault(workers, []).append(_load(part, RECIPES[arguments.augmentation], workers)[0])
    print("| px | augmentation | workers | training, images/s | of that without workers | loading, images/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for workers in WORKERS:
        ratios = [rate / alone for rate, alone in zip(training[workers], training[0], strict=True)]
        print(
            f"| {arguments.image_size_px} | {arguments.augmentation} | {workers} | {_spread(training[workers], 1)} "
            f"| {_spread(ratios, 2)} | {_spread(loading[workers], 0)} |"
        )


def _step(classifier: Classifier, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    labels = batch.labels_b if batch.shares_bk is None else batch.shares_bk
    loss = torch.nn.functional.cross_entropy(classifier(batch.images_bchw), labels)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()


def _noise(images: int, side: int) -> LabelledImages:
    generator = np.random.default_rng(0)
    images_nchw = generator.integers(0, 256, (images, 3, side, side), dtype=np.uint8)
    return LabelledImages(tuple(str(row) for row in range(images)), images_nchw, np.arange(images) % CLASSES)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size-px", type=int, default=224)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train", action="store_true", help="feed training steps")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--augmentation", default="crop_flip", choices=RECIPES)
    parser.add_argument("--steps", type=int, default=3, help="of training, each turn")
    return parser.parse_args()


def _spread(kept: tuple[float, ...] | list[float], digits: int) -> str:
    """Median and range."""
    return f"{statistics.median(kept):.{digits}f} ({min(kept):.{digits}f} to {max(kept):.{digits}f})"


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("arguments", [[], ["--train"]], ids=["loading", "training"])
def test_bench_loading__prints_its_table(arguments: list[str]) -> None:
    said = launched([sys.executable, "-m", __spec__.name, *arguments]).said
    print(f"\n{said}")
    recipes = 1 if arguments else len(RECIPES)
    assert said.count("\n| 224 |") == recipes * len(WORKERS)


if __name__ == "__main__":
    main()
