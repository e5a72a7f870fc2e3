"""How a network computes while it trains, against timm's own, and that it is put back afterwards."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import DropPath

from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.execution import NotOfThisBackbone, prepared
from platform_tests.vision.shapes import randomise_batch_norms, small_classifier
from platform_tests.vision.trainings import (
    one_thread,  # noqa: F401
    timm_classifier,
    vit_classifier,
)

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = 0.4


def rates(module: torch.nn.Module) -> list[float]:
    return [child.drop_prob for child in module.modules() if isinstance(child, DropPath)]


def classifier_around(name: str) -> Classifier:
    return vit_classifier() if name == "test_vit" else timm_classifier(name)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_prepared__stochastic_depth_is_that_of_timm(name: str) -> None:
    classifier = classifier_around(name)
    expected = rates(timm.create_model(name, pretrained=False, drop_path_rate=RATE))
    with prepared(classifier, TrainRecipe(drop_path=RATE)):
        # timm leaves out those that drop nothing.
        assert [rate for rate in rates(classifier) if rate] == pytest.approx([rate for rate in expected if rate])
    assert rates(classifier) == []


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_prepared__dropped_paths_change_training_and_not_evaluation(name: str) -> None:
    """timm's residual branches begin as zeros, whose loss nobody would see; these have some weight."""
    classifier = classifier_around(name)
    randomise_batch_norms(classifier)
    images_bchw = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = classifier(images_bchw)
        keys = list(classifier.state_dict())
        with prepared(classifier, TrainRecipe(drop_path=RATE)):
            assert list(classifier.state_dict()) == keys
            assert torch.equal(classifier.eval()(images_bchw), expected)
            for module in classifier.modules():
                module.train(isinstance(module, DropPath))
            runs = [classifier(images_bchw) for _ in range(6)]
        assert any(not torch.equal(runs[0], other) for other in runs[1:])
        assert torch.equal(classifier.eval()(images_bchw), expected)


def test_prepared__efficientnets_have_paths_to_drop() -> None:
    classifier = timm_classifier("tf_efficientnet_lite0")
    with prepared(classifier, TrainRecipe(drop_path=RATE)):
        assert len(rates(classifier)) == 16
        assert max(rates(classifier)) == RATE


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"drop_path": 0.1}, "'baseline_cnn' has no residual branches that drop_path could drop; remove drop_path"),
        ({"gradient_checkpointing": True}, "'baseline_cnn' cannot recompute its activations; remove gradient_"),
    ],
)
def test_prepared__refuses_what_the_backbone_lacks(option: dict[str, object], message: str) -> None:
    with pytest.raises(NotOfThisBackbone, match=message), prepared(small_classifier(), TrainRecipe(**option)):
        pass


def test_prepared__takes_the_assertion_of_a_network_of_timm_for_what_it_means() -> None:
    recipe = TrainRecipe(gradient_checkpointing=True)
    with (
        pytest.raises(NotOfThisBackbone, match="cannot recompute its activations"),
        prepared(timm_classifier("pit_ti_224"), recipe),
    ):
        pass


def test_prepared__puts_everything_back_after_an_error() -> None:
    classifier = vit_classifier()
    recipe = TrainRecipe(drop_path=0.2, gradient_checkpointing=True, deterministic=True)

    def broken_training() -> None:
        with prepared(classifier, recipe):
            assert classifier.backbone.grad_checkpointing
            assert torch.are_deterministic_algorithms_enabled()
            classifier.head.weight.requires_grad_(False)
            raise KeyError

    with pytest.raises(KeyError):
        broken_training()
    assert not classifier.backbone.grad_checkpointing
    assert not torch.are_deterministic_algorithms_enabled()
    assert classifier.head.weight.requires_grad
    assert rates(classifier) == []


def test_prepared__deterministic_algorithms_refuse_what_may_vary() -> None:
    def varying() -> None:
        torch.zeros(3).put_(torch.tensor([1]), torch.tensor([1.0]), accumulate=False)

    varying()
    with prepared(small_classifier(), TrainRecipe(deterministic=True)), pytest.raises(RuntimeError, match="determin"):
        varying()
