"""fastai's own training of the classifier of timm_loop.py, in an environment of its own.

python fastai_loop.py WEIGHTS FOLDER OUT.json SIZE_PX BATCH EPOCHS WARMUP_EPOCHS

One-cycle, AdamW and discriminative rates are fastai's defaults for a finetune; its channels_last callback is on.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import timm
import torch
from fastai.callback.channelslast import ChannelsLast
from fastai.vision.all import (
    Brightness,
    Callback,
    CategoryBlock,
    Contrast,
    DataBlock,
    FlipItem,
    GrandparentSplitter,
    ImageBlock,
    LabelSmoothingCrossEntropy,
    Learner,
    Normalize,
    RandomResizedCrop,
    Saturation,
    accuracy,
    get_image_files,
    parent_label,
)
from safetensors.torch import load_file

MEAN = STD = (0.5, 0.5, 0.5)


class Pace(Callback):
    """Images a second of each epoch's training, without its validation."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def before_train(self) -> None:
        self.started = time.perf_counter()

    def after_train(self) -> None:
        images = len(self.dls.train) * self.dls.train.bs
        self.rates.append(images / (time.perf_counter() - self.started))


def main(weights: Path, folder: Path, out: Path, *, size_px: int, batch: int, epochs: int) -> None:
    torch.manual_seed(42)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=GrandparentSplitter(train_name="train", valid_name="val"),
        get_y=parent_label,
        item_tfms=RandomResizedCrop(size_px, min_scale=0.08, val_xtra=0.14),
        batch_tfms=[
            FlipItem(0.5),
            Brightness(0.2, 1.0),
            Contrast(0.4, 1.0),
            Saturation(0.4, 1.0),
            Normalize.from_stats(MEAN, STD, cuda=False),
        ],
    )
    loaders = block.dataloaders(folder, bs=batch, num_workers=1, device=torch.device("cpu"))
    backbone = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    backbone.load_state_dict(load_file(weights))
    model: Any = torch.nn.Sequential(backbone, torch.nn.Linear(1280, loaders.c))
    pace = Pace()
    learner = Learner(
        loaders, model, loss_func=LabelSmoothingCrossEntropy(), metrics=accuracy, cbs=[ChannelsLast(), pace]
    )
    learner.fit_one_cycle(epochs, 1e-3)
    top1 = [float(values[-1]) for values in learner.recorder.values]
    rows = [
        {"epoch": number, "images_per_second": rate, "val_top1": value}
        for number, (rate, value) in enumerate(zip(pace.rates, top1, strict=True), start=1)
    ]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    out.write_text(json.dumps({"epochs": rows, "peak_mb": peak_mb}))


if __name__ == "__main__":
    places = [Path(argument) for argument in sys.argv[1:4]]
    size_px, batch, epochs, _ = (int(argument) for argument in sys.argv[4:8])
    main(*places, size_px=size_px, batch=batch, epochs=epochs)
