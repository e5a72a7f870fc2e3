"""Inference engines for a frozen backbone: built from one torch module, proven equal to it, then chosen."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import nn

from platform_assets.vision.machine.devices import Device, RequestedEngine
from platform_assets.vision.networks.runtimes import (
    EngineRefused,
    Infer,
    onnxruntime_infer,
    openvino_infer,
    torch_infer,
)
from platform_assets.vision.recipes.preprocessing import Preprocessing

EngineName = Literal["torch", "onnxruntime", "openvino"]

# Fixed, not timed, so that the same kind of machine takes the same engine on every run. 2026-11, tf_efficientnet_lite0,
# 224 px, batch 32, one run on 2 shared cores, images/s: OpenVINO 75, ONNX Runtime 63, torch channels_last 19, torch 12.
PREFERENCE: tuple[EngineName, ...] = ("openvino", "onnxruntime", "torch")

# Largest difference allowed, as a fraction of the mean spread of a feature over the probe images. Measured 2026-11 for
# lite0 and baseline_cnn: 2.5e-4 and 5e-6 in float32, 8 and 7e-2 in bfloat16.
PARITY_TOLERANCE = 1e-2


class FeatureExtractor(nn.Module):
    """uint8 RGB images_bchw to features_bd: the normalisation is part of the graph, so that nobody forgets it."""

    mean_1c11: torch.Tensor
    std_1c11: torch.Tensor

    def __init__(self, backbone: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean_1c11", torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std_1c11", torch.tensor(preprocessing.std).view(1, 3, 1, 1))

    def forward(self, images_bchw_u8: torch.Tensor) -> torch.Tensor:
        normalised_bchw = (images_bchw_u8.to(torch.float32) / 255 - self.mean_1c11) / self.std_1c11
        return cast(torch.Tensor, self.backbone(normalised_bchw))


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Features by one runtime, always in batches of `batch_size`, the last one padded.

    With a fixed shape an image has the same vector, bit for bit, whatever else is in the batch.
    """

    name: EngineName
    batch_size: int
    infer: Infer

    def run(self, images_bchw_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """features_bd float32 of any number of images, at least one."""
        starts = range(0, len(images_bchw_u8), self.batch_size)
        return np.concatenate([self._batch(images_bchw_u8[start : start + self.batch_size]) for start in starts])

    def _batch(self, images_bchw_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        count = len(images_bchw_u8)
        if count < self.batch_size:
            images_bchw_u8 = np.pad(images_bchw_u8, [(0, self.batch_size - count), (0, 0), (0, 0), (0, 0)])
        # The copy: a runtime may hand out its own output buffer, which the next batch would overwrite.
        return np.array(self.infer(np.ascontiguousarray(images_bchw_u8))[:count], dtype=np.float32)


class Parity(BaseModel):
    """Agreement with torch eager float32 on the CPU over the probe images; `cosine` is the lowest of any image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_abs_diff: float
    tolerance: float
    cosine: float

    @property
    def passed(self) -> bool:
        return self.max_abs_diff <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """The engine taken, the parity of each one tried, why others were refused, and the rate of the one taken."""

    engine: Engine
    parity: dict[EngineName, Parity]
    refused: dict[EngineName, str]
    rate_images_s: float


def choose_engine(
    backbone: nn.Module,
    preprocessing: Preprocessing,
    device: Device,
    *,
    engine: RequestedEngine = "auto",
    batch_size: int = 32,
) -> EngineChoice:
    """The first engine of PREFERENCE that passes parity, or the one asked for; raises EngineRefused otherwise.

    `backbone` takes normalised images_bchw and gives features_bd. On MPS and CUDA torch is the only candidate.
    """
    extractor = FeatureExtractor(backbone, preprocessing).cpu().eval()
    images = probe_pixels(batch_size, preprocessing.image_size_px)
    reference = torch_infer(extractor, "cpu", channels_last=False)(images)
    parity: dict[EngineName, Parity] = {}
    refused: dict[EngineName, str] = {}
    for name in _candidates(engine, device):
        try:
            built = build_engine(
                name, extractor, device, image_size_px=preprocessing.image_size_px, batch_size=batch_size
            )
        except EngineRefused as error:
            refused[name] = str(error)
            continue
        parity[name] = measure_parity(reference, built.run(images))
        if parity[name].passed:
            return EngineChoice(engine=built, parity=parity, refused=refused, rate_images_s=_rate(built, images))
        refused[name] = f"max_abs_diff {parity[name].max_abs_diff:.3g} is over {parity[name].tolerance:.3g}"
    raise EngineRefused(f"engine: {engine!r} on {device} is refused ({refused}); ask for another engine or device")


def build_engine(
    name: EngineName, extractor: FeatureExtractor, device: Device, *, image_size_px: int, batch_size: int
) -> Engine:
    """One engine, without the parity test; raises EngineRefused when the runtime is absent or cannot take the graph."""
    sample = np.zeros((batch_size, 3, image_size_px, image_size_px), np.uint8)
    if name == "torch":
        infer = torch_infer(extractor, device, channels_last=device != "mps")
    elif device != "cpu":
        raise EngineRefused(f"engine: {name!r} computes on the cpu here, not on {device}; use 'torch'")
    else:
        infer = onnxruntime_infer(extractor, sample) if name == "onnxruntime" else openvino_infer(extractor, sample)
    return Engine(name=name, batch_size=batch_size, infer=infer)


def measure_parity(reference_bd: NDArray[np.float32], found_bd: NDArray[np.float32]) -> Parity:
    reference, found = reference_bd.astype(np.float64), found_bd.astype(np.float64)
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(found, axis=1)
    cosines = np.divide((reference * found).sum(axis=1), norms, out=np.zeros_like(norms), where=norms > 0)
    return Parity(
        max_abs_diff=float(np.abs(reference - found).max()),
        tolerance=PARITY_TOLERANCE * float(reference.std(axis=0).mean()),
        cosine=float(cosines.min()),
    )


def probe_pixels(count: int, image_size_px: int) -> NDArray[np.uint8]:
    """Seeded images_bchw that look like photographs: smooth colour fields of varied contrast under a little noise."""
    rng = np.random.default_rng(0)
    shape = (count, 3, image_size_px, image_size_px)
    coarse = torch.from_numpy(rng.normal(size=(count, 3, 7, 7)).astype(np.float32))
    smooth: NDArray[np.float32] = nn.functional.interpolate(coarse, size=shape[2:], mode="bicubic").numpy()
    contrast = rng.uniform(20, 80, size=(count, 1, 1, 1))
    pixels: NDArray[np.float64] = 128 + contrast * smooth + rng.normal(0, 6, shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _candidates(engine: RequestedEngine, device: Device) -> tuple[EngineName, ...]:
    if engine != "auto":
        return (engine,)
    return PREFERENCE if device == "cpu" else ("torch",)


def _rate(engine: Engine, images_bchw_u8: NDArray[np.uint8], *, rounds: int = 2) -> float:
    """Images per second by a short measurement; the parity test has warmed the engine up."""
    started = time.perf_counter()
    for _ in range(rounds):
        engine.run(images_bchw_u8)
    return rounds * len(images_bchw_u8) / (time.perf_counter() - started)
