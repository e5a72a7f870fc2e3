"""The vectors before a head: of the pass that predicts, for one network and for several."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from platform_assets.vision.networks.ensembles import Combination, Ensemble
from platform_assets.vision.networks.head_inputs import predict_with_features
from platform_assets.vision.networks.inference import predict
from platform_tests.vision.shapes import coloured_shapes, small_classifier
from platform_tests.vision.trainings import one_thread

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = coloured_shapes(78, seed=0).images_nchw  # two batches
WANTED = np.arange(len(IMAGES)) % 3 != 1


def test_features__are_what_the_head_sees_in_one_pass() -> None:
    classifier, passes = small_classifier(seed=7), 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    classifier.backbone.register_forward_hook(count)
    logits_nk, features_md = predict_with_features(classifier, IMAGES, WANTED)
    assert passes == 2
    assert (logits_nk == predict(classifier, IMAGES)).all()
    with torch.inference_mode():
        wanted_md = classifier.eval().features(torch.from_numpy(IMAGES[WANTED])).numpy()
    np.testing.assert_allclose(features_md, wanted_md, rtol=1e-4, atol=1e-5)
    assert not classifier.head._forward_pre_hooks
    assert predict_with_features(classifier, IMAGES, np.zeros(len(IMAGES), bool))[1].shape == (0, wanted_md.shape[1])


def test_features__of_an_ensemble_are_those_of_its_members_at_length_one() -> None:
    members = {"a__s0": small_classifier(seed=1), "b__s0": small_classifier(seed=2)}
    ensemble = Ensemble(members, Combination(torch.tensor([0.5, 0.5])))
    logits_nk, features_md = predict_with_features(ensemble, IMAGES, WANTED)
    assert (logits_nk == predict(ensemble, IMAGES)).all()
    alone = [predict_with_features(member, IMAGES, WANTED)[1] for member in members.values()]
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in alone]
    np.testing.assert_allclose(features_md, np.hstack(unit), rtol=1e-4, atol=1e-5)
