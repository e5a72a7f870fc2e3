"""The classifier: normalisation inside, random parts from the seed alone."""

from __future__ import annotations

import pytest
import torch

from platform_assets.vision.backbones import get_backbone
from platform_assets.vision.models import HeadDoesNotFit, build_classifier, place
from platform_assets.vision.weights import weights_sha256
from platform_tests.vision.shapes import PREPROCESSING, coloured_shapes, randomise_batch_norms, small_classifier

IMAGES_BCHW = torch.from_numpy(coloured_shapes(4, seed=0).images_nchw)


def test_classifier__normalises_inside() -> None:
    classifier = small_classifier()
    randomise_batch_norms(classifier)
    by_hand_bchw = (IMAGES_BCHW.float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        expected = classifier.head(classifier.backbone(by_hand_bchw))
        torch.testing.assert_close(classifier(IMAGES_BCHW), expected)
        torch.testing.assert_close(classifier.head(classifier.features(IMAGES_BCHW)), expected)


def test_classifier__other_statistics_give_other_logits() -> None:
    changed = PREPROCESSING.model_copy(update={"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
    classifiers = [build_classifier("baseline_cnn", 3, p, pretrained=False, seed=0) for p in (PREPROCESSING, changed)]
    with torch.inference_mode():
        logits = [classifier(IMAGES_BCHW) for classifier in classifiers]
    assert (logits[0] - logits[1]).abs().max() > 0.01


def test_classifier__keeps_the_statistics_out_of_the_weights() -> None:
    assert not {"mean", "std"} & small_classifier().state_dict().keys()


def test_build_classifier__weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(99)
    first = weights_sha256(small_classifier(seed=1))
    assert weights_sha256(small_classifier(seed=1)) == first
    assert weights_sha256(small_classifier(seed=2)) != first


def test_build_classifier__leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    small_classifier()
    assert torch.equal(torch.rand(1), expected)


def test_build_classifier__refuses_one_class() -> None:
    with pytest.raises(HeadDoesNotFit, match="1 classes"):
        build_classifier("baseline_cnn", 1, PREPROCESSING, pretrained=False, seed=0)


def test_set_head__takes_over_weights_and_refuses_another_shape() -> None:
    classifier = small_classifier()
    width = get_backbone("baseline_cnn").feature_dim
    classifier.set_head(torch.zeros(3, width), torch.tensor([1.0, 2.0, 3.0]))
    with torch.inference_mode():
        assert classifier(IMAGES_BCHW).tolist() == [[1.0, 2.0, 3.0]] * 4
    with pytest.raises(HeadDoesNotFit, match=rf"\(2, {width}\)"):
        classifier.set_head(torch.zeros(2, width), torch.zeros(2))
    with pytest.raises(HeadDoesNotFit, match="bias"):
        classifier.set_head(torch.zeros(3, width), torch.zeros(1))


def test_parameter_count__counts_weights_and_not_statistics() -> None:
    classifier = small_classifier()
    assert classifier.parameter_count == sum(p.numel() for p in classifier.backbone.parameters()) + 256 * 3 + 3


def test_place__changes_the_layout_and_not_the_answer() -> None:
    classifier = small_classifier()
    randomise_batch_norms(classifier)
    with torch.inference_mode():
        before = classifier(IMAGES_BCHW)
        after = place(classifier, "cpu")(IMAGES_BCHW)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert classifier.get_parameter("backbone.stem.0.weight").is_contiguous(memory_format=torch.channels_last)
