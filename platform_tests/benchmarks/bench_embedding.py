"""How much of an engine's own rate a whole embedding keeps: both measured by turns in one run on real photographs.

By wall time, and by the CPU time that both take: on a machine that others load, the second is the one to trust.
python -m platform_tests.benchmarks.bench_embedding [folder of images]; `make bench` runs it on those of elpv.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from platform_assets.vision.images.decoding import decode_rgb
from platform_assets.vision.networks.embedding import ImageLoader, embed
from platform_assets.vision.networks.engines import choose_engine
from platform_assets.vision.networks.weights import load_backbone
from platform_assets.vision.recipes.backbones import get_backbone
from platform_assets.vision.recipes.preprocessing import to_pixels
from platform_tests.benchmarks.launched import launched

Images = list[tuple[str, ImageLoader]]


def main() -> None:
    arguments = _arguments()
    backbone = get_backbone(arguments.backbone)
    preprocessing = backbone.preprocessing(image_size_px=arguments.image_size_px, resize=arguments.resize)
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
        alone.append(_seconds(lambda: choice.engine.run(pixels_bchw)))
        whole.append(_seconds(whole_embedding))
    wall, cpu = ([before[i] / after[i] for before, after in zip(alone, whole, strict=True)] for i in (0, 1))
    rates = [len(images) / statistics.median(seconds for seconds, _ in rounds) for rounds in (alone, whole)]
    print("| px | resize | engine | images | engine alone, images/s | embedding, images/s | kept | kept of CPU time |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    print(
        f"| {preprocessing.image_size_px} | {preprocessing.resize} | {choice.engine.name} | {len(images)} "
        f"| {rates[0]:.0f} | {rates[1]:.0f} | {_spread(wall)} | {_spread(cpu)} |"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=None, help="default: the photographs of elpv-dataset")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--engine", default="auto", choices=["auto", "torch", "onnxruntime", "openvino"])
    parser.add_argument("--image-size-px", type=int, default=224)
    parser.add_argument("--resize", default="squash", choices=["squash", "shorter_side"])
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


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Of the wall clock, and of all cores together."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _spread(kept: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(kept):.2f} ({min(kept):.2f} to {max(kept):.2f})"


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.skipif(find_spec("elpv_dataset") is None, reason="the extra 'demo' is not installed")
def test_bench_embedding__prints_its_row() -> None:
    said = launched([sys.executable, "-m", __spec__.name]).said
    print(f"\n{said}")
    assert said.count("\n| 224 | squash |") == 1


if __name__ == "__main__":
    main()
