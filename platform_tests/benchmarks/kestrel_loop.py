"""Kestrel's training of the classifier of timm_loop.py on the same folder: same model, size, batch, epochs, augmentation.

python -m platform_tests.benchmarks.kestrel_loop FOLDER OUT.json SIZE_PX BATCH EPOCHS WARMUP_EPOCHS
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from platform_assets.vision.networks.models import build_classifier
from platform_assets.vision.recipes.backbones import get_backbone
from platform_assets.vision.recipes.resolving import training_pixels
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.batches import LabelledImages, load_images
from platform_assets.vision.training.loading import choose_workers
from platform_assets.vision.training.train import train
from platform_tests.benchmarks.timm_loop import BACKBONE, MOMENTUM, SMOOTHING, WEIGHT_DECAY, learning_rate


def recipe(batch_size: int, epochs: int, warmup_epochs: int) -> TrainRecipe:
    """What the other script does, in our words."""
    return TrainRecipe(
        epochs=epochs,
        batch_size=batch_size,
        optimizer="sgd",
        momentum=MOMENTUM,
        learning_rate=learning_rate(batch_size),
        backbone_learning_rate_factor=1.0,
        weight_decay=WEIGHT_DECAY,
        warmup_epochs=warmup_epochs,
        label_smoothing=SMOOTHING,
        patience_epochs=epochs,
        augmentation="crop_flip",
        crop_area_min=0.08,
        crop_scale=1.5,
        color_jitter=0.4,
    )


def main(folder: Path, out: Path, size_px: int, batch_size: int, epochs: int, warmup_epochs: int) -> None:
    started, chosen = time.perf_counter(), recipe(batch_size, epochs, warmup_epochs)
    classes = sorted(place.name for place in (folder / "train").iterdir())
    preprocessing = get_backbone(BACKBONE).preprocessing(image_size_px=size_px, resize="shorter_side")
    larger = training_pixels(preprocessing, chosen)
    parts = []
    for part, seen in (("train", larger), ("val", preprocessing)):
        paths = sorted((folder / part).rglob("*.jpg"))
        labels_n = np.array([classes.index(path.parent.name) for path in paths], dtype=np.int64)
        parts.append(LabelledImages(tuple(path.name for path in paths), load_images(paths, seen), labels_n))
    classifier = build_classifier(BACKBONE, len(classes), preprocessing, pretrained=True, seed=42)
    decoded = time.perf_counter() - started
    workers, _ = choose_workers(parts[0], chosen, device="cpu")
    with tempfile.TemporaryDirectory() as work:
        result = train(
            classifier, *parts, chosen, metric="top1", seed=42, device="cpu", work_dir=Path(work), workers=workers
        )
    rows = result.history.select("epoch", "images_per_second", val_top1="val_metric").to_dicts()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    pictures_mb = sum(part.images_nchw.nbytes for part in parts) / 1e6
    found = {
        "epochs": rows,
        "peak_mb": peak_mb,
        "pictures_mb": pictures_mb,
        "decode_seconds": decoded,
        "workers": workers,
    }
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    places = [Path(argument) for argument in sys.argv[1:3]]
    main(places[0], places[1], *(int(argument) for argument in sys.argv[3:7]))
