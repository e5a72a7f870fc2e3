"""lightly-train's own training of the classifier of timm_loop.py, in an environment of its own.

python lightly_loop.py FOLDER OUT.json SIZE_PX BATCH EPOCHS WARMUP_EPOCHS WEIGHTS
"""

from __future__ import annotations

import json
import math
import resource
import sys
from pathlib import Path
from typing import Any

import lightly_train


def main(folder: Path, out: Path, weights: Path, *, size_px: int, batch: int, epochs: int, warmup: int) -> None:
    classes = sorted(place.name for place in (folder / "train").iterdir())
    epoch_steps = math.ceil(len(list((folder / "train").rglob("*.jpg"))) / batch)
    jitter = {"prob": 1.0, "strength": 1.0, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.0}
    run = out.with_suffix("")
    lightly_train.train_image_classification(
        out=str(run),
        model="timm/tf_efficientnet_lite0",
        data={
            "train": str(folder / "train"),
            "val": str(folder / "val"),
            "classes": dict(enumerate(classes)),
        },
        steps=epochs * epoch_steps,
        batch_size=batch,
        num_workers=1,
        accelerator="cpu",
        devices=1,
        precision="32-true",
        seed=42,
        model_args={
            "backbone_weights": str(weights),
            "label_smoothing": 0.1,
            "lr_warmup_steps": warmup * epoch_steps,
        },
        transform_args={
            "image_size": (size_px, size_px),
            "random_crop": {"min_scale": 0.08, "max_scale": 1.0},
            "color_jitter": jitter,
            "normalize": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        },
        logger_args={"log_every_num_steps": 1, "val_every_num_steps": epoch_steps},
    )
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    out.write_text(json.dumps({"epochs": rows_of(run, batch, epoch_steps), "peak_mb": peak_mb}))


def rows_of(run: Path, batch: int, epoch_steps: int) -> list[dict[str, Any]]:
    return []


if __name__ == "__main__":
    size_px, batch, epochs, warmup = (int(argument) for argument in sys.argv[3:7])
    places = [Path(argument) for argument in (sys.argv[1], sys.argv[2], sys.argv[7])]
    main(*places, size_px=size_px, batch=batch, epochs=epochs, warmup=warmup)
