"""What to do when a training needs more memory than there is: the figures and the cures, in the order to try them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from platform_assets.vision.machine.devices import Device
from platform_assets.vision.recipes.train_options import DoesNotTrain, TrainRecipe

# Of RuntimeErrors that are not torch.OutOfMemoryError: the CPU's allocator on Linux and elsewhere, MPS, cuBLAS and cuDNN.
_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
_SMALLEST_PX = 32


class TrainingOutOfMemory(DoesNotTrain):
    """The device has too little memory for one batch of a recipe."""


@contextmanager
def out_of_memory_advice(recipe: TrainRecipe, image_size_px: int, device: Device) -> Iterator[None]:
    """Raises TrainingOutOfMemory in place of what the libraries raise."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingOutOfMemory(_advice(recipe, image_size_px, device, error)) from error


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def _advice(recipe: TrainRecipe, image_size_px: int, device: Device, error: BaseException) -> str:
    side = recipe.crop_size_px or image_size_px
    batch = f"{recipe.batch_size // (recipe.accumulate * recipe.devices)} images of {side} px at once"
    cures = ", or ".join(f"{number}. {cure}" for number, cure in enumerate(cures_of(recipe, image_size_px), start=1))
    return (
        f"out of memory on {device} with {batch} (batch_size {recipe.batch_size}, accumulate {recipe.accumulate}, "
        f"devices {recipe.devices}); {_figures(device)}; try {cures}. {str(error).splitlines()[0]}"
    )


def cures_of(recipe: TrainRecipe, image_size_px: int) -> list[str]:
    """What is left to try, that which changes the result least before the rest."""
    cures = []
    images = recipe.batch_size // recipe.devices
    accumulate = next((n for n in range(recipe.accumulate * 2, images // 2 + 1) if images % n == 0), None)
    if accumulate is not None:
        cures.append(f"accumulate: {accumulate}")
    if not recipe.gradient_checkpointing:
        cures.append("gradient_checkpointing: true")
    if recipe.batch_size >= 4 * recipe.devices:
        cures.append(f"batch_size: {recipe.batch_size // 2} with learning_rate: {recipe.learning_rate / 2:g}")
    side, option = recipe.crop_size_px or image_size_px, "crop_size_px" if recipe.crop_size_px else "image_size_px"
    if side > _SMALLEST_PX:
        cures.append(f"{option}: {max(_SMALLEST_PX, int(side * 0.7))}")
    return cures or ["a smaller backbone"]


def _figures(device: Device) -> str:
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return f"{_gb(torch.cuda.memory_allocated())} allocated by torch, {_gb(free)} free of {_gb(total)}"
    if device == "mps":
        allocated, total = torch.mps.current_allocated_memory(), torch.mps.recommended_max_memory()
        return f"{_gb(allocated)} allocated by torch of {_gb(total)} recommended"
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"this process took up to {_gb(peak)} of {_gb(total)}"


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
