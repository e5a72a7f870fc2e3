"""Averages of weights: greedy and uniform, and the statistics of their batch norms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from platform_assets.vision.evaluation.scores import cross_entropy, score
from platform_assets.vision.networks.inference import predict
from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.trials.soups import (
    Judged,
    NotOneArchitecture,
    State,
    greedy_soup,
    has_batch_norms,
    with_new_statistics,
)
from platform_tests.vision.shapes import coloured_shapes, randomise_batch_norms, small_classifier
from platform_tests.vision.tiny_training import tiny_training
from platform_tests.vision.trainings import one_thread, timm_classifier, vit_classifier

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN, VAL = coloured_shapes(72, seed=1), coloured_shapes(48, seed=2)
TARGET = torch.tensor([1.0, -2.0, 3.0])


def state(*values: float) -> State:
    return {"w": torch.tensor(values, dtype=torch.float32), "count": torch.tensor(7)}


def near_target(found: State) -> Judged:
    """A loss with one minimum: the nearer to TARGET, the better."""
    distance = float((found["w"] - TARGET).square().sum())
    return Judged(metric=-distance, loss=distance)


def judge(classifier: Classifier) -> Callable[[State], Judged]:
    def score_of(found: State) -> Judged:
        classifier.load_state_dict(found)
        logits_nk = predict(classifier, VAL.images_nchw)
        return Judged(score(logits_nk, VAL.labels_n, "top1"), cross_entropy(logits_nk, VAL.labels_n))

    return score_of


def greedy_in_loops(members: dict[str, State], score_of: Callable[[State], Judged]) -> tuple[list[str], State]:
    """Recipe 1 of the paper, written out."""
    order = sorted(members, key=lambda name: (-score_of(members[name]).metric, score_of(members[name]).loss, name))

    def average(names: list[str]) -> State:
        made = dict(members[names[0]])
        for key, value in made.items():
            if value.is_floating_point():
                total = torch.zeros_like(value, dtype=torch.float64)
                for name in names:
                    total = total + members[name][key]
                made[key] = (total / len(names)).to(value.dtype)
        return made

    included = [order[0]]
    for name in order[1:]:
        if score_of(average([*included, name])).rank >= score_of(average(included)).rank:
            included.append(name)
    return included, average(included)


def trained(start: Classifier, build: Callable[[], Classifier], rates: dict[str, float]) -> dict[str, State]:
    """Trainings of one epoch from one start, one a rate."""
    begun, found = start.state_dict(), {}
    for name, rate in rates.items():
        classifier = build()
        classifier.load_state_dict(begun)
        recipe = TrainRecipe(epochs=1, batch_size=12, learning_rate=rate, augmentation="none", warmup_epochs=0.5)
        tiny_training(classifier, TRAIN, recipe)
        found[name] = {key: value.clone() for key, value in classifier.state_dict().items()}
    return found


def test_greedy_soup__is_that_of_the_loops_on_random_members() -> None:
    sizes = set()
    for seed in range(20):
        generator = np.random.default_rng(seed)
        members = {f"m{n}": state(*(TARGET.numpy() + generator.normal(size=3)).astype(float)) for n in range(6)}
        soup = greedy_soup(members, near_target)
        included, wanted = greedy_in_loops(members, near_target)
        assert list(soup.included) == included
        assert torch.equal(soup.state["w"], wanted["w"])
        assert soup.judged == near_target(wanted)
        assert soup.judged.rank >= max(judged.rank for judged in soup.alone.values())
        sizes.add(len(included))
    assert len(sizes) > 1, "every case was the same"


def test_greedy_soup__tells_every_step() -> None:
    members = {"near": state(1, -2, 2), "same_side": state(1, -2, 0), "far": state(40, 0, 0)}
    soup = greedy_soup(members, near_target)
    assert soup.included == ("near",)
    assert soup.state is members["near"], "one member alone is untouched"
    members["across"] = state(1, -2, 4.5)
    soup = greedy_soup(members, near_target)
    assert soup.included == ("near", "across")
    assert soup.steps.select("step", "trial", "members", "taken").rows() == [
        ("alone", "near", 1, True),
        ("alone", "across", 1, False),
        ("alone", "same_side", 1, False),
        ("alone", "far", 1, False),
        ("added", "across", 2, True),
        ("added", "same_side", 3, False),
        ("added", "far", 3, False),
        ("uniform", "", 4, False),
    ]
    everyone = torch.stack([member["w"] for member in members.values()]).mean(dim=0)
    assert soup.uniform == near_target({"w": everyone})
    assert soup.state["count"].item() == 7


def test_greedy_soup__does_not_depend_on_the_order_of_the_members() -> None:
    members = {name: state(*values) for name, values in [("a", (1, -2, 2)), ("b", (1, -2, 4)), ("c", (0, -2, 3))]}
    forward, backward = (greedy_soup(dict(order), near_target) for order in (members.items(), [*members.items()][::-1]))
    assert forward.included == backward.included
    assert forward.steps.equals(backward.steps)


def test_greedy_soup__of_equals_goes_by_the_loss_then_by_the_name() -> None:
    members = {"a": state(6, 0, 0), "y": state(3, 0, 0), "x": state(2, 0, 0)}
    soup = greedy_soup(members, lambda found: Judged(0.5, 1.0 if found["w"][0] <= 3 else 2.0))
    assert soup.included == ("x", "y"), "an equal average is taken, one of more loss is not"


def test_greedy_soup__refuses_two_architectures() -> None:
    with pytest.raises(NotOneArchitecture, match=r"tensor w of a is \(3,\) and of b \(2,\)"):
        greedy_soup({"a": state(1, 2, 3), "b": state(1, 2)}, lambda _: Judged(0, 0))
    with pytest.raises(NotOneArchitecture, match=r"tensor more of a is missing and of b \(1,\)"):
        greedy_soup({"a": state(1, 2), "b": state(1, 2) | {"more": torch.zeros(1)}}, lambda _: Judged(0, 0))


def test_with_new_statistics__are_those_of_the_images() -> None:
    classifier = small_classifier()
    randomise_batch_norms(classifier)
    norm = classifier.backbone.stem[1]
    seen: list[torch.Tensor] = []
    hook = norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].clone()))
    few = coloured_shapes(64, seed=3)  # one batch, whose statistics are written out here
    found = with_new_statistics(classifier, dict(classifier.state_dict()), few, device="cpu")
    hook.remove()
    torch.testing.assert_close(found["backbone.stem.1.running_mean"], seen[0].mean(dim=(0, 2, 3)))
    torch.testing.assert_close(found["backbone.stem.1.running_var"], seen[0].transpose(0, 1).flatten(1).var(dim=1))
    assert not classifier.training
    again = with_new_statistics(classifier, found, few, device="cpu")
    assert all(torch.equal(again[name], value) for name, value in found.items())


@pytest.mark.parametrize(("network", "norms"), [("test_resnet", True), ("test_vit", False), ("baseline", True)])
def test_greedy_soup__of_networks(network: str, norms: bool) -> None:
    build: dict[str, Callable[[], Classifier]] = {
        "test_resnet": lambda: timm_classifier("test_resnet"),
        "test_vit": vit_classifier,
        "baseline": small_classifier,
    }
    classifier = build[network]()
    assert has_batch_norms(classifier) == norms
    recipe = TrainRecipe(epochs=2, batch_size=12, learning_rate=3e-3, augmentation="none", warmup_epochs=0.5)
    tiny_training(classifier, TRAIN, recipe)
    members = trained(classifier, build[network], {"low": 2e-4, "middle": 5e-4, "high": 1e-3})
    score_of = judge(classifier)

    def renormalise(found: State) -> State:
        return with_new_statistics(classifier, found, TRAIN, device="cpu")

    soup = greedy_soup(members, score_of, renormalise=renormalise if norms else None)
    best = max(judged.rank for judged in soup.alone.values())
    assert soup.judged.rank >= best
    assert score_of(soup.state) == soup.judged
    assert torch.isfinite(torch.tensor([soup.uniform.loss, soup.judged.loss])).all()


def test_with_new_statistics__mends_an_average_of_unlike_batch_norms() -> None:
    """Two networks of the same function, channels of one scaled: the mean of their statistics is that of neither."""
    classifier = small_classifier()
    recipe = TrainRecipe(epochs=5, batch_size=12, learning_rate=3e-3, augmentation="none", warmup_epochs=0.5)
    tiny_training(classifier, TRAIN, recipe)
    one = {key: value.clone() for key, value in classifier.state_dict().items()}
    two = {key: value.clone() for key, value in one.items()}
    two["backbone.stem.0.weight"] *= 9  # the norm behind it takes the factor out again
    two["backbone.stem.1.running_mean"] *= 9
    two["backbone.stem.1.running_var"] *= 81
    score_of = judge(classifier)
    assert score_of(two).metric == score_of(one).metric
    members = {"one": one, "two": two}
    plain = greedy_soup(members, score_of).uniform
    mended = greedy_soup(
        members, score_of, renormalise=lambda found: with_new_statistics(classifier, found, TRAIN, device="cpu")
    ).uniform
    assert mended.loss < plain.loss
