"""How the ranks of a training come by the gradient of all their images: after the backward pass, or in the midst of it.

Both strategies sum in an order that follows from the network alone, so that a resumed training ends with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from platform_assets.vision.recipes.train_options import ExecutionOptions
from platform_assets.vision.training.distributed import Ranks

Forward = Callable[[torch.Tensor, torch.Tensor], Any]


class Shared(NamedTuple):
    """Of one step: mean loss over all ranks' images, their number, and the norm of this rank's own gradient if not alone."""

    loss: float
    images: int
    own_norm: torch.Tensor | None


class Strategy(Protocol):
    """A step is `begin`, then per batch a forward and a backward pass within `batch`, then `end`."""

    @property
    def forward(self) -> Forward: ...

    def begin(self, images: int) -> None:
        """Say how many images this rank has in all batches of the step."""

    def batch(self, *, last: bool) -> AbstractContextManager[None]:
        """Around the passes of one batch. Raises PeerLost."""

    def end(self, loss: float) -> Shared:
        """Make the gradients those of the mean loss over all ranks' images; `loss` is the mean over this rank's.

        Running statistics of norms become their mean over the ranks. Raises PeerLost.
        """


def make_strategy(options: ExecutionOptions, module: nn.Module, forward: Forward, ranks: Ranks) -> Strategy:
    """The one that `options` name; `forward` computes with `module`."""
    if options.strategy == "ddp" and ranks.world > 1:
        return DuringBackward(module, forward, ranks)
    return AfterBackward(module, forward, ranks)


def gradients_of(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


class AfterBackward:
    """Strategy `all_reduce`: all gradients in one sum."""

    def __init__(self, module: nn.Module, forward: Forward, ranks: Ranks) -> None:
        self.forward = forward
        self._module, self._ranks, self._images = module, ranks, 0

    def begin(self, images: int) -> None:
        self._images = images

    def batch(self, *, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def end(self, loss: float) -> Shared:
        if self._ranks.world == 1:
            return Shared(loss, self._images, None)
        gradients = gradients_of(self._module)
        own_norm = torch.nn.utils.get_total_norm(gradients)
        loss, images = self._ranks.share(self._module, loss, self._images, gradients)
        return Shared(loss, images, own_norm)


class DuringBackward:
    """Strategy `ddp`: torch's DistributedDataParallel sums a bucket of gradients while those of lower layers are computed.

    It is told that parameters may go unused: else it would part them into other buckets after its first step, and the
    step after a resumption would sum in another order than the same step of a training that went through.
    """

    def __init__(self, module: nn.Module, forward: Forward, ranks: Ranks) -> None:
        self._module, self._forward, self._ranks, self._images = module, forward, ranks, 0
        self._parallel: DistributedDataParallel | None = None
        self._trained: Sequence[nn.Parameter] = ()
        self._own_norms: list[torch.Tensor] = []
        self._lost: RuntimeError | None = None

    @property
    def forward(self) -> Forward:
        assert self._parallel is not None, "before the first step"
        return self._parallel

    def begin(self, images: int) -> None:
        self._images = images
        self._own_norms.clear()
        trained = [parameter for parameter in self._module.parameters() if parameter.requires_grad]
        if [*map(id, trained)] != [*map(id, self._trained)]:
            self._parallel = None  # the hooks of the one before on the same parameters go first
            self._parallel = self._wrapped()
            self._trained = trained

    @contextmanager
    def batch(self, *, last: bool) -> Iterator[None]:
        assert self._parallel is not None
        try:
            with nullcontext() if last else self._parallel.no_sync():
                yield
        except RuntimeError as error:
            if self._lost is None:
                raise
            raise self._ranks.lost(self._lost) from error

    def end(self, loss: float) -> Shared:
        loss, images = self._ranks.share(self._module, loss, self._images, [])
        for gradient in gradients_of(self._module):
            gradient.div_(images)
        return Shared(loss, images, torch.stack(self._own_norms).norm())

    def _wrapped(self) -> DistributedDataParallel:
        parallel = DistributedDataParallel(
            _Computed(self._module, self._forward),
            # All ranks open the same file of weights, and share the statistics of norms at the end of each step.
            init_sync=False,
            forward_sync_buffers=False,
            find_unused_parameters=True,
        )
        parallel.register_comm_hook(None, lambda _, bucket: self._summed(bucket.buffer()))
        return parallel

    def _summed(self, gradients: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
        """The sum over all ranks of a bucket's gradients times images."""
        self._own_norms.append(torch.linalg.vector_norm(gradients))
        gradients.mul_(self._images)
        work = torch.distributed.all_reduce(gradients, async_op=True)
        assert work is not None
        return work.get_future().then(self._arrived)

    def _arrived(self, sums: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
        try:
            (summed,) = sums.value()
        except RuntimeError as error:
            self._lost = error
            raise
        return summed


class _Computed(nn.Module):
    """The module as DistributedDataParallel calls it."""

    def __init__(self, module: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.module = module
        self._forward = forward
        # Where every parameter is used, torch advises not to look for unused ones; why we do stands above.
        self.unused = nn.Parameter(torch.zeros(1, device=next(module.parameters()).device))

    def forward(self, images_bchw: torch.Tensor, labels_b: torch.Tensor) -> Any:
        return self._forward(images_bchw, labels_b)
