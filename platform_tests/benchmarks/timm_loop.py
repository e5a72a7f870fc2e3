"""timm's own training of a classifier, as its training script does it at its defaults, on a folder of class folders.

python -m platform_tests.benchmarks.timm_loop FOLDER OUT.json SIZE_PX BATCH EPOCHS WARMUP_EPOCHS

FOLDER holds train/<class>/ and val/<class>/. Loaders, augmentation, optimizer, scheduler and loss are timm's; what is its
script's default stands here with its option's name.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

from platform_assets.vision.networks.weights import load_backbone
from platform_assets.vision.recipes.backbones import get_backbone

BACKBONE = "tf_efficientnet_lite0"
MOMENTUM, WEIGHT_DECAY, SMOOTHING = 0.9, 2e-5, 0.1
LR_BASE, LR_BASE_SIZE, WARMUP_LR = 0.1, 256, 1e-5
WORKERS = 1  # of two cores; the script's 4 was slower here


def learning_rate(batch_size: int) -> float:
    """`--lr-base 0.1 --lr-base-size 256`, linear for SGD."""
    return LR_BASE * batch_size / LR_BASE_SIZE


def loaders(folder: Path, size_px: int, batch_size: int) -> tuple[Any, Any]:
    backbone = get_backbone(BACKBONE)
    shared: dict[str, Any] = {
        **{"input_size": (3, size_px, size_px), "batch_size": batch_size, "mean": backbone.mean, "std": backbone.std},
        **{"num_workers": WORKERS, "use_prefetcher": False, "device": torch.device("cpu")},
    }
    # Without it timm numbers the classes of each folder by themselves, and val lacks some.
    classes = folder / "classes.txt"
    classes.write_text("\n".join(sorted(place.name for place in (folder / "train").iterdir())))
    train, val = (create_dataset("", root=str(folder / part), class_map=str(classes)) for part in ("train", "val"))
    return (
        create_loader(
            train,
            is_training=True,
            scale=(0.08, 1.0),
            ratio=(3 / 4, 4 / 3),
            hflip=0.5,
            color_jitter=0.4,
            interpolation="random",
            **shared,
        ),
        create_loader(val, is_training=False, interpolation="bicubic", crop_pct=backbone.crop_fraction, **shared),
    )


def main(folder: Path, out: Path, size_px: int, batch_size: int, epochs: int, warmup_epochs: int) -> None:
    torch.manual_seed(42)
    train, val = loaders(folder, size_px, batch_size)
    classes = len(list((folder / "train").iterdir()))
    backbone = load_backbone(BACKBONE, pretrained=True)
    model = torch.nn.Sequential(backbone, torch.nn.Linear(get_backbone(BACKBONE).feature_dim, classes))
    model = model.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(
        model, opt="sgd", lr=learning_rate(batch_size), weight_decay=WEIGHT_DECAY, momentum=MOMENTUM
    )
    scheduler, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=epochs, warmup_epochs=warmup_epochs, warmup_lr=WARMUP_LR
    )
    loss_of, rows = LabelSmoothingCrossEntropy(SMOOTHING), []
    for epoch in range(epochs):
        model.train()
        started, images = time.perf_counter(), 0
        for images_bchw, labels_b in train:
            loss = loss_of(model(images_bchw.contiguous(memory_format=torch.channels_last)), labels_b)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            images += len(labels_b)
        rate = images / (time.perf_counter() - started)
        scheduler.step(epoch + 1)
        rows.append({"epoch": epoch + 1, "images_per_second": rate, "val_top1": _top1(model, val)})
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    out.write_text(json.dumps({"epochs": rows, "peak_mb": peak_mb}))


@torch.inference_mode()
def _top1(model: torch.nn.Module, val: Any) -> float:
    model.eval()
    right = images = 0
    for images_bchw, labels_b in val:
        logits_bk = model(images_bchw.contiguous(memory_format=torch.channels_last))
        right, images = right + int((logits_bk.argmax(1) == labels_b).sum()), images + len(labels_b)
    return right / images


if __name__ == "__main__":
    places = [Path(argument) for argument in sys.argv[1:3]]
    main(places[0], places[1], *(int(argument) for argument in sys.argv[3:7]))
