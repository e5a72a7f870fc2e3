"""The choice of the device that a step computes on, and what is known to be fast there."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import BaseModel, ConfigDict

Device = Literal["cpu", "mps", "cuda"]
RequestedDevice = Literal["auto", "cpu", "mps", "cuda"]
RequestedEngine = Literal["auto", "torch", "onnxruntime", "openvino"]


class DeviceNotAvailable(ValueError):
    """The requested device is not on this machine."""


class DeviceChoice(BaseModel):
    """The device taken and why; whether `channels_last` is faster for CNNs and `bfloat16` runs in hardware there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Device
    reason: str
    channels_last: bool
    bfloat16: bool


def choose_device(requested: RequestedDevice = "auto") -> DeviceChoice:
    """CUDA before MPS before CPU under `auto`; a device asked for by name is taken or DeviceNotAvailable is raised."""
    present = available_devices()
    if requested == "auto":
        reason = f"auto: the first present of cuda, mps, cpu (present: {', '.join(present)})"
        return _choice(present[0], reason)
    if requested not in present:
        raise DeviceNotAvailable(
            f"device: {requested!r} is not on this machine (present: {', '.join(present)}); use 'auto' or one of these"
        )
    return _choice(requested, "asked for by name")


def available_devices() -> tuple[Device, ...]:
    """Devices that torch can compute on here, fastest first; the CPU is always the last."""
    import torch

    present: list[Device] = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present.insert(0, "cuda")
    return tuple(present)


def _choice(device: Device, reason: str) -> DeviceChoice:
    # channels_last: 1.4 to 1.9 times faster on a CPU, faster on CUDA; on MPS no win and reported as unsupported.
    return DeviceChoice(device=device, reason=reason, channels_last=device != "mps", bfloat16=_has_bfloat16(device))


def _has_bfloat16(device: Device) -> bool:
    """Without AMX or AVX512_BF16 a CPU emulates bfloat16, 2 to 12 times slower than float32."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "mps":
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def candidate_threads() -> list[int]:
    """The powers of two up to the cores, and the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sorted({cores, *(2**power for power in range(cores.bit_length()))})
