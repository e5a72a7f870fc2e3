"""Running out of memory: found in what libraries raise, and answered with figures and cures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from platform_assets.vision.machine.out_of_memory import (
    TrainingOutOfMemory,
    cures_of,
    is_out_of_memory,
    out_of_memory_advice,
)
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_tests.vision.trainings import RECIPE, net_classifier, run, within_step


def too_much() -> None:
    torch.empty(2**50)


def test_train__out_of_memory_says_how_much_and_what_to_try(tmp_path: Path) -> None:
    """A real refusal of the CPU's allocator in the second step."""
    with pytest.raises(TrainingOutOfMemory) as caught:
        run(tmp_path, RECIPE, classifier=within_step(net_classifier(), 1, too_much))
    said = str(caught.value)
    assert said.startswith(
        "out of memory on cpu with 8 images of 32 px at once (batch_size 8, accumulate 1, devices 1); "
    )
    assert "GB of" in said
    assert (
        "try 1. accumulate: 2, or 2. gradient_checkpointing: true, or 3. batch_size: 4 with learning_rate: 0.0005"
        in said
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_cures__those_taken_already_are_not_named_again() -> None:
    recipe = TrainRecipe(batch_size=32, accumulate=16, gradient_checkpointing=True)
    assert cures_of(recipe, 224) == ["batch_size: 16 with learning_rate: 0.0005", "image_size_px: 156"]
    assert cures_of(TrainRecipe(batch_size=24, accumulate=2), 32)[0] == "accumulate: 4"
    cropped = TrainRecipe(batch_size=2, gradient_checkpointing=True, crop_size_px=200)
    assert cures_of(cropped, 224) == ["crop_size_px: 140"]
    small = TrainRecipe(batch_size=2, gradient_checkpointing=True)
    assert cures_of(small, 32) == ["a smaller backbone"]
    for cure in (8, 4):
        TrainRecipe(batch_size=cure * 4, accumulate=cure)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4503599627370496 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError("Unable to allocate 8.00 EiB"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_is_out_of_memory__in_the_words_of_each_library(error: BaseException) -> None:
    assert is_out_of_memory(error)


def test_advice__other_errors_come_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes differ") as caught, out_of_memory_advice(RECIPE, 32, "cpu"):
        raise RuntimeError("shapes differ")
    assert not isinstance(caught.value, TrainingOutOfMemory)


def test_advice__numpy_too() -> None:
    with pytest.raises(TrainingOutOfMemory, match="Unable to allocate"), out_of_memory_advice(RECIPE, 32, "cpu"):
        np.empty(2**60, dtype=np.uint8)
