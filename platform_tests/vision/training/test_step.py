"""One optimizer step: the gradient is that of the whole batch, however it was parted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.batches import Batch
from platform_assets.vision.training.losses import make_loss
from platform_assets.vision.training.step import NonFinite, TrainingStep, kept, step_seed
from platform_tests.vision.trainings import (
    TRAIN,
    SmallNet,
    net_classifier,
    one_thread,  # noqa: F401
    timm_classifier,
    vit_classifier,
)

pytestmark = pytest.mark.usefixtures("one_thread")
COUNTS = (8, 7, 7)


def step_of(classifier: Classifier, **options: Any) -> TrainingStep:
    recipe = TrainRecipe(**{"optimizer": "sgd", "momentum": 0.5, "backbone_learning_rate_factor": 1.0, **options})
    classifier.train()
    return TrainingStep(classifier, recipe, make_loss(recipe, COUNTS, device="cpu"), device="cpu")


def batch(rows: Sequence[int]) -> Batch:
    index = np.asarray(rows)
    return Batch(torch.from_numpy(TRAIN.images_nchw[index]), torch.from_numpy(TRAIN.labels_n[index]), index)


def plain_net() -> Classifier:
    """Nothing in it looks at other images of the batch."""
    return net_classifier(lambda: SmallNet(norm=False, dropout=0.0))


def differences(one: nn.Module, other: nn.Module) -> list[float]:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return [float((a.double() - b.double()).abs().max()) for a, b in pairs]


@pytest.mark.parametrize("options", [{}, {"class_weights": "effective_number", "effective_number_beta": 0.9}], ids=str)
def test_step__accumulated_batches_of_different_sizes_are_one_batch(options: dict[str, Any]) -> None:
    whole, parted = step_of(plain_net(), **options), step_of(plain_net(), accumulate=2, **options)
    figures = whole.take([batch(range(7))], rate=0.1, seed=0)
    in_parts = parted.take([batch(range(4)), batch(range(4, 7))], rate=0.1, seed=0)
    assert in_parts.loss == pytest.approx(figures.loss, rel=1e-6)
    assert (figures.images, in_parts.images) == (7, 7)
    assert max(differences(whole.classifier, parted.classifier)) < 1e-6
    assert max(differences(whole.classifier, plain_net())) > 1e-4, "they have moved"


def test_step__loss_is_that_before_the_step() -> None:
    step = step_of(plain_net(), label_smoothing=0.0)
    with torch.inference_mode():
        logits_bk = step.classifier(batch(range(5)).images_bchw)
    expected = nn.functional.cross_entropy(logits_bk, batch(range(5)).labels_b)
    assert step.take([batch(range(5))], rate=0.1, seed=0).loss == pytest.approx(expected.item())


def test_step__rate_goes_to_every_group_by_its_share() -> None:
    step = step_of(vit_classifier(), backbone_learning_rate_factor=0.25)
    step.take([batch(range(4))], rate=0.08, seed=0)
    assert {group["lr"] for group in step.optimizer.param_groups} == {0.02, 0.08}


def test_step__clips_the_norm_of_all_gradients_and_reports_the_one_before() -> None:
    free, clipped = step_of(plain_net(), momentum=0.0), step_of(plain_net(), momentum=0.0, clip_norm=1e-3)
    free.take([batch(range(6))], rate=1.0, seed=0)
    figures = clipped.take([batch(range(6))], rate=1.0, seed=0)
    gradients = [parameter.grad for parameter in clipped.classifier.parameters()]
    assert torch.stack([gradient.norm() for gradient in gradients]).norm().item() == pytest.approx(1e-3, rel=1e-3)
    unclipped = [parameter.grad for parameter in free.classifier.parameters()]
    assert figures.gradient_norm == pytest.approx(torch.stack([g.norm() for g in unclipped]).norm().item(), rel=1e-5)


def test_step__dropout_follows_the_seed_alone() -> None:
    losses = []
    for seed, disturbance in ((1, 0), (1, 5), (2, 0)):
        step = step_of(net_classifier(lambda: SmallNet(dropout=0.5)))
        torch.rand(disturbance)
        losses.append(step.take([batch(range(6))], rate=0.1, seed=seed).loss)
    assert losses[0] == losses[1] != losses[2]
    assert len({step_seed(seed, epoch, step) for seed in range(4) for epoch in range(4) for step in range(4)}) == 64


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_vit"])
def test_step__recomputed_activations_change_nothing(name: str) -> None:
    """The running statistics of norms too, though the norms have seen every batch twice."""
    steps = []
    for recomputed in (False, True):
        classifier = vit_classifier() if name == "test_vit" else timm_classifier(name)
        step = step_of(classifier, gradient_checkpointing=recomputed)
        classifier.backbone.set_grad_checkpointing(recomputed)
        for _ in range(2):
            step.take([batch(range(6))], rate=0.1, seed=0)
        steps.append(step)
    assert max(differences(steps[0].classifier, steps[1].classifier)) < 1e-6


def test_step__bfloat16_computes_in_less_and_keeps_float32_weights() -> None:
    exact, coarse = step_of(plain_net()), step_of(plain_net(), precision="bfloat16")
    losses = [step.take([batch(range(6))], rate=0.1, seed=0).loss for step in (exact, coarse)]
    assert 0 < abs(losses[0] - losses[1]) < 0.01 * losses[0]
    assert {parameter.dtype for parameter in coarse.classifier.parameters()} == {torch.float32}


def test_step__float16_skips_a_step_whose_gradients_overflow() -> None:
    """As on CUDA, where alone a recipe may ask for it: the scale is halved and the weights stay."""
    step = step_of(plain_net(), precision="float16", clip_norm=1.0)
    before = step.tensors()["scaler"]["scale"]
    step.classifier.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    figures = step.take([batch(range(6))], rate=0.1, seed=0)
    assert figures.gradient_norm is None
    assert max(differences(step.classifier, plain_net())) == 0
    assert step.tensors()["scaler"]["scale"] == before / 2
    again = step_of(plain_net(), precision="float16")
    again.load(step.tensors())
    assert again.tensors()["scaler"]["scale"] == before / 2


def test_step__float16_ends_where_no_scale_helps() -> None:
    """It skipped every step to the end, at scale 0, and the training was a success with the weights of its start."""
    step = step_of(plain_net(), precision="float16")
    step.classifier.head.weight.register_hook(lambda gradient: gradient * float("nan"))

    def steps() -> Iterator[float]:
        for seed in range(60):
            step.take([batch(range(6))], rate=0.1, seed=seed)
            yield step.tensors()["scaler"]["scale"]

    scales = []
    with pytest.raises(NonFinite, match="gradient norm is nan") as caught:
        scales.extend(steps())
    assert caught.value.rows == tuple(range(6))
    step_from = step.tensors()["scaler"]["scale"]
    assert 1e-5 < step_from < 1e-4
    assert max(differences(step.classifier, plain_net())) == 0


def test_step__not_finite_names_the_rows_of_its_own_batch() -> None:
    step = step_of(plain_net(), accumulate=2)
    step.classifier.head.register_forward_hook(
        lambda _, given, logits_bk: logits_bk * (1 if len(logits_bk) > 3 else torch.nan)
    )
    with pytest.raises(NonFinite, match="training loss is nan") as caught:
        step.take([batch(range(4)), batch([4, 5, 6])], rate=0.1, seed=0)
    assert caught.value.rows == (4, 5, 6)
    assert max(differences(step.classifier, plain_net())) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_step__compiled_is_the_same_network_under_the_same_names() -> None:
    plain, compiled = step_of(plain_net()), step_of(plain_net(), compile=True)
    for step in (plain, compiled):
        step.take([batch(range(6))], rate=0.1, seed=0)
    assert list(compiled.classifier.state_dict()) == list(plain.classifier.state_dict())
    assert max(differences(plain.classifier, compiled.classifier)) < 1e-5
    assert max(differences(compiled.classifier, plain_net())) > 1e-4


@pytest.mark.parametrize("decay", [None, 0.5])
def test_step__its_tensors_hold_all_it_needs_to_go_on(decay: float | None) -> None:
    options = {"optimizer": "adamw", "momentum": 0.9, "ema_decay": decay}
    straight, broken = (step_of(net_classifier(lambda: SmallNet(dropout=0.0)), **options) for _ in range(2))
    for number in range(4):
        straight.take([batch(range(number, number + 6))], rate=0.01, seed=number)
    for number in range(4):
        if number == 2:
            resumed = step_of(net_classifier(lambda: SmallNet(dropout=0.0)), **options)
            resumed.load(broken.tensors())
            broken = resumed
        broken.take([batch(range(number, number + 6))], rate=0.01, seed=number)
    assert max(differences(straight.evaluated, broken.evaluated)) == 0
    of_tensors = kept(broken.tensors())
    assert all(torch.equal(of_tensors[name], value) for name, value in straight.evaluated.state_dict().items())
