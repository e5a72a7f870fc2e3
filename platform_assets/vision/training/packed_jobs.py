"""A training's job as it travels to another process: small, with what is large in files that all ranks share."""

from __future__ import annotations

import copy
from _pickle import PicklingError  # the error alone: nothing is read by pickle
from dataclasses import dataclass, replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from platform_assets.vision.recipes.train_options import DoesNotTrain
from platform_assets.vision.training.batches import LabelledImages
from platform_assets.vision.training.job import Job

Module = TypeVar("Module", bound=nn.Module)


class DoesNotTravel(DoesNotTrain):
    """A classifier or teacher that cannot be handed to another process."""


@dataclass(frozen=True)
class PackedJob:
    """A job whose modules have no tensors and whose parts have no pixels; those are files in `folder`."""

    job: Job
    folder: Path
    train_images: PackedImages
    val_images: PackedImages

    @classmethod
    def of(cls, job: Job, folder: Path) -> PackedJob:
        if job.teacher is not None and not isinstance(job.teacher, nn.Module):
            raise DoesNotTravel(
                f"the teacher is a {type(job.teacher).__name__}; with devices over 1 it must be a torch module"
            )
        hollow = replace(
            job,
            train_part=_without_pixels(job.train_part),
            val_part=_without_pixels(job.val_part),
            classifier=_emptied(job.classifier, folder / "classifier.pt"),
            teacher=_emptied(job.teacher, folder / "teacher.pt") if job.teacher else None,
        )
        train_images = PackedImages.of(job.train_part.images_nchw, folder / "train.u8")
        return cls(hollow, folder, train_images, PackedImages.of(job.val_part.images_nchw, folder / "val.u8"))

    def open(self) -> Job:
        teacher = self.job.teacher
        if isinstance(teacher, nn.Module):
            teacher = _filled(teacher, self.folder / "teacher.pt")
        return replace(
            self.job,
            train_part=replace(self.job.train_part, images_nchw=self.train_images.open()),
            val_part=replace(self.job.val_part, images_nchw=self.val_images.open()),
            classifier=_filled(self.job.classifier, self.folder / "classifier.pt"),
            teacher=teacher,
        )


@dataclass(frozen=True)
class PackedImages:
    """The pixels of a part as a mapped file."""

    path: Path
    offset: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, images_nchw: NDArray[np.uint8], path: Path) -> PackedImages:
        """In the file that they are mapped from already, else written to `path`."""
        mapped = _whole_file(images_nchw)
        if mapped is None:
            images_nchw.tofile(path)
            return cls(path, 0, images_nchw.shape)
        return cls(Path(cast(str, mapped.filename)), mapped.offset, images_nchw.shape)

    def open(self) -> NDArray[np.uint8]:
        # "c": torch takes writable memory alone, and nothing is written.
        return np.memmap(self.path, dtype=np.uint8, mode="c", offset=self.offset, shape=self.shape)


def _whole_file(images_nchw: NDArray[np.uint8]) -> np.memmap[Any, Any] | None:
    """The array itself if it is a mapped file from its first image to its last."""
    if not isinstance(images_nchw, np.memmap) or images_nchw.filename is None:
        return None
    whole = Path(images_nchw.filename).stat().st_size == images_nchw.offset + images_nchw.nbytes
    return images_nchw if whole and images_nchw.flags.c_contiguous else None


def _without_pixels(part: LabelledImages) -> LabelledImages:
    return replace(part, images_nchw=np.empty((len(part), 0, 0, 0), dtype=np.uint8))


def _emptied(module: Module, path: Path) -> Module:
    """A copy without tensors, which are in `path`. Pickled ones take shared memory, of which containers have little."""
    if sum(1 for _ in module.named_parameters(remove_duplicate=False)) > sum(1 for _ in module.parameters()):
        raise DoesNotTravel("two layers share a parameter, which several processes cannot keep shared; use devices: 1")
    torch.save({name: tensor.detach().cpu() for name, tensor in _tensors(module)}, path)
    hollow = copy.deepcopy(module).to("meta")
    try:
        ForkingPickler.dumps(hollow)
    except (AttributeError, TypeError, PicklingError) as error:
        raise DoesNotTravel(
            f"{type(module).__name__} cannot be handed to another process ({error}); define its classes and functions at "
            "the top of a module, or use devices: 1"
        ) from error
    return hollow


def _filled(module: Module, path: Path) -> Module:
    values = torch.load(path, map_location="cpu", weights_only=True)
    filled = module.to_empty(device="cpu")
    with torch.no_grad():
        for name, tensor in _tensors(filled):
            tensor.copy_(values[name])
    return filled


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and all buffers, those that a state dict leaves out included."""
    return [*module.named_parameters(), *module.named_buffers()]
