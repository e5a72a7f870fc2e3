"""How much of an engine's own rate a whole embedding keeps: both measured by turns in one run on real photographs.

python -m platform_tests.benchmarks.bench_embedding [folder of images]
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from platform_assets.vision.backbones import get_backbone
from platform_assets.vision.decoding import decode_rgb
from platform_assets.vision.embedding import ImageLoader, embed
from platform_assets.vision.engines import choose_engine
from platform_assets.vision.preprocessing import to_pixels
from platform_assets.vision.weights import load_backbone

Images = list[tuple[str, ImageLoader]]


def main() -> None:
    arguments = _arguments()
    backbone = get_backbone(arguments.backbone)
    preprocessing = backbone.preprocessing(image_size_px=arguments.image_size_px)
    choice = choose_engine(
        load_backbone(backbone.name, pretrained=backbone.weights is not None),
        preprocessing,
        "cpu",
        engine=arguments.engine,
    )
    images = _images(arguments.folder, arguments.images)
    pixels_bchw = np.stack([to_pixels(decode_rgb(load()), preprocessing) for _, load in images])

    def whole_embedding() -> object:
        return embed(images, preprocessing, choice.engine, threads=arguments.threads)

    alone, whole = [], []
    for _ in range(arguments.rounds):
        alone.append(_rate(lambda: choice.engine.run(pixels_bchw), len(images)))
        whole.append(_rate(whole_embedding, len(images)))
    kept = [after / before for before, after in zip(alone, whole, strict=True)]
    print("| backbone | px | engine | images | engine alone, images/s | embedding, images/s | kept, median (range) |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print(
        f"| {backbone.name} | {preprocessing.image_size_px} | {choice.engine.name} | {len(images)} "
        f"| {statistics.median(alone):.0f} | {statistics.median(whole):.0f} "
        f"| {statistics.median(kept):.2f} ({min(kept):.2f} to {max(kept):.2f}) |"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=None, help="default: the photographs of elpv-dataset")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--engine", default="auto", choices=["auto", "torch", "onnxruntime", "openvino"])
    parser.add_argument("--image-size-px", type=int, default=224)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _images(folder: Path | None, count: int) -> Images:
    paths = sorted(path for path in (folder or _elpv()).rglob("*") if path.suffix in {".jpg", ".png"})[:count]
    if not paths:
        raise SystemExit(f"{folder}: no .jpg or .png files below it")
    # Distinct ids: an image that comes twice would be embedded once.
    found = {hashlib.sha256(path.read_bytes()).hexdigest(): path.read_bytes for path in paths}
    return list(found.items())


def _elpv() -> Path:
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise SystemExit("package 'elpv_dataset' is not installed; install the extra 'demo' or name a folder")
    return Path(spec.origin).parent


def _rate(work: Callable[[], object], images: int) -> float:
    started = time.perf_counter()
    work()
    return images / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
