"""The training loop on generated shapes: it learns, stops, keeps the best, honours its options and names what breaks it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from platform_assets.vision.evaluation.scores import cross_entropy, score
from platform_assets.vision.networks.inference import predict
from platform_assets.vision.networks.weights import weights_sha256
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training import pace as training_pace
from platform_assets.vision.training.job import NonFiniteLoss
from platform_assets.vision.training.pace import PaceReport
from platform_assets.vision.training.state import STATE_FILE, EpochRow
from platform_assets.vision.training.train import TeacherMismatch, TrainResult
from platform_tests.vision.shapes import coloured_shapes, small_classifier
from platform_tests.vision.trainings import (
    RECIPE,
    TRAIN,
    VAL,
    SmallNet,
    net_classifier,
    one_thread,  # noqa: F401
    run,
    some_images,
    vit_classifier,
    without_times,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def weights_after(tmp_path: Path, recipe: TrainRecipe = RECIPE, **options: object) -> str:
    classifier, _ = run(tmp_path, recipe, **options)
    return weights_sha256(classifier)


def changed(**options: object) -> TrainRecipe:
    return TrainRecipe(**{**RECIPE.describe(), **options})


def test_train__learns_the_shapes(tmp_path: Path) -> None:
    recipe = TrainRecipe(epochs=5, batch_size=16, augmentation="dihedral", backbone_learning_rate_factor=1.0)
    test = coloured_shapes(90, seed=3)
    classifier, result = run(
        tmp_path,
        recipe,
        classifier=small_classifier(),
        train_part=coloured_shapes(180, seed=1),
        val_part=coloured_shapes(30, seed=2),
    )
    top1 = score(predict(classifier, test.images_nchw), test.labels_n, "top1")
    assert top1 > 0.9, result.history
    assert not classifier.training


def test_train__two_runs_end_with_the_same_weights_and_another_seed_elsewhere(tmp_path: Path) -> None:
    (first, result), (second, again) = (run(tmp_path / name) for name in ("first", "second"))
    assert weights_sha256(first) == weights_sha256(second) != weights_after(tmp_path / "other", seed=1)
    assert without_times(result) == without_times(again)


def test_train__leaves_its_state_file_and_the_random_numbers_of_others(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    run(tmp_path / "work", RECIPE)
    assert torch.equal(torch.rand(1), expected)
    assert [path.name for path in (tmp_path / "work").iterdir()] == [STATE_FILE]
    content = torch.load(tmp_path / "work" / STATE_FILE, weights_only=True)
    assert set(content["tensors"]) == {"model", "optimizer", "average", "scaler", "best"}


def test_train__early_stop_gives_the_best_and_the_last_weights(tmp_path: Path) -> None:
    # So high a rate that epochs get worse before they get better.
    recipe = TrainRecipe(epochs=20, batch_size=8, patience_epochs=2, learning_rate=0.3, warmup_epochs=0)
    seen: list[str] = []
    classifier = net_classifier()
    _, result = run(
        tmp_path, recipe, classifier=classifier, on_epoch=lambda row: seen.append(weights_sha256(classifier))
    )
    assert result.stopped_early
    assert result.history.height == result.best_epoch + 2 < 20
    assert weights_sha256(classifier) == seen[result.best_epoch - 1] != seen[-1]
    table = result.history.sort(["val_metric", "val_loss"], descending=[True, False])
    assert table["epoch"][0] == result.best_epoch
    assert all(torch.equal(tensor, result.best[name]) for name, tensor in classifier.state_dict().items())
    classifier.load_state_dict(result.last)
    assert weights_sha256(classifier) == seen[-1]


def test_train__max_steps_ends_a_smoke_run(tmp_path: Path) -> None:
    _, result = run(tmp_path, changed(epochs=5, max_steps=4))
    assert result.history["epoch"].to_list() == [1, 2]
    assert not result.stopped_early


def test_train__history_has_the_pace_and_the_gradient_norm_where_it_is_clipped(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain")[1].history
    clipped = run(tmp_path / "clipped", changed(clip_norm=1e-3))[1].history
    assert plain.columns == [name for name in EpochRow.model_fields if name != "gradient_norm"]
    assert clipped.columns == list(EpochRow.model_fields)
    assert (plain["images_per_second"] > 0).all()
    assert (clipped["gradient_norm"] > 1e-3).all(), "it is that before clipping"
    assert (plain["seconds"] >= len(TRAIN) / plain["images_per_second"]).all()


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 2},
        {"clip_norm": 1e-3},
        {"ema_decay": 0.5},
        {"optimizer": "sgd"},
        {"schedule": "linear"},
        {"layer_decay": 0.5},
        {"freeze_backbone_epochs": 1},
        {"frozen_layers": 1},
        {"loss": "focal"},
        {"label_smoothing": 0.0},
        {"sampler": "balanced"},
        {"augmentation": "none"},
        {"mixup": 0.4},
        {"learning_rate": 2e-3},
        {"weight_decay": 0.5},
        {"max_steps": 5},
    ],
    ids=str,
)
def test_train__every_option_of_the_recipe_changes_the_weights(tmp_path: Path, options: dict[str, object]) -> None:
    if "layer_decay" in options:
        options = {**options, "backbone_learning_rate_factor": 0.1}
    assert weights_after(tmp_path / "with", changed(**options)) != weights_after(tmp_path / "without")


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"deterministic": True}], ids=str)
def test_train__how_it_is_computed_does_not_change_the_weights(tmp_path: Path, options: dict[str, object]) -> None:
    plain = weights_after(tmp_path / "plain", classifier=vit_classifier())
    assert weights_after(tmp_path / "other", changed(**options), classifier=vit_classifier()) == plain


def test_train__drop_path_changes_the_weights_and_leaves_no_trace_in_the_network(tmp_path: Path) -> None:
    classifier = vit_classifier()
    structure = str(classifier)
    weights = weights_after(tmp_path / "dropped", changed(drop_path=0.5), classifier=classifier)
    assert weights != weights_after(tmp_path / "plain", classifier=vit_classifier())
    assert str(classifier) == structure


def test_train__frozen_parameters_stay_and_are_free_afterwards(tmp_path: Path) -> None:
    before = vit_classifier().state_dict()
    classifier, _ = run(tmp_path, changed(freeze_backbone_epochs=1, max_steps=3), classifier=vit_classifier())
    moved = {name for name, tensor in classifier.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"head.weight", "head.bias"}
    assert all(parameter.requires_grad for parameter in classifier.parameters())


def test_train__backbone_rate_factor_slows_the_backbone(tmp_path: Path) -> None:
    moved, stem = [], "backbone.stem.weight"
    for factor in (1e-3, 1.0):
        recipe = changed(epochs=1, max_steps=2, backbone_learning_rate_factor=factor, weight_decay=0)
        classifier, _ = run(tmp_path / str(factor), recipe)
        change = classifier.get_parameter(stem) - net_classifier().get_parameter(stem)
        moved.append(float(change.detach().abs().max()))
    assert moved[0] < moved[1] / 100


def test_train__moving_average_is_what_is_evaluated_and_kept(tmp_path: Path) -> None:
    classifier = net_classifier()
    plain: list[dict[str, torch.Tensor]] = []

    def remember(row: EpochRow) -> None:
        plain.append({name: tensor.clone() for name, tensor in classifier.state_dict().items()})

    _, result = run(tmp_path, changed(ema_decay=0.9), classifier=classifier, on_epoch=remember)
    last = plain[-1]
    assert not torch.equal(result.last["head.weight"], last["head.weight"])
    assert not torch.equal(result.best["head.weight"], plain[result.best_epoch - 1]["head.weight"])
    assert torch.equal(result.last["backbone.norm.running_mean"], last["backbone.norm.running_mean"])
    val = coloured_shapes(12, seed=2)
    logits_nk = predict(classifier, val.images_nchw)
    row = result.history.row(result.best_epoch - 1, named=True)
    assert row["val_loss"] == cross_entropy(logits_nk, val.labels_n)


class Teacher(nn.Module):
    """Knows the answer from nothing but a bias, and looks at what it is given."""

    def __init__(self, favourite: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(10 * torch.nn.functional.one_hot(torch.tensor(favourite), 3).float())
        self.seen: list[torch.Tensor] = []

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        self.seen.append(images_bchw)
        return self.bias.expand(len(images_bchw), -1)


def distilled(tmp_path: Path, teacher: Teacher) -> tuple[TrainResult, np.ndarray]:
    recipe = changed(distill_from="teacher", distill_weight=1.0, learning_rate=0.01, epochs=4)
    classifier, result = run(tmp_path, recipe, teacher=teacher)
    return result, predict(classifier, TRAIN.images_nchw).argmax(axis=1)


def test_train__distillation_follows_the_teacher_on_the_same_images(tmp_path: Path) -> None:
    teachers = [Teacher(0), Teacher(2)]
    for teacher in teachers:
        _, predictions_n = distilled(tmp_path, teacher)
        assert (predictions_n == teacher.bias.argmax().item()).mean() > 0.9, "and the other's state is passed over"
    images_bchw = teachers[0].seen[0]
    assert images_bchw.shape == (8, 3, 32, 32)
    assert 1 < images_bchw.float().max() <= 255
    assert not any(image_chw.requires_grad for image_chw in teachers[0].seen)


def test_train__teacher_and_recipe_go_together(tmp_path: Path) -> None:
    with pytest.raises(TeacherMismatch, match="has no distill_from"):
        run(tmp_path, teacher=Teacher(0))
    with pytest.raises(TeacherMismatch, match="'best' is set and no teacher is given"):
        run(tmp_path, changed(distill_from="best"))


class Contrasting(SmallNet):
    """A backbone with a loss of its own, which wants short features."""

    def auxiliary_loss(self, features_bd: torch.Tensor, labels_b: torch.Tensor) -> torch.Tensor:
        assert len(features_bd) == len(labels_b)
        return 100 * features_bd.square().mean()


def test_train__adds_the_backbones_own_loss(tmp_path: Path) -> None:
    lengths = []
    for net in (SmallNet, Contrasting):
        classifier, result = run(tmp_path / net.__name__, classifier=net_classifier(net))
        with torch.inference_mode():
            lengths.append(float(classifier.features(torch.from_numpy(TRAIN.images_nchw)).norm()))
    assert lengths[1] < lengths[0] / 2
    assert result.history["train_loss"][0] > 2, "the loss that is reported has it too"


@pytest.mark.parametrize("broken", ["loss", "norm"])
def test_train__names_the_images_of_a_batch_that_is_no_number(tmp_path: Path, broken: str) -> None:
    classifier = net_classifier()
    if broken == "loss":
        classifier.head.bias.data.fill_(float("nan"))
    else:
        classifier.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    what = {"loss": "training loss is nan", "norm": "gradient norm is (inf|nan)"}[broken]
    with pytest.raises(NonFiniteLoss, match=f"{what} in epoch 1, step 0") as caught:
        run(tmp_path, changed(clip_norm=1.0), classifier=classifier)
    assert len(caught.value.image_ids) == 8
    assert set(caught.value.image_ids) < set(TRAIN.image_ids)
    assert all(image_id in str(caught.value) for image_id in caught.value.image_ids)
    assert not (tmp_path / STATE_FILE).exists()


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_train__gradients_that_are_no_number_are_of_their_own_batch(tmp_path: Path, clip_norm: float | None) -> None:
    """Without clipping they went into the weights, and the images of the step after were named."""
    classifier, passes = net_classifier(), iter(range(10))
    classifier.head.weight.register_hook(lambda gradient: gradient * (float("nan") if next(passes) == 1 else 1))
    with pytest.raises(NonFiniteLoss, match="gradient norm is nan in epoch 1, step 1"):
        run(tmp_path, changed(clip_norm=clip_norm), classifier=classifier)
    assert all(bool(parameter.isfinite().all()) for parameter in classifier.parameters())


def test_train__weights_that_break_in_the_last_step_of_an_epoch_are_named_by_val(tmp_path: Path) -> None:
    """It ended as an EvaluationError, which a search over learning rates does not survive."""
    whole = {"batch_size": len(TRAIN), "optimizer": "sgd", "learning_rate": 1e30, "warmup_epochs": 0.0}
    with pytest.raises(NonFiniteLoss, match="of 12 val images are not finite after epoch 1, the first is ") as caught:
        run(tmp_path, changed(**whole))
    assert set(caught.value.image_ids) <= set(VAL.image_ids)


def test_train__last_batch_of_one_image_does_not_happen(tmp_path: Path) -> None:
    _, result = run(tmp_path, changed(epochs=1), train_part=some_images(TRAIN, 9))
    assert result.history["train_loss"].is_finite().all()


def test_train__reports_its_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_pace, "REPORT_SECONDS", 0.0)
    heard: list[PaceReport] = []
    _, result = run(tmp_path, on_progress=heard.append)
    assert [(report.epoch, report.batch) for report in heard] == [(e, b) for e in (1, 2) for b in (1, 2, 3)]
    assert {(report.epochs, report.batches) for report in heard} == {(2, 3)}
    assert all(report.images_per_second > 0 for report in heard)
    assert heard[-1].eta_seconds == 0 < heard[0].eta_seconds
    assert heard[-1].loss == pytest.approx(result.history["train_loss"][-1])


def test_train__a_short_training_is_silent(tmp_path: Path) -> None:
    heard: list[PaceReport] = []
    run(tmp_path, changed(max_steps=1), on_progress=heard.append)
    assert heard == []


def test_train__workers_change_nothing(tmp_path: Path) -> None:
    assert weights_after(tmp_path / "two", workers=2) == weights_after(tmp_path / "none")
