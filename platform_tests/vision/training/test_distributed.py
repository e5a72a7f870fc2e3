"""A training in two processes on this CPU: the same as in one, and ended as a whole."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.networks.weights import weights_sha256
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.distributed import NotEnoughDevices, require_devices
from platform_assets.vision.training.job import Job, NonFiniteLoss
from platform_assets.vision.training.packed_jobs import DoesNotTravel, PackedImages, PackedJob
from platform_assets.vision.training.rank_processes import RankFailed
from platform_assets.vision.training.state import STATE_FILE, EpochRow
from platform_tests.vision.trainings import (
    TRAIN,
    VAL,
    SmallNet,
    net_classifier,
    one_thread,  # noqa: F401
    run,
)

pytestmark = pytest.mark.usefixtures("one_thread")
# The last steps of 22 images have 7: four images on one rank, three on the other.
RECIPE = TrainRecipe(epochs=2, batch_size=8, backbone_learning_rate_factor=1.0, clip_norm=1.0, mixup=0.4)
TWO = RECIPE.model_copy(update={"devices": 2})
DDP = TWO.model_copy(update={"strategy": "ddp"})


def without_norm() -> SmallNet:
    return SmallNet(norm=False, dropout=0.0)


class EndedInSecondEpoch(SmallNet):
    """Ends its own process, if that is rank 1, at a forward pass of the second epoch."""

    def __init__(self, how: Callable[[], Any]) -> None:
        super().__init__()
        self.how = how
        self.passes = 0

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        self.passes += self.training
        if self.passes > 4 and torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            self.how()
        return super().forward(x_bchw)


class _Infinite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features_bd: torch.Tensor, of_b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(of_b)
        return features_bd.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (of_b,) = ctx.saved_tensors
        return torch.where(of_b[:, None], torch.full_like(gradients[0], float("inf")), gradients[0]), None


class NoGradientOfOneColour(SmallNet):
    """An image of one colour has a loss, and a gradient that is infinite."""

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        infinite: torch.Tensor = _Infinite.apply(super().forward(x_bchw), x_bchw.std((2, 3)).amax(1) < 1e-6)
        return infinite


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ValueError("a plug-in's own mistake")


def job(tmp_path: Path, classifier: Classifier, **options: Any) -> Job:
    given = {"train_part": TRAIN, "val_part": VAL, "teacher": None} | options
    return Job(
        classifier=classifier,
        recipe=TWO,
        metric="top1",
        seed=0,
        device="cpu",
        work_dir=tmp_path,
        fingerprint="x",
        workers=0,
        threads=1,
        save_every_seconds=60,
        **given,
    )


@pytest.mark.parametrize(
    ("device", "message"), [("mps", "a Mac has one GPU"), ("cuda", "sees 0 CUDA devices here; lower devices")]
)
def test_require_devices__refuses_more_than_there_are(device, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(NotEnoughDevices, match=message):
        require_devices(TWO, device)
    require_devices(RECIPE, device)
    require_devices(TWO, "cpu")


def test_packed_job__travels_without_tensors_and_pixels_and_opens_as_it_was(tmp_path: Path) -> None:
    classifier, teacher = net_classifier(), nn.Linear(2, 3)
    packed = PackedJob.of(job(tmp_path, classifier, teacher=teacher), tmp_path)
    assert all(tensor.is_meta for tensor in [*packed.job.classifier.parameters(), *packed.job.classifier.buffers()])
    opened = packed.open()
    assert weights_sha256(opened.classifier) == weights_sha256(classifier)
    assert torch.equal(opened.classifier.mean, classifier.mean), "which is in no state dict"
    assert torch.equal(opened.teacher.weight, teacher.weight)
    for part, original in ((opened.train_part, TRAIN), (opened.val_part, VAL)):
        assert part.image_ids == original.image_ids
        np.testing.assert_array_equal(part.images_nchw, original.images_nchw)
    assert not classifier.head.weight.is_meta


def test_packed_images__a_mapped_file_is_taken_where_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", TRAIN.images_nchw)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    packed = PackedImages.of(mapped, tmp_path / "copy")
    assert packed.path == tmp_path / "images.npy"
    np.testing.assert_array_equal(packed.open(), TRAIN.images_nchw)
    some = PackedImages.of(mapped[3:], tmp_path / "copy")
    assert some.path == tmp_path / "copy", "an offset that numpy does not tell"
    np.testing.assert_array_equal(some.open(), TRAIN.images_nchw[3:])


def test_packed_job__names_what_cannot_travel(tmp_path: Path) -> None:
    with pytest.raises(DoesNotTravel, match="the teacher is a function; with devices over 1"):
        PackedJob.of(job(tmp_path, net_classifier(), teacher=lambda images_bchw: images_bchw), tmp_path)
    tied = net_classifier()
    tied.backbone.again = tied.backbone.wide
    tied.backbone.tied = nn.Linear(1, 1)
    tied.backbone.tied.weight = tied.head.weight
    with pytest.raises(DoesNotTravel, match="two layers share a parameter"):
        PackedJob.of(job(tmp_path, tied), tmp_path)

    class Local(SmallNet):
        """Of a function, as a plug-in's class may be."""

    with pytest.raises(DoesNotTravel, match=r"(?s)cannot be handed to another process .*Local.* use devices: 1"):
        PackedJob.of(job(tmp_path, net_classifier(Local)), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("options", [{}, {"strategy": "ddp"}, {"strategy": "ddp", "accumulate": 2}])
def test_two_processes__train_as_one_does(tmp_path: Path, options: dict[str, Any]) -> None:
    """The same global batches, mixed pairs included, and gradients weighted by the ranks' images."""
    heard: list[EpochRow] = []
    recipe = TWO.model_copy(update={"freeze_backbone_epochs": 1, **options})
    two, result = run(tmp_path / "two", recipe, classifier=net_classifier(without_norm), on_epoch=heard.append)
    alone = recipe.model_copy(update={"devices": 1, "strategy": "all_reduce"})
    one, alone = run(tmp_path / "one", alone, classifier=net_classifier(without_norm))
    moved = one.head.weight - net_classifier(without_norm).head.weight
    assert moved.abs().max() > 1e-3
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], tensor, rtol=0, atol=2e-5)
    for column in ("train_loss", "val_loss", "val_metric", "gradient_norm", "learning_rate"):
        np.testing.assert_allclose(result.history[column], alone.history[column], rtol=1e-4)
    assert [row.epoch for row in heard] == [1, 2]
    assert [path.name for path in (tmp_path / "two").iterdir()] == [STATE_FILE]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("recipe", "how", "message"),
    [
        (TWO, kill_oneself, "rank 1 of 2 was ended by SIGKILL"),
        (TWO, fail, "rank 1 of 2: .*own mistake"),
        (DDP, kill_oneself, "rank 1 of 2 was ended by SIGKILL"),
        (DDP, fail, "rank 1 of 2: .*own mistake"),
    ],
    ids=["killed", "failed", "killed_ddp", "failed_ddp"],
)
def test_two_processes__one_that_dies_ends_the_training_with_its_error(
    tmp_path: Path, recipe: TrainRecipe, how: Callable[[], Any], message: str
) -> None:
    with pytest.raises(RankFailed, match=f"(?s){message}"):
        run(tmp_path, recipe, classifier=net_classifier(lambda: EndedInSecondEpoch(how)))
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE], "the first epoch is kept"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes__images_that_are_no_number_are_named_from_the_other_process(tmp_path: Path) -> None:
    classifier = net_classifier()
    classifier.head.bias.data.fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match="training loss is nan in epoch 1, step 0") as caught:
        run(tmp_path, TWO, classifier=classifier)
    assert 0 < len(caught.value.image_ids) < 8
    assert set(caught.value.image_ids) < set(TRAIN.image_ids)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("row", "strategy"), [(9, "all_reduce"), (0, "ddp"), (9, "ddp")])
def test_two_processes__a_gradient_that_is_no_number_is_of_the_images_of_its_rank(
    tmp_path: Path, row: int, strategy: str
) -> None:
    """Of the sum over the ranks none is a number any more, and whoever spoke first named its own."""
    images_nchw = TRAIN.images_nchw.copy()
    images_nchw[row] = 7
    part = replace(TRAIN, images_nchw=images_nchw)
    recipe = TWO.model_copy(update={"augmentation": "none", "mixup": 0.0, "strategy": strategy})
    with pytest.raises(NonFiniteLoss, match="gradient norm is nan in epoch 1") as caught:
        run(tmp_path, recipe, classifier=net_classifier(NoGradientOfOneColour), train_part=part)
    assert TRAIN.image_ids[row] in caught.value.image_ids
    assert len(caught.value.image_ids) <= 4


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_two_processes__end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """After SIGKILL nobody is left to write to the state of the next training."""
    child = os.fork()
    if child == 0:
        try:
            long = TWO.model_copy(update={"epochs": 10_000, "patience_epochs": 10_000})
            run(tmp_path, long, classifier=net_classifier())
        finally:
            os._exit(1)
    while not (tmp_path / STATE_FILE).exists():
        time.sleep(0.1)
    ranks = children_of(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    until = time.monotonic() + 20
    while (left := [rank for rank in ranks if Path(f"/proc/{rank}").exists()]) and time.monotonic() < until:
        time.sleep(0.1)
    assert len(ranks) >= 2
    assert left == []


def children_of(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
