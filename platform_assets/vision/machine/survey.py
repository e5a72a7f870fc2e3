"""What this machine has and what is chosen on it, each with its reason: the text of `kestrel doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from platform_assets.vision.machine.devices import Device, RequestedDevice, available_devices, choose_device

LOW_DISK_GB = 5.0

# Extra to the distribution that it brings.
EXTRAS = {
    "demo": "elpv-dataset",
    "s3": "s3fs",
    "quality": "cleanlab",
    "croissant": "mlcroissant",
    "tuning": "optuna",
    "lightgbm": "lightgbm",
    "spectral": "weightwatcher",
}


class Finding(BaseModel):
    """One line: what was asked, what is chosen or found, why. `problem` is what will not work as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    chosen: str
    why: str
    state: Literal["good", "problem"] = "good"


def inspect_machine(data: Path, device: RequestedDevice = "auto", threads: int = 0) -> list[Finding]:
    """Every choice that Kestrel makes by asking the machine. `data` is where results are written; `threads` as asked for."""
    return [*_system(), *_loading(device), *_computing(device, threads), *_engines(), *_storage(data), *_extras()]


def _system() -> Iterator[Finding]:
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    yield Finding(subject="system", chosen=platform.platform(terse=True), why=f"Python {platform.python_version()}")
    yield Finding(
        subject="memory",
        chosen=f"{memory_gb:.0f} GB",
        why="decoded images take at most 60 % of it, then a file on disk",
    )
    yield from _decoding()


def _decoding() -> Iterator[Finding]:
    """On a photograph made here, of the size that photographs of datasets often have."""
    import numpy as np
    import simplejpeg

    from platform_assets.vision.images.decoding import Decoder, decode_rgb
    from platform_assets.vision.images.image_reading import choose_reading, described

    cells_hwc = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    photograph = simplejpeg.encode_jpeg(np.ascontiguousarray(cells_hwc.repeat(12, 0).repeat(12, 1)), colorspace="RGB")

    def read(row: int, decoder: Decoder) -> object:
        return decode_rgb(photograph, decoder=decoder)

    reading, rates = choose_reading(read, 10**6, seconds_budget=0.5)
    yield Finding(
        subject="decoding",
        chosen=reading.text,
        why=f"measured on 600 x 480 pixels: {described(rates)}; a training measures its own images",
    )


def _loading(device: RequestedDevice) -> Iterator[Finding]:
    """Batches of pictures made here, cropped and flipped as trainings do by default."""
    import numpy as np

    from platform_assets.vision.recipes.train_options import TrainRecipe
    from platform_assets.vision.training.batches import LabelledImages
    from platform_assets.vision.training.loading import choose_workers

    images_nchw = np.random.default_rng(0).integers(0, 256, (64, 3, 224, 224), dtype=np.uint8)
    part = LabelledImages(tuple(map(str, range(64))), images_nchw, np.arange(64) % 2)
    chosen, recipe = choose_device(device).device, TrainRecipe(epochs=10**6)
    workers, rates = choose_workers(part, recipe, device=chosen, seconds_budget=0.5)
    measured = ", ".join(f"{threads}: {rate:,.0f}/s" for threads, rate in rates.items())
    yield Finding(
        subject="loading threads",
        chosen=str(workers),
        why=f"measured on 224 x 224 pixels, images by threads {measured}; a training measures its own images",
    )


def _computing(device: RequestedDevice, threads: int) -> Iterator[Finding]:
    import torch

    choice = choose_device(device)
    yield Finding(subject="device", chosen=choice.device, why=choice.reason)
    if choice.device == "cuda":
        name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory / 1e9
        yield Finding(subject="GPU", chosen=f"{torch.cuda.device_count()} x {name}", why=f"{memory:.0f} GB each")
    yield _computing_threads(choice.device, threads)
    layout = "channels_last" if choice.channels_last else "contiguous"
    gain = "1.4 to 1.9 times as fast for convolutions on a CPU, faster on CUDA; no gain on MPS"
    yield Finding(subject="memory layout of CNNs", chosen=layout, why=gain)
    yield Finding(
        subject="bfloat16",
        chosen="in hardware" if choice.bfloat16 else "refused",
        why=_why_bfloat16(choice.device, choice.bfloat16),
    )
    scaled = (
        "with loss scaling"
        if choice.device == "cuda"
        else "refused: loss scaling is CUDA's, and without it fp16 diverges"
    )
    yield Finding(subject="float16", chosen=scaled, why="precision: float16 in a recipe")
    if "mps" in available_devices():
        yield Finding(
            subject="operators MPS lacks", chosen="computed on the CPU", why="each is named once in the log and counted"
        )


def _computing_threads(device: Device, asked: int) -> Finding:
    """On the baseline CNN, as a training measures its own network."""
    import torch

    from platform_assets.vision.networks.models import build_classifier
    from platform_assets.vision.recipes.backbones import get_backbone
    from platform_assets.vision.recipes.train_options import TrainRecipe
    from platform_assets.vision.training.computing_threads import (
        WORTH_BATCHES,
        measure_threads,
    )

    subject = "computing threads"
    if asked or device != "cpu":
        why = "asked for" if asked else "torch's own number"
        return Finding(subject=subject, chosen=str(asked or torch.get_num_threads()), why=why)
    preprocessing = get_backbone("baseline_cnn").preprocessing(image_size_px=96)
    network = build_classifier("baseline_cnn", 2, preprocessing, pretrained=False, seed=0)
    measured, others = measure_threads(network, TrainRecipe())
    threads, why = measured.choice(others)
    own = f"a training of {WORTH_BATCHES:,} batches or more measures its own network"
    return Finding(subject=subject, chosen=str(threads), why=f"{why}, of baseline_cnn at 96 pixels; {own}")


def _why_bfloat16(device: str, hardware: bool) -> str:
    if device == "cpu":
        return (
            "AMX or AVX512_BF16 is there"
            if hardware
            else "no AMX and no AVX512_BF16: 2 to 12 times slower than float32"
        )
    return (
        "the GPU says so" if device == "cuda" else "not asked of MPS: its autocast is not exact enough to be relied on"
    )


def _engines() -> Iterator[Finding]:
    from platform_assets.vision.networks.engines import PREFERENCE

    there = [name for name in PREFERENCE if _version(name) is not None]
    yield Finding(
        subject="embedding on a CPU",
        chosen=" > ".join(there),
        why="the first that gives torch's features is taken; a fixed order, so that the same machine gives the same vectors",
    )


def _storage(data: Path) -> Iterator[Finding]:
    place = next(folder for folder in (data, *data.parents) if folder.exists())
    free_gb, writable = shutil.disk_usage(place).free / 1e9, os.access(place, os.W_OK)
    said = f"{free_gb:.0f} GB free" if writable else "not writable"
    short = free_gb < LOW_DISK_GB
    yield Finding(
        subject="results",
        chosen=f"{data}: {said}",
        why="KESTREL_DATA sets another place"
        + (f"; under {LOW_DISK_GB:.0f} GB is too little for a training" if short else ""),
        state="problem" if short or not writable else "good",
    )
    git = shutil.which("git")
    yield Finding(
        subject="git",
        chosen=git or "missing",
        why="stamps name the commit; DVC needs it",
        state="good" if git else "problem",
    )


def _extras() -> Iterator[Finding]:
    for extra, distribution in EXTRAS.items():
        found = _version(distribution)
        yield Finding(
            subject=f"extra {extra}",
            chosen=f"{distribution} {found}" if found else "not installed",
            why="" if found else f"uv pip install 'kestrel-vision[{extra}]' brings it",
        )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
