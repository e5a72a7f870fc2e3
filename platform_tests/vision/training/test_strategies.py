"""What is special in the strategy `ddp`; that both train as one process does stands in test_distributed.py."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.distributed import PeerLost, Ranks
from platform_assets.vision.training.strategies import DuringBackward
from platform_tests.vision.trainings import SmallNet

ENDED_AS_EXPECTED = 7


def left_alone(rank: int, folder: Path) -> None:
    """Rank 1 is gone when rank 0 sums its gradients."""
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    net = SmallNet()
    strategy = DuringBackward(net, lambda images_bchw, _: net(images_bchw), Ranks(rank, 2))
    strategy.begin(2)
    with pytest.raises(PeerLost, match="rank 0 of 2 lost the others"):
        take(strategy, last_act=None if rank == 0 else partial(os._exit, ENDED_AS_EXPECTED))
    os._exit(ENDED_AS_EXPECTED)


def take(strategy: DuringBackward, last_act: Callable[[], None] | None) -> None:
    with strategy.batch(last=True):
        features_bd = strategy.forward(torch.rand(2, 3, 32, 32), torch.zeros(2))
        if last_act is not None:
            last_act()
        torch.autograd.backward(features_bd.sum())


@pytest.mark.slow
def test_ddp__a_sum_without_the_other_rank_is_a_lost_peer(tmp_path: Path) -> None:
    """Else the one that is left would be blamed for what ended the other."""
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=left_alone, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [ENDED_AS_EXPECTED] * 2


def test_strategy__means_nothing_on_one_device() -> None:
    with pytest.raises(
        ValidationError, match="option 'strategy' 'ddp' has no meaning without devices over 1; remove it"
    ):
        TrainRecipe(strategy="ddp")
    assert TrainRecipe(strategy="ddp", devices=2).strategy == "ddp"


def test_strategy__counts_only_when_it_is_chosen() -> None:
    """What was trained before there was a choice has the config_hash of now."""
    assert "strategy" not in TrainRecipe(devices=2).model_dump(mode="json")
    chosen = TrainRecipe(devices=2, strategy="ddp")
    assert TrainRecipe.model_validate_json(chosen.model_dump_json()) == chosen
