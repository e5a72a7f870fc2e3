"""The learning-rate range test: rates that grow, an end at divergence, and weights left alone."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.networks.weights import weights_sha256
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.lr_range import (
    HIGHEST_RATE,
    LOWEST_RATE,
    NoLearningRate,
    lr_range_test,
    suggested_rate,
)
from platform_tests.vision.trainings import (
    TRAIN,
    SmallNet,
    net_classifier,
    one_thread,  # noqa: F401
)

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = TrainRecipe(batch_size=8, backbone_learning_rate_factor=1.0, accumulate=2)


def plain_net() -> Classifier:
    return net_classifier(lambda: SmallNet(norm=False, dropout=0.0))


def test_lr_range__rates_grow_by_one_factor_and_the_loss_falls_before_it_breaks() -> None:
    classifier = plain_net()
    before, mode = weights_sha256(classifier), classifier.training
    tested = lr_range_test(classifier, TRAIN, RECIPE, seed=0, device="cpu", steps=50)
    factors = np.diff(np.log(tested["learning_rate"].to_numpy()))
    assert tested["learning_rate"][0] == pytest.approx(LOWEST_RATE)
    assert tested["learning_rate"][-1] <= HIGHEST_RATE
    np.testing.assert_allclose(factors, factors[0])
    rate = suggested_rate(tested)
    lowest = tested["learning_rate"][int(tested["smoothed_loss"].arg_min() or 0)]
    assert 1e-5 < rate < lowest
    assert (weights_sha256(classifier), classifier.training) == (before, mode)
    assert tested.equals(lr_range_test(classifier, TRAIN, RECIPE, seed=0, device="cpu", steps=50))


def test_lr_range__smoothed_loss_is_the_corrected_exponential_mean() -> None:
    tested = lr_range_test(plain_net(), TRAIN, RECIPE, seed=0, device="cpu", steps=12)
    weights = 0.9 ** np.arange(12)[::-1]
    assert tested["smoothed_loss"][0] == pytest.approx(tested["loss"][0])
    assert tested["smoothed_loss"][11] == pytest.approx(np.average(tested["loss"].to_numpy(), weights=weights))


def test_lr_range__ends_where_the_loss_breaks() -> None:
    recipe = RECIPE.model_copy(update={"optimizer": "sgd", "weight_decay": 0.0})
    classifier = plain_net()
    classifier.head.weight.data *= 30
    tested = lr_range_test(classifier, TRAIN, recipe, seed=0, device="cpu", steps=60)
    assert tested.height < 60
    assert tested["smoothed_loss"].is_finite().all()


def test_lr_range__says_so_where_not_even_the_first_step_has_a_loss() -> None:
    """A table without columns came back, and the command ended in a traceback."""
    classifier = plain_net()
    classifier.head.bias.data.fill_(float("nan"))
    with pytest.raises(NoLearningRate, match="the first step of the range test"):
        lr_range_test(classifier, TRAIN, RECIPE, seed=0, device="cpu", steps=4)


def test_lr_range__on_several_devices_is_the_same_batch_in_one_process() -> None:
    two = RECIPE.model_copy(update={"devices": 2, "accumulate": 1})
    one, other = (lr_range_test(plain_net(), TRAIN, recipe, seed=0, device="cpu", steps=4) for recipe in (RECIPE, two))
    assert one.equals(other)


def test_suggested_rate__is_where_the_loss_falls_steepest() -> None:
    rates = np.geomspace(1e-6, 1.0, 61)
    loss = 2 / (1 + np.exp(4 * (np.log10(rates) + 3))) + 1  # a logistic step, steepest at 1e-3
    tested = pl.DataFrame({"learning_rate": rates, "smoothed_loss": loss})
    assert suggested_rate(tested) == pytest.approx(1e-3)


@pytest.mark.parametrize("losses", [[1.0, 1.1, 1.2], [1.0]])
def test_suggested_rate__none_where_the_loss_never_fell(losses: list[float]) -> None:
    rates = LOWEST_RATE * 2.0 ** np.arange(len(losses))
    with pytest.raises(NoLearningRate, match=f"fell at no rate of the {len(losses)} steps"):
        suggested_rate(pl.DataFrame({"learning_rate": rates, "smoothed_loss": losses}))


def test_suggested_rate__a_steeper_fall_past_the_lowest_does_not_count() -> None:
    rates, losses = 10.0 ** np.arange(-6, 0), [3.0, 2.9, 2.0, 1.2, 9.0, 4.0]
    assert suggested_rate(pl.DataFrame({"learning_rate": rates, "smoothed_loss": losses})) == pytest.approx(1e-4)
