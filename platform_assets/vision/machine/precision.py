"""The number format that a training computes in: what a device has, and float16's scaled gradients."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from platform_assets.vision.machine.devices import Device, choose_device
from platform_assets.vision.recipes.train_options import DoesNotTrain, ExecutionOptions

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class PrecisionNotSupported(DoesNotTrain):
    """A recipe asks for a number format that would be slower or wrong on this device."""


def require_precision(options: ExecutionOptions, device: Device) -> None:
    """Raises PrecisionNotSupported: bfloat16 where it is emulated or unproven, float16 anywhere but on CUDA."""
    if options.precision == "float16" and device != "cuda":
        raise PrecisionNotSupported(
            f"precision 'float16' on {device}: gradients underflow unless they are scaled, and that is proven on CUDA "
            "alone; use float32"
        )
    if options.precision == "bfloat16" and not choose_device(device).bfloat16:
        reasons = {
            "cpu": "a CPU without AMX or AVX512_BF16 emulates it, 2 to 12 times slower than float32",
            "mps": "it is not proven here on Apple's GPUs",
            "cuda": "GPUs before compute capability 8.0 emulate it",
        }
        raise PrecisionNotSupported(f"precision 'bfloat16' on {device}: {reasons[device]}; use float32")


class Precision:
    """Autocast for the forward pass and, for float16, scaled gradients (Micikevicius et al. 2018, arXiv 1710.03740)."""

    def __init__(self, options: ExecutionOptions, device: Device) -> None:
        self._device = device
        self._dtype = _DTYPES[options.precision]
        self.scaler = torch.amp.GradScaler(device, enabled=options.precision == "float16")

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device, dtype=self._dtype, enabled=self._dtype is not torch.float32)

    @property
    def scales(self) -> bool:
        """Whether a step may be skipped because its scaled gradients were not finite."""
        return bool(self.scaler.is_enabled())
