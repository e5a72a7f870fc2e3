"""What the processes of one training say to each other: sums over all ranks of gradients, figures and logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from platform_assets.vision.machine.devices import Device
from platform_assets.vision.recipes.train_options import DoesNotTrain, ExecutionOptions


class NotEnoughDevices(DoesNotTrain):
    """A recipe asks for more devices than this machine can train on at once."""


class PeerLost(RuntimeError):
    """A sum over all ranks failed, because another one is gone."""


@dataclass(frozen=True)
class Ranks:
    """This process among the `world` processes of a training; the one of rank 0 saves and reports."""

    rank: int
    world: int

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> None:
        """Replace `values` by their sum over all ranks, which all call this at the same point with equal shapes."""
        if self.world == 1:
            return
        try:
            torch.distributed.all_reduce(values)
        except RuntimeError as error:
            raise self.lost(error) from error

    def lost(self, error: RuntimeError) -> PeerLost:
        return PeerLost(f"rank {self.rank} of {self.world} lost the others: {error}")

    def share(
        self, module: nn.Module, loss: float, images: int, gradients: Sequence[torch.Tensor]
    ) -> tuple[float, int]:
        """The mean loss over all ranks' images and their number, in one sum, which also makes `gradients` those of it.

        `loss` is the mean over this rank's `images`, which its `gradients` are of. Running statistics of the norms in
        `module` become their mean over the ranks, so that every rank holds the same module after each step; within a step
        each norm sees its own rank's images alone, as with torch's DistributedDataParallel.
        """
        statistics = list(_running_statistics(module))
        figures = torch.tensor([loss, 1.0], device=next(module.parameters()).device)
        weighted = [tensor.float().reshape(-1) * images for tensor in (figures, *gradients)]
        summed = torch.cat([*weighted, *(tensor.reshape(-1) for tensor in statistics)])
        self.sum(summed)
        total = summed[1]
        sizes = [2, *(tensor.numel() for tensor in (*gradients, *statistics))]
        figures, *pieces = torch.split(summed, sizes)
        for tensor, piece in zip(gradients, pieces, strict=False):
            tensor.copy_((piece / total).view_as(tensor))
        for tensor, piece in zip(statistics, pieces[len(gradients) :], strict=True):
            tensor.copy_((piece / self.world).view_as(tensor))
        return float(figures[0] / total), round(total.item())


ALONE = Ranks(rank=0, world=1)


def _running_statistics(module: nn.Module) -> Iterator[torch.Tensor]:
    """Of the norms in training mode; frozen ones are equal on all ranks and stay."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.training and norm.running_mean is not None:
            assert norm.running_var is not None
            yield norm.running_mean
            yield norm.running_var


def require_devices(options: ExecutionOptions, device: Device) -> None:
    """Raises NotEnoughDevices."""
    if options.devices == 1:
        return
    if device == "mps":
        raise NotEnoughDevices(f"devices {options.devices}: a Mac has one GPU; use devices: 1, or device: cpu")
    if not torch.distributed.is_available():
        raise NotEnoughDevices(
            f"devices {options.devices}: this build of torch has no torch.distributed; use devices: 1"
        )
    if device == "cuda" and torch.cuda.device_count() < options.devices:
        raise NotEnoughDevices(
            f"devices {options.devices}: torch sees {torch.cuda.device_count()} CUDA devices here; lower devices"
        )
