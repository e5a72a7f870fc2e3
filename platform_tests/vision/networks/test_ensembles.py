"""Several classifiers as one: its figures, its files and its export."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from platform_assets.vision.heads.modules import NeighbourHead, UnitVectors
from platform_assets.vision.networks.checkpoints import CheckpointError, load_classifier, read_trial, save_checkpoint
from platform_assets.vision.networks.ensembles import LEAST_WEIGHT, Combination, Ensemble, fit_weights
from platform_assets.vision.networks.exporting import check_parity, export_onnx
from platform_assets.vision.networks.inference import predict
from platform_assets.vision.networks.models import Classifier, build_classifier, initial_classifier, place
from platform_assets.vision.networks.onnx_classifier import OnnxClassifier
from platform_assets.vision.recipes.combination_options import MembersDoNotFit, resolve_combination
from platform_assets.vision.recipes.probe_options import KnnRecipe
from platform_assets.vision.recipes.resolving import Member, ResolvedTrial
from platform_assets.vision.recipes.variants import Variant
from platform_tests.vision.shapes import (
    PROTOCOL,
    SHAPES,
    coloured_shapes,
    randomise_batch_norms,
    shapes_trial,
    small_classifier,
)
from platform_tests.vision.trainings import net_classifier, one_thread

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = coloured_shapes(6, seed=0).images_nchw
IMAGES_BCHW = torch.from_numpy(IMAGES)
KINDS = ("mean", "weighted", "vote")


def logs(*probabilities: list[list[float]]) -> torch.Tensor:
    """logs_bmk of one list of rows a member."""
    return torch.tensor(probabilities).transpose(0, 1).log()


def head(kind: str, members: int = 2) -> Combination:
    weights = {"weighted": torch.arange(1, members + 1) / sum(range(1, members + 1))}
    return Combination(weights.get(kind, torch.full((members,), 1 / members)), votes=kind == "vote")


def neighbour_classifier() -> Classifier:
    """Its head is of another shape than a linear one, which its tensors alone say."""
    classifier = small_classifier(seed=7)
    generator = torch.Generator().manual_seed(0)
    unit = UnitVectors(torch.arange(256), torch.zeros(256), torch.ones(256))
    vectors = torch.nn.functional.normalize(torch.randn(9, 256, generator=generator), dim=1)
    classifier.head = NeighbourHead(unit, vectors, torch.arange(9) % 3, k=4, temperature=0.1, num_classes=3)
    return classifier.eval()


def member_of(trial: ResolvedTrial, checkpoint_id: str = "ab" * 8) -> Member:
    return Member(trial=trial, config_hash=trial.config_hash, checkpoint_id=checkpoint_id)


def trials(kind: str = "mean") -> ResolvedTrial:
    """Of two seeds of one variant."""
    variant = Variant.model_validate({"mode": "ensemble", "of": ["baseline"], "combine": kind})
    members = [member_of(shapes_trial(seed=seed)) for seed in (0, 1)]
    return resolve_combination(variant, name="both", seed=0, protocol=PROTOCOL, members=members)


def classifiers(trial: ResolvedTrial) -> dict[str, Classifier]:
    found = {network.trial: initial_classifier(network, 3, None) for network in trial.networks}
    for seed, classifier in enumerate(found.values()):
        randomise_batch_norms(classifier, seed=seed)
    return found


def test_combination__mean_and_weights_are_those_of_probabilities() -> None:
    logs_bmk = logs([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], [[0.1, 0.6, 0.3], [0.4, 0.4, 0.2]])
    torch.testing.assert_close(head("mean")(logs_bmk).exp(), torch.tensor([[0.4, 0.4, 0.2], [0.25, 0.25, 0.5]]))
    weighted = Combination(torch.tensor([0.25, 0.75]))(logs_bmk).exp()
    torch.testing.assert_close(weighted, torch.tensor([[0.25, 0.5, 0.25], [0.325, 0.325, 0.35]]))


def test_combination__a_vote_is_of_majorities_and_ties_go_by_the_mean() -> None:
    two_to_one = logs([[0.4, 0.35, 0.25]], [[0.4, 0.35, 0.25]], [[0.0, 1.0, 0.0]])
    assert head("mean", 3)(two_to_one).argmax().item() == 1, "the mean is with the sure one"
    assert head("vote", 3)(two_to_one).argmax().item() == 0, "the vote is with the many"
    tie = logs([[0.5, 0.3, 0.2]], [[0.0, 0.9, 0.1]])
    assert head("vote")(tie).argmax().item() == 1
    unlikely = torch.tensor([[[0.0, -200.0, -300.0], [0.0, -210.0, -300.0]]])
    assert torch.isfinite(head("vote")(unlikely)).all(), "a probability that is 0 in float32 has a finite logarithm"


@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 2**32 - 1), st.sampled_from(KINDS))
def test_combination__gives_probabilities_and_votes_decide(members: int, classes: int, seed: int, kind: str) -> None:
    logits = np.random.default_rng(seed).normal(scale=4, size=(7, members, classes))
    logs_bmk = torch.from_numpy(logits).float().log_softmax(dim=2)
    found_bk = head(kind, members)(logs_bmk)
    torch.testing.assert_close(found_bk.exp().sum(dim=1), torch.ones(7))
    if kind == "vote":
        votes_bk = torch.nn.functional.one_hot(logs_bmk.argmax(dim=2), classes).sum(dim=1)
        mean_bk = logs_bmk.exp().mean(dim=1)
        for votes_k, mean_k, log_k in zip(votes_bk, mean_bk, found_bk, strict=True):
            likeliest = (votes_k + mean_k / 2).argmax()
            assert log_k.argmax() == likeliest


def test_combination__one_member_is_as_it_is() -> None:
    logs_bmk = torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(0)).log_softmax(dim=2)
    for kind in KINDS:
        assert torch.equal(head(kind, 1)(logs_bmk), logs_bmk[:, 0])


def test_fit_weights__finds_the_mixture_that_made_the_labels() -> None:
    """Labels drawn from 0.7 p + 0.3 q, beside a member that knows nothing."""
    generator = np.random.default_rng(0)
    p_nk, q_nk = (generator.dirichlet(np.full(4, 0.4), size=6000) for _ in range(2))
    mixed_nk = 0.7 * p_nk + 0.3 * q_nk
    labels_n = (mixed_nk.cumsum(axis=1) < generator.uniform(size=(6000, 1))).sum(axis=1)
    logs_nmk = np.log(np.stack([p_nk, np.full_like(p_nk, 0.25), q_nk], axis=1) + 1e-12)
    weights_m = fit_weights(logs_nmk, labels_n)
    np.testing.assert_allclose(weights_m, [0.7, 0.0, 0.3], atol=0.03)
    assert weights_m.sum() == pytest.approx(1)
    np.testing.assert_array_equal(weights_m, fit_weights(logs_nmk, labels_n))


def test_fit_weights__is_the_minimum_on_a_grid() -> None:
    generator = np.random.default_rng(3)
    labels_n = generator.integers(3, size=200)
    logits_nmk = generator.normal(size=(200, 2, 3))
    logits_nmk[np.arange(200), :, labels_n] += np.array([1.0, 0.6])
    logs_nmk = logits_nmk - np.log(np.exp(logits_nmk).sum(axis=2, keepdims=True))

    def loss(share: float) -> float:
        mixed_nk = np.tensordot(np.exp(logs_nmk), np.array([share, 1 - share]), axes=(1, 0))
        return float(-np.log(mixed_nk[np.arange(200), labels_n]).mean())

    share = fit_weights(logs_nmk, labels_n)[0]
    assert 0.1 < share < 0.9
    assert loss(share) <= min(loss(at) for at in np.linspace(0, 1, 201)) + 1e-9


def test_fit_weights__leaves_out_whom_nobody_needs() -> None:
    labels_n = np.array([0, 1, 0, 1] * 10)
    right, wrong = np.log(0.99), np.log(0.01)
    good_nk = np.where(labels_n[:, None] == [0, 1], right, wrong)
    weights_m = fit_weights(np.stack([good_nk, good_nk[:, ::-1]], axis=1), labels_n)
    assert weights_m.tolist() == [1.0, 0.0]
    assert LEAST_WEIGHT < 0.01


def test_fit_weights__where_every_member_is_far_off() -> None:
    logs_nmk = np.full((3, 2, 2), -800.0)
    logs_nmk[:, 0, 1], logs_nmk[:, 1, 1] = 0.0, -5.0
    weights_m = fit_weights(logs_nmk, np.zeros(3, dtype=np.int64))
    assert np.isfinite(weights_m).all()
    assert weights_m.sum() == pytest.approx(1)


def test_ensemble__is_the_mean_of_its_members() -> None:
    members = classifiers(trials())
    ensemble = Ensemble(members, head("mean")).eval()
    with torch.inference_mode():
        wanted = torch.stack([member(IMAGES_BCHW).softmax(dim=1) for member in members.values()]).mean(dim=0).log()
        torch.testing.assert_close(ensemble(IMAGES_BCHW), wanted)
        torch.testing.assert_close(ensemble(IMAGES_BCHW.float()), wanted)
    np.testing.assert_allclose(predict(ensemble, IMAGES), wanted.numpy(), rtol=1e-5, atol=1e-5)
    assert ensemble.names == ("baseline__s0", "baseline__s1")
    assert ensemble.parameter_count == sum(member.parameter_count for member in members.values())


def test_ensemble__members_normalise_for_themselves() -> None:
    one = small_classifier()
    pixels = one.preprocessing.model_copy(update={"mean": (0.1, 0.2, 0.3)})
    two = build_classifier("baseline_cnn", 3, pixels, pretrained=False, seed=1)
    ensemble = Ensemble({"a__s0": one, "b__s0": two}, head("mean")).eval()
    assert ensemble.preprocessing.mean == (0.0, 0.0, 0.0)
    with torch.inference_mode():
        wanted = (one(IMAGES_BCHW).softmax(1) + two(IMAGES_BCHW).softmax(1)) / 2
        torch.testing.assert_close(ensemble(IMAGES_BCHW).exp(), wanted)


def test_ensemble__refuses_members_of_other_pixels() -> None:
    one = small_classifier()
    pixels = one.preprocessing.model_copy(update={"image_size_px": 64})
    other = build_classifier("baseline_cnn", 3, pixels, pretrained=False, seed=1)
    with pytest.raises(MembersDoNotFit, match=r"a__s0 and b__s0 see different pixels \(image_size_px 32 and 64\)"):
        Ensemble({"a__s0": one, "b__s0": other}, head("mean"))


@pytest.mark.parametrize("kind", KINDS)
def test_save_checkpoint__of_an_ensemble_comes_back_to_the_bit(tmp_path: Path, kind: str) -> None:
    trial = trials(kind)
    ensemble = Ensemble(classifiers(trial), head(kind), preprocessing=trial.preprocessing).eval()
    identity = save_checkpoint(ensemble, tmp_path, label_map=SHAPES, trial=trial)
    loaded = load_classifier(tmp_path, expect_label_map=SHAPES)
    assert isinstance(loaded, Ensemble)
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGES_BCHW), ensemble(IMAGES_BCHW))
    assert read_trial(tmp_path) == trial
    again = save_checkpoint(place(loaded, "cpu"), tmp_path / "again", label_map=SHAPES, trial=trial)
    assert again == identity


def test_save_checkpoint__of_members_that_val_kept(tmp_path: Path) -> None:
    trial = trials("vote")
    (kept, member), *_ = classifiers(trial).items()
    alone = Ensemble({kept: member}, head("vote", 1), preprocessing=trial.preprocessing).eval()
    save_checkpoint(alone, tmp_path, label_map=SHAPES, trial=trial)
    loaded = load_classifier(tmp_path)
    assert isinstance(loaded, Ensemble)
    assert loaded.names == (kept,)
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGES_BCHW), member(IMAGES_BCHW).log_softmax(dim=1))


def test_save_checkpoint__of_members_of_unlike_heads(tmp_path: Path) -> None:
    linear = shapes_trial()
    knn = linear.model_copy(update={"variant": "knn", "mode": "knn", "knn": KnnRecipe(), "train": None})
    variant = Variant(mode="ensemble", of=("baseline", "knn"))
    members = [member_of(knn), member_of(linear)]
    trial = resolve_combination(variant, name="both", seed=0, protocol=PROTOCOL, members=members)
    both = {linear.trial: small_classifier(), knn.trial: neighbour_classifier()}
    ensemble = Ensemble(both, head("mean"), preprocessing=trial.preprocessing).eval()
    save_checkpoint(ensemble, tmp_path, label_map=SHAPES, trial=trial)
    with torch.inference_mode():
        assert torch.equal(load_classifier(tmp_path)(IMAGES_BCHW), ensemble(IMAGES_BCHW))


def test_load_classifier__refuses_a_damaged_ensemble(tmp_path: Path) -> None:
    trial = trials()
    ensemble = Ensemble(classifiers(trial), head("mean"), preprocessing=trial.preprocessing).eval()
    save_checkpoint(ensemble, tmp_path, label_map=SHAPES, trial=trial)
    weights = tmp_path / "ckpt.safetensors"
    with safe_open(weights, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(weights)
    for change, said in (
        ({"members.other__s0.head.bias": torch.zeros(3)}, "members.other__s0.head.bias is not expected"),
        ({"head.weights_m": torch.ones(3)}, r"head.weights_m is \(3,\) instead of \(2,\)"),
    ):
        save_file(tensors | change, weights, metadata=metadata)
        with pytest.raises(CheckpointError, match=said):
            load_classifier(tmp_path)
    save_file({"x": torch.zeros(1)}, weights, metadata=metadata)
    with pytest.raises(CheckpointError, match="is missing"):
        load_classifier(tmp_path)


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    files = []
    for image_chw in IMAGES:
        buffer = io.BytesIO()
        Image.fromarray(image_chw.transpose(1, 2, 0)).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


@pytest.mark.parametrize("kind", ["weighted", "vote"])
def test_export_onnx__of_an_ensemble_has_parity(tmp_path: Path, kind: str, pictures: list[bytes]) -> None:
    trial = trials(kind)
    members = classifiers(trial) if kind == "vote" else {f"net__s{seed}": net_classifier(seed=seed) for seed in (0, 1)}
    ensemble = Ensemble(members, head(kind), preprocessing=trial.preprocessing).eval()
    path = tmp_path / "both.onnx"
    export_onnx(ensemble, path, label_map=SHAPES, checkpoint_id="0123456789abcdef")
    report = check_parity(ensemble, path, pictures, label_map=SHAPES, batch_size=4)
    assert report.passed, report.problems
    assert OnnxClassifier(path).preprocessing == trial.preprocessing
