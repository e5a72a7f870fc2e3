"""The moving average of the weights, against a plain loop."""

from __future__ import annotations

import torch

from platform_assets.vision.training.ema import WeightAverage
from platform_tests.vision.trainings import net_classifier

DECAY = 0.8


def test_weight_average__is_the_mean_with_decay_since_the_first_step() -> None:
    classifier = net_classifier()
    average = WeightAverage(classifier, DECAY)
    generator = torch.Generator().manual_seed(0)
    expected: torch.Tensor | None = None
    for _ in range(4):
        with torch.no_grad():
            classifier.head.weight += torch.rand(classifier.head.weight.shape, generator=generator)
            classifier.backbone.norm.running_mean += 1
        average.update(classifier)
        now = classifier.head.weight.detach().double()
        expected = now.clone() if expected is None else DECAY * expected + (1 - DECAY) * now
    torch.testing.assert_close(average.classifier.head.weight.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(average.classifier.backbone.norm.running_mean, classifier.backbone.norm.running_mean)
    assert not torch.equal(average.classifier.head.weight, classifier.head.weight)
    assert not any(parameter.requires_grad for parameter in average.classifier.parameters())
    assert average.classifier.preprocessing == classifier.preprocessing


def test_weight_average__goes_on_from_its_state() -> None:
    classifier, averages = net_classifier(), [WeightAverage(net_classifier(), DECAY) for _ in range(2)]
    averages[0].update(classifier)
    averages[1].load_state_dict(averages[0].state_dict())
    classifier.head.weight.data += 1
    for average in averages:
        average.update(classifier)
    assert torch.equal(averages[0].classifier.head.weight, averages[1].classifier.head.weight)
