"""Layers, parameter groups, rates and freezing: on timm's models, the baseline and modules nobody prepared."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.recipes.train_options import OptimizerOptions, TrainRecipe
from platform_assets.vision.training.optimization import (
    TooManyFrozenLayers,
    freeze,
    layers_of,
    make_optimizer,
    parameter_groups,
    rate_factor,
    trainable,
)
from platform_tests.vision.shapes import coloured_shapes, small_classifier
from platform_tests.vision.tiny_training import tiny_training

PART = coloured_shapes(24, seed=1)
SCHEDULES = ("cosine", "linear", "step", "one_cycle", "constant")
TIMM_NAMES = ("test_vit", "test_resnet", "tf_efficientnet_lite0", "convnext_atto", "test_vit3")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, maps_bchw: torch.Tensor) -> torch.Tensor:
        return maps_bchw + torch.relu(self.norm(self.conv(maps_bchw)))


class Unprepared(nn.Module):
    """A plug-in that says nothing of its layers: tokens, a stem, blocks in a list, a norm over all axes, a neck."""

    def __init__(self) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.randn(1, 1, 8))
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8, affine=False), nn.ReLU())
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm((8, 8, 8))
        self.places = nn.Embedding(4, 8)
        self.neck = nn.Linear(8, 8)
        self.unused = nn.Dropout()

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        maps_bchw = self.stem(images_bchw)
        for block in self.blocks:
            maps_bchw = block(maps_bchw)
        maps_bchw = self.norm(maps_bchw)
        features_bd: torch.Tensor = self.neck(maps_bchw.mean((2, 3)) + self.class_token[0] + self.places.weight[0])
        return features_bd


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        features_bd: torch.Tensor = self.model(images_bchw)
        return features_bd


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def timm_backbone(name: str) -> nn.Module:
    sized = {"img_size": 32} if "vit" in name else {}
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **sized)
    return model


def around(backbone: nn.Module, features: int) -> Classifier:
    """A classifier with another backbone than the registry's."""
    classifier = small_classifier()
    classifier.backbone, classifier.head = backbone, nn.Linear(features, classifier.num_classes)
    return classifier


def classifiers() -> dict[str, Classifier]:
    with torch.device("meta"):  # shapes without values, made at once
        models = {name: timm_backbone(name) for name in TIMM_NAMES}
    found = {name: around(model, int(model.num_features)) for name, model in models.items()}  # type: ignore[arg-type]
    return found | {"baseline": small_classifier(), "unprepared": around(Unprepared(), 8)}


@pytest.fixture(scope="module")
def every_classifier() -> dict[str, Classifier]:
    return classifiers()


def names_of(classifier: nn.Module, parameters: list[nn.Parameter]) -> list[str]:
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    return [names[id(parameter)] for parameter in parameters]


def grouped(classifier: Classifier, **options: Any) -> list[tuple[list[str], float, float]]:
    groups = parameter_groups(classifier, OptimizerOptions.model_validate(options))
    assert all(set(group) == {"params", "weight_decay", "rate_share"} for group in groups)
    return [(names_of(classifier, group["params"]), group["weight_decay"], group["rate_share"]) for group in groups]


def test_layers_of__the_baseline_is_a_stem_and_its_blocks() -> None:
    backbone = small_classifier().backbone
    starts = [{name.rsplit(".", 2)[0] for name in names_of(backbone, layer)} for layer in layers_of(backbone)]
    assert [min(names) for names in starts] == ["stem", "blocks.0", "blocks.1", "blocks.2"]


def test_layers_of__unprepared_modules_go_by_their_children() -> None:
    backbone = Unprepared()
    firsts = [names_of(backbone, layer)[0] for layer in layers_of(backbone)]
    assert firsts == [
        "class_token",
        "stem.0.weight",
        "blocks.0.conv.weight",
        "blocks.1.conv.weight",
        "blocks.2.conv.weight",
        "norm.weight",
        "places.weight",
        "neck.weight",
    ]


def test_layers_of__timm_counts_its_own_and_a_wrapper_hides_nothing() -> None:
    model = timm_backbone("test_vit")
    layers = [names_of(model, layer) for layer in layers_of(model)]
    assert len(layers) == 7
    assert layers[0][:2] == ["cls_token", "pos_embed"]
    assert {name.rsplit(".", 2)[0] for name in layers[1] if "mlp" not in name} >= {"blocks.0.attn"}
    assert layers[-1][-2:] == ["norm.weight", "norm.bias"]
    assert [names_of(model, layer) for layer in layers_of(Wrapped(model))] == layers


def test_layers_of__a_wrapper_around_an_unprepared_module_hides_nothing() -> None:
    model = small_classifier().backbone
    assert [len(layer) for layer in layers_of(Wrapped(Wrapped(model)))] == [len(layer) for layer in layers_of(model)]


def test_layers_of__a_parameter_in_two_places_counts_in_the_first() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    assert [len(layer) for layer in layers_of(nn.Sequential(nn.Sequential(first), second, nn.Linear(4, 2)))] == [1, 2]


@pytest.mark.parametrize("options", [{}, {"layer_decay": 0.7}, {"weight_decay": 0.0}], ids=str)
def test_parameter_groups__hold_every_parameter_once(
    every_classifier: dict[str, Classifier], options: dict[str, Any]
) -> None:
    for name, classifier in every_classifier.items():
        groups = grouped(classifier, **options)
        members = [member for names, _, _ in groups for member in names]
        assert sorted(members) == sorted(dict(classifier.named_parameters())), name
        layers = [member for layer in layers_of(classifier.backbone) for member in names_of(classifier, layer)]
        assert sorted(layers) == sorted(member for member in members if member.startswith("backbone.")), name
        assert groups == grouped(copy.deepcopy(classifier), **options), name


def test_parameter_groups__decay_matrices_alone(every_classifier: dict[str, Classifier]) -> None:
    for name, classifier in every_classifier.items():
        parameters = dict(classifier.named_parameters())
        spared = {n for names, decay, _ in grouped(classifier) if decay == 0 for n in names}
        vectors = {n for n, parameter in parameters.items() if parameter.ndim == 1}
        listed = getattr(classifier.backbone, "no_weight_decay", set)()
        tokens = {f"backbone.{n}" for n in listed} & set(parameters)
        if name == "unprepared":
            tokens = {"backbone.class_token", "backbone.norm.weight", "backbone.norm.bias", "backbone.places.weight"}
        assert spared == vectors | tokens, name
    assert "backbone.pos_embed" in {
        n for names, decay, _ in grouped(every_classifier["test_vit"]) if not decay for n in names
    }


def test_parameter_groups__tokens_of_a_wrapped_vit_are_spared() -> None:
    groups = grouped(around(Wrapped(timm_backbone("test_vit")), 64))
    spared = {name for names, decay, _ in groups if decay == 0 for name in names}
    assert {"backbone.model.cls_token", "backbone.model.pos_embed"} <= spared


def test_parameter_groups__a_plug_in_lists_what_does_not_decay() -> None:
    class Listing(Unprepared):
        def no_weight_decay(self) -> set[str]:
            return {"neck.weight", "blocks.*.conv.weight"}

    spared = {name for names, decay, _ in grouped(around(Listing(), 8)) if decay == 0 for name in names}
    others = {name for names, decay, _ in grouped(around(Unprepared(), 8)) if decay == 0 for name in names}
    assert spared - others == {"backbone.neck.weight"} | {f"backbone.blocks.{n}.conv.weight" for n in range(3)}


def test_parameter_groups__without_layer_decay_are_backbone_and_head() -> None:
    groups = grouped(small_classifier(), backbone_learning_rate_factor=0.2, weight_decay=0.3)
    assert [(names[0].split(".")[0], decay, share) for names, decay, share in groups] == [
        ("backbone", 0.3, 0.2),
        ("backbone", 0.0, 0.2),
        ("head", 0.3, 1.0),
        ("head", 0.0, 1.0),
    ]


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_parameter_groups__layer_decay_is_timms(every_classifier: dict[str, Classifier], name: str) -> None:
    """timm's own groups of the same model, one layer lower because our head stands outside of it."""
    classifier = every_classifier[name]
    model: Any = classifier.backbone
    listed = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    theirs = param_groups_layer_decay(model, 0.05, no_weight_decay_list=listed, layer_decay=0.7)
    expected = {
        f"backbone.{n}": (group["weight_decay"], pytest.approx(group["lr_scale"] * 0.7))
        for group in theirs
        for n in names_of(model, group["params"])
    }
    ours = {n: (decay, share) for names, decay, share in grouped(classifier, layer_decay=0.7) for n in names}
    assert {n: ours.pop(n) for n in expected} == expected
    assert ours == {"head.weight": (0.05, 1.0), "head.bias": (0.0, 1.0)}


def moved(optimizer: torch.optim.Optimizer, classifier: Classifier) -> dict[str, torch.Tensor]:
    """The weights after three steps on the same images."""
    for _ in range(3):
        optimizer.zero_grad()
        classifier(torch.from_numpy(PART.images_nchw[:4])).square().mean().backward()
        optimizer.step()
    return classifier.state_dict()


@pytest.mark.parametrize(("ours", "theirs"), [("adamw", "adamw"), ("sgd", "sgd"), ("lion", "lion")])
def test_make_optimizer__steps_as_timms(ours: str, theirs: str) -> None:
    options = OptimizerOptions.model_validate(
        {"optimizer": ours, "learning_rate": 1e-3, "weight_decay": 0.1, "backbone_learning_rate_factor": 1.0}
    )
    first, second = small_classifier().train(), small_classifier().train()
    optimizer = create_optimizer_v2(second, theirs, lr=1e-3, weight_decay=0.1, momentum=0.9)
    made = make_optimizer(first, options)
    assert type(made) is type(optimizer)
    torch.testing.assert_close(moved(made, first), moved(optimizer, second), rtol=1e-5, atol=1e-7)


def test_make_optimizer__groups_start_at_their_own_rate() -> None:
    groups = make_optimizer(small_classifier(), OptimizerOptions(learning_rate=0.5)).param_groups
    assert [group["lr"] for group in groups] == [0.05, 0.05, 0.5, 0.5]


def test_make_optimizer__sgd_without_momentum_has_no_nesterov() -> None:
    optimizer = make_optimizer(small_classifier(), OptimizerOptions(optimizer="sgd", momentum=0.0))
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.0, False)


def rates(schedule: str, *, epochs: int, epoch_steps: int, **options: Any) -> list[float]:
    chosen = OptimizerOptions.model_validate({"schedule": schedule, **options})
    total = epochs * epoch_steps
    return [rate_factor(step, total_steps=total, epoch_steps=epoch_steps, options=chosen) for step in range(total)]


def rates_of(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def sgd(rate: float = 1.0) -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)


@given(st.integers(1, 12), st.integers(1, 9), st.floats(0, 12), st.integers(1, 200))
@settings(max_examples=60)
def test_rate_factor__cosine_is_that_of_earlier_results(
    epochs: int, epoch_steps: int, warmup_epochs: float, max_steps: int
) -> None:
    """The formula by which all earlier trainings ran, to the bit."""
    total, options = min(epochs * epoch_steps, max_steps), OptimizerOptions(warmup_epochs=warmup_epochs)
    warmup = min(round(warmup_epochs * epoch_steps), total // 2)
    for step in range(total):
        if step < warmup:
            expected = (step + 1) / warmup
        else:
            expected = 0.5 * (1 + math.cos(math.pi * ((step - warmup) / max(1, total - warmup))))
        assert rate_factor(step, total_steps=total, epoch_steps=epoch_steps, options=options) == expected


@given(st.integers(1, 60))
@settings(max_examples=40)
def test_rate_factor__one_cycle_is_torchs(steps: int) -> None:
    scheduler = torch.optim.lr_scheduler.OneCycleLR(sgd(), max_lr=1.0, total_steps=steps, cycle_momentum=False)
    expected = [scheduler.get_last_lr()[0]]
    for _ in range(steps - 1):
        scheduler.optimizer.step()
        scheduler.step()
        expected.append(scheduler.get_last_lr()[0])
    assert rates("one_cycle", epochs=1, epoch_steps=steps) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_rate_factor__without_warmup_is_torchs() -> None:
    schedulers = torch.optim.lr_scheduler
    cases = {
        "cosine": schedulers.CosineAnnealingLR(sgd(), T_max=20),
        "linear": schedulers.LinearLR(sgd(), start_factor=1.0, end_factor=0.0, total_iters=20),
        "step": schedulers.StepLR(sgd(), step_size=8, gamma=0.3),
        "constant": schedulers.ConstantLR(sgd(), factor=1.0),
    }
    steps = {"step_epochs": 2, "step_factor": 0.3}
    for schedule, scheduler in cases.items():
        extra = steps if schedule == "step" else {}
        ours = rates(schedule, epochs=5, epoch_steps=4, warmup_epochs=0.0, **extra)
        assert ours == pytest.approx(rates_of(scheduler, 20)), schedule


@given(st.sampled_from(SCHEDULES), st.integers(1, 10), st.integers(1, 10), st.floats(0, 10))
@settings(max_examples=60)
def test_rate_factor__rises_to_at_most_one_and_never_rises_again(
    schedule: str, epochs: int, epoch_steps: int, warmup_epochs: float
) -> None:
    warmup = {} if schedule == "one_cycle" else {"warmup_epochs": warmup_epochs}
    found = rates(schedule, epochs=epochs, epoch_steps=epoch_steps, **warmup)
    peak = found.index(max(found))
    assert all(0 < rate <= 1 for rate in found)
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)


def test_rate_factor__warmup_is_refused_with_one_cycle_and_its_default_not_used() -> None:
    plain = rates("one_cycle", epochs=4, epoch_steps=5, warmup_epochs=0.0)
    assert plain == rates("one_cycle", epochs=4, epoch_steps=5)
    with pytest.raises(ValidationError, match=r"'warmup_epochs' 3.0 has no meaning without a schedule other than"):
        rates("one_cycle", epochs=4, epoch_steps=5, warmup_epochs=3.0)
    assert rates("linear", epochs=4, epoch_steps=5, warmup_epochs=3.0)[:3] == [0.1, 0.2, 0.3]


def test_freeze__head_alone_then_all_but_the_lowest() -> None:
    classifier, options = small_classifier(), OptimizerOptions(freeze_backbone_epochs=2, frozen_layers=2)
    trained, all_of_it = [], trainable(classifier)
    for epoch in (1, 2, 3):
        freeze(classifier.train(), options, epoch, all_of_it)
        trained.append({n.rsplit(".", 1)[0] for n, p in classifier.named_parameters() if p.requires_grad})
    assert trained[0] == trained[1] == {"head"}
    assert {name.removeprefix("backbone.")[:8] for name in trained[2]} == {"blocks.1", "blocks.2", "head"}


def test_freeze__norms_stop_with_their_layer() -> None:
    classifier = around(Unprepared(), 8)
    blocks: Any = classifier.backbone.blocks
    stem: Any = classifier.backbone.stem
    all_of_it = trainable(classifier)
    freeze(classifier.train(), OptimizerOptions(frozen_layers=3), 1, all_of_it)
    assert [block.norm.training for block in blocks] == [False, True, True]
    assert not stem[1].training, "a norm without parameters goes by the layer around it"
    freeze(classifier.train(), OptimizerOptions(), 1, all_of_it)
    assert all(module.training for module in classifier.modules())


def test_freeze__more_layers_than_there_are() -> None:
    with pytest.raises(
        TooManyFrozenLayers, match=r"frozen_layers 5: backbone 'baseline_cnn' has 4 layers; choose 0 to 4"
    ):
        freeze(small_classifier(), OptimizerOptions(frozen_layers=5), 1, frozenset())


def test_freeze__what_the_author_of_a_network_has_frozen_stays_so() -> None:
    """Its norms too; every epoch trained the whole of a plug-in that trains an adapter on a fixed trunk."""
    classifier = around(Unprepared(), 8)
    blocks: Any = classifier.backbone.blocks
    blocks[1].requires_grad_(False)
    asked, options = trainable(classifier), OptimizerOptions(freeze_backbone_epochs=1)
    for epoch in (1, 2):
        freeze(classifier.train(), options, epoch, asked)
    trained = {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}
    assert {name for name in dict(classifier.named_parameters()) if name not in trained} == {
        f"backbone.blocks.1.{name}" for name, _ in blocks[1].named_parameters()
    }
    assert [block.norm.training for block in blocks] == [True, False, True]


def trained(classifier: Classifier | None = None, **options: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
    classifier = classifier or small_classifier()
    defaults = {"epochs": 3, "batch_size": 12, "backbone_learning_rate_factor": 1.0}
    history = tiny_training(classifier, PART, TrainRecipe.model_validate(defaults | options))
    return classifier.state_dict(), history


@pytest.fixture(scope="module")
def plain() -> tuple[dict[str, torch.Tensor], list[float]]:
    torch.set_num_threads(1)
    return trained()


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "learning_rate": 0.02, "weight_decay": 1e-4},
        {"optimizer": "lion", "learning_rate": 2e-4},
        {"schedule": "linear"},
        {"schedule": "step", "step_epochs": 1},
        {"schedule": "one_cycle"},
        {"schedule": "constant"},
        {"warmup_epochs": 0.0},
        {"layer_decay": 0.5},
    ],
    ids=str,
)
def test_options__each_trains_and_ends_elsewhere(
    plain: tuple[dict[str, torch.Tensor], list[float]], options: dict[str, Any]
) -> None:
    weights, history = trained(**options)
    assert history[-1] < history[0], history
    assert not torch.equal(weights["backbone.stem.0.weight"], plain[0]["backbone.stem.0.weight"])


def test_options__the_same_training_ends_at_the_same_weights(
    plain: tuple[dict[str, torch.Tensor], list[float]],
) -> None:
    weights, history = trained()
    assert history == plain[1]
    assert all(torch.equal(weights[name], plain[0][name]) for name in weights)


def test_options__layer_decay_moves_the_stem_of_a_vit_least() -> None:
    torch.manual_seed(0)
    backbone = timm_backbone("test_vit")
    classifier = around(backbone, 64)
    before = copy.deepcopy(classifier.state_dict())
    weights, _ = trained(classifier, layer_decay=0.5, weight_decay=0.0, epochs=1)
    names = [f"backbone.blocks.{block}.attn.qkv.weight" for block in range(6)]
    distances = [float((weights[name] - before[name]).abs().mean()) for name in names]
    assert distances == sorted(distances)
    assert distances[0] < distances[-1] / 8


@pytest.mark.parametrize("freezing", [{"freeze_backbone_epochs": 2}, {"frozen_layers": 4}], ids=str)
def test_options__frozen_layers_keep_weights_and_statistics(freezing: dict[str, Any]) -> None:
    before = copy.deepcopy(small_classifier().state_dict())
    weights, history = trained(epochs=3, **freezing)
    same = {name for name in weights if torch.equal(weights[name], before[name])}
    backbone = {name for name in weights if name.startswith("backbone.")}
    if "frozen_layers" in freezing:
        assert same == backbone
    else:
        assert not same & {"backbone.stem.0.weight", "backbone.stem.1.running_mean", "head.weight"}
    assert history[-1] < history[0]


def test_options__the_first_epochs_of_the_head_leave_the_backbone_alone() -> None:
    classifier = small_classifier()
    before = copy.deepcopy(classifier.state_dict())
    options = TrainRecipe(epochs=2, batch_size=12, freeze_backbone_epochs=1)
    optimizer = make_optimizer(classifier, options)
    freeze(classifier.train(), options, 1, trainable(classifier))
    after = moved(optimizer, classifier)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"head.weight", "head.bias"}
