"""Losses against loops in float64, draws against their counts, and what each option does to a training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, one_hot

from platform_assets.vision.networks.inference import predict
from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.recipes.train_options import LossOptions, TrainRecipe
from platform_assets.vision.training.batches import LabelledImages
from platform_assets.vision.training.losses import (
    Loss,
    distillation,
    draw_order,
    effective_number_weights,
    log_priors,
    make_loss,
)
from platform_tests.vision.shapes import coloured_shapes, small_classifier
from platform_tests.vision.tiny_training import Teacher, tiny_training

COUNTS = st.lists(st.integers(0, 3000), min_size=2, max_size=12).filter(any)


class Case(NamedTuple):
    """Logits, labels, shares of a mix and a teacher's logits, all float64."""

    logits_bk: torch.Tensor
    labels_b: torch.Tensor
    shares_bk: torch.Tensor
    teacher_bk: torch.Tensor
    counts_k: list[int]


@st.composite
def cases(draw: Any) -> Case:
    classes, images, seed = draw(st.integers(2, 6)), draw(st.integers(1, 5)), draw(st.integers(0, 2**31))
    counts_k = draw(st.lists(st.integers(0, 500), min_size=classes, max_size=classes).filter(any))
    generator = torch.Generator().manual_seed(seed)
    logits_bk, teacher_bk = 4 * torch.randn(2, images, classes, generator=generator, dtype=torch.float64)
    labels_b = torch.randint(classes, (images,), generator=generator)
    shares_bk = torch.rand(images, classes, generator=generator, dtype=torch.float64)
    return Case(logits_bk, labels_b, shares_bk / shares_bk.sum(1, keepdim=True), teacher_bk, counts_k)


def options_of(**options: Any) -> LossOptions:
    return LossOptions.model_validate(options)


def every_option() -> st.SearchStrategy[LossOptions]:
    return st.builds(
        lambda loss, weights, teacher, **rest: options_of(**rest, **loss, **weights, **teacher),
        st.sampled_from([{}, {"loss": "focal"}, {"loss": "focal", "focal_gamma": 0.5}]),
        st.sampled_from([{}, {"class_weights": "effective_number", "effective_number_beta": 0.99}]),
        st.sampled_from([{}, {"distill_from": "there", "distill_weight": 0.3, "distill_temperature": 3.0}]),
        label_smoothing=st.sampled_from([0.0, 0.1, 0.5]),
        logit_adjustment=st.sampled_from([0.0, 1.0, 1.5]),
    )


def log_softmax_of(logits: list[float]) -> list[float]:
    total = math.fsum(math.exp(logit) for logit in logits)
    return [logit - math.log(total) for logit in logits]


def loss_by_loops(options: LossOptions, case: Case, shares: list[list[float]], teacher: bool) -> float:
    """The definition, image by image and class by class."""
    classes, counts = len(case.counts_k), [max(1, count) for count in case.counts_k]
    weights = [1.0] * classes
    if options.class_weights == "effective_number":
        raw = [(1 - options.effective_number_beta) / (1 - options.effective_number_beta**count) for count in counts]
        weights = [classes * weight / math.fsum(raw) for weight in raw]
    summed = kl = 0.0
    for logits, row, teacher_logits in zip(case.logits_bk.tolist(), shares, case.teacher_bk.tolist(), strict=True):
        adjusted = [
            z + options.logit_adjustment * math.log(n / sum(counts)) for z, n in zip(logits, counts, strict=True)
        ]
        for log_p, share, weight in zip(log_softmax_of(adjusted), row, weights, strict=True):
            smooth = share * (1 - options.label_smoothing) + options.label_smoothing / classes
            focus = (1 - math.exp(log_p)) ** options.focal_gamma if options.loss == "focal" else 1.0
            summed -= weight * smooth * focus * log_p
        softened = [log_softmax_of([z / options.distill_temperature for z in row]) for row in (logits, teacher_logits)]
        kl += math.fsum(math.exp(t) * (t - s) for s, t in zip(*softened, strict=True))
    loss, kl = summed / len(shares), kl / len(shares) * options.distill_temperature**2
    return (1 - options.distill_weight) * loss + options.distill_weight * kl if teacher else loss


@given(cases(), every_option(), st.booleans())
@settings(max_examples=80)
def test_loss__is_that_of_loops(case: Case, options: LossOptions, mixed: bool) -> None:
    teacher = options.distill_from is not None
    shares_bk = case.shares_bk if mixed else one_hot(case.labels_b, len(case.counts_k))
    loss = make_loss(options, case.counts_k, device="cpu")(
        case.logits_bk, case.labels_b, case.shares_bk if mixed else None, case.teacher_bk if teacher else None
    )
    assert loss.shape == ()
    # The weights are float32 numbers.
    assert loss.item() == pytest.approx(loss_by_loops(options, case, shares_bk.tolist(), teacher), rel=1e-6, abs=1e-9)


@given(cases(), every_option())
@settings(max_examples=50)
def test_loss__a_whole_label_is_the_share_one_and_a_batch_the_mean_of_its_images(
    case: Case, options: LossOptions
) -> None:
    loss_of = make_loss(options, case.counts_k, device="cpu")
    teacher_bk = case.teacher_bk if options.distill_from else None
    whole = loss_of(case.logits_bk, case.labels_b, None, teacher_bk)
    shares_bk = one_hot(case.labels_b, len(case.counts_k)).float()
    assert loss_of(case.logits_bk, case.labels_b, shares_bk, teacher_bk).item() == pytest.approx(whole.item())
    singles = [
        loss_of(
            case.logits_bk[i : i + 1],
            case.labels_b[i : i + 1],
            None,
            None if teacher_bk is None else teacher_bk[i : i + 1],
        )
        for i in range(len(case.labels_b))
    ]
    assert torch.stack(singles).mean().item() == pytest.approx(whole.item())


def test_loss__by_default_is_torchs_to_the_bit() -> None:
    """Trainings of before these options end at the same weights."""
    loss_of = make_loss(LossOptions(), [3, 5, 2], device="cpu")
    for images in (3, 7, 32):
        logits_bk, labels_b = torch.randn(images, 3), torch.randint(3, (images,))
        assert torch.equal(loss_of(logits_bk, labels_b), cross_entropy(logits_bk, labels_b, label_smoothing=0.1))


@given(cases(), st.sampled_from([0.0, 0.2]), st.booleans())
@settings(max_examples=40)
def test_loss__focal_without_gamma_is_cross_entropy(case: Case, smoothing: float, mixed: bool) -> None:
    shares_bk = case.shares_bk if mixed else None
    focal, plain = (
        make_loss(options_of(label_smoothing=smoothing, **options), case.counts_k, device="cpu")
        for options in ({"loss": "focal", "focal_gamma": 0.0}, {})
    )
    expected = plain(case.logits_bk, case.labels_b, shares_bk)
    torch.testing.assert_close(focal(case.logits_bk, case.labels_b, shares_bk), expected)


@given(cases(), st.floats(0.1, 3), st.integers(1, 100))
@settings(max_examples=40)
def test_loss__equal_priors_adjust_nothing(case: Case, tau: float, count: int) -> None:
    equal = [count] * len(case.counts_k)
    adjusted = make_loss(options_of(logit_adjustment=tau), equal, device="cpu")(case.logits_bk, case.labels_b)
    plain = make_loss(LossOptions(), equal, device="cpu")(case.logits_bk, case.labels_b)
    assert adjusted.item() == pytest.approx(plain.item(), rel=1e-6)


def test_loss__adjustment_costs_a_rare_class_more() -> None:
    loss_of = make_loss(options_of(logit_adjustment=1.0, label_smoothing=0.0), [90, 10], device="cpu")
    even_bk = torch.zeros(1, 2)
    assert loss_of(even_bk, torch.tensor([0])).item() == pytest.approx(-math.log(0.9))
    assert loss_of(even_bk, torch.tensor([1])).item() == pytest.approx(-math.log(0.1))


@given(COUNTS, st.floats(0.01, 0.999999))
@settings(max_examples=100)
def test_effective_number_weights__fall_with_the_count_and_have_mean_one(counts: list[int], beta: float) -> None:
    weights_k = effective_number_weights(counts, beta)
    assert np.isfinite(weights_k).all()
    assert weights_k.mean() == pytest.approx(1)
    ordered = weights_k[np.argsort(counts, kind="stable")]
    assert (np.diff(ordered) <= 1e-12).all()


def test_effective_number_weights__go_from_equal_to_inverse_counts() -> None:
    counts = np.array([1000, 100, 10])
    assert effective_number_weights(counts, 1e-9) == pytest.approx([1, 1, 1])
    inverse = 1 / counts
    assert effective_number_weights(counts, 1 - 1e-12) == pytest.approx(inverse / inverse.mean(), rel=1e-3)


def test_class_counts__none_count_as_one() -> None:
    assert effective_number_weights([0, 9], 0.9) == pytest.approx(effective_number_weights([1, 9], 0.9))
    assert np.exp(log_priors([0, 9])) == pytest.approx([0.1, 0.9])


@pytest.mark.parametrize("options", [{}, {"loss": "focal"}, {"logit_adjustment": 1.0}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loss__of_halves_is_computed_in_float32(options: dict[str, Any], dtype: torch.dtype) -> None:
    loss_of = make_loss(options_of(**options), [50, 3], device="cpu")
    logits_bk, labels_b = torch.tensor([[9.0, -9.0], [-3.0, 2.0]], dtype=dtype), torch.tensor([0, 1])
    value = loss_of(logits_bk, labels_b)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss_of(logits_bk.float(), labels_b))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_loss__focal_has_its_gradient_even_where_an_image_is_certain(gamma: float) -> None:
    loss_of = make_loss(options_of(loss="focal", focal_gamma=gamma, label_smoothing=0.0), [1, 1], device="cpu")
    labels_b = torch.tensor([0, 1])
    certain_bk = torch.tensor([[200.0, -200.0], [1.0, 0.0]], requires_grad=True)
    loss_of(certain_bk, labels_b).backward()
    assert certain_bk.grad is not None
    assert certain_bk.grad.isfinite().all()
    assert certain_bk.grad[1].abs().min() > 0
    doubtful_bk = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda logits_bk: loss_of(logits_bk, labels_b), doubtful_bk)


@given(cases(), st.floats(0.5, 8))
@settings(max_examples=40)
def test_distillation__is_zero_for_the_teacher_itself_alone(case: Case, temperature: float) -> None:
    assert distillation(case.teacher_bk, case.teacher_bk + 3, temperature).item() == pytest.approx(0, abs=1e-9)
    assert distillation(case.logits_bk, case.teacher_bk, temperature).item() > 0


def test_loss__takes_logits_of_a_teacher_in_inference_mode() -> None:
    loss_of = make_loss(options_of(distill_from="there", distill_weight=1.0), [1, 1, 1], device="cpu")
    with torch.inference_mode():
        teacher_bk = torch.tensor([[3.0, 0.0, 0.0]])
    logits_bk = torch.zeros(1, 3, requires_grad=True)
    loss_of(logits_bk, torch.tensor([2]), None, teacher_bk).backward()
    assert logits_bk.grad is not None
    assert logits_bk.grad[0, 0] < 0 < logits_bk.grad[0, 2], "with weight 1 the teacher decides, not the label"


@pytest.mark.parametrize("options", [{}, {"distill_from": "there"}], ids=str)
def test_loss__a_teacher_comes_with_its_option_alone(options: dict[str, Any]) -> None:
    loss_of: Loss = make_loss(options_of(**options), [1, 1], device="cpu")
    teacher_bk = None if options else torch.zeros(1, 2)
    with pytest.raises(AssertionError):
        loss_of(torch.zeros(1, 2), torch.tensor([0]), None, teacher_bk)


LABELS = st.lists(st.sampled_from([0, 1, 2, 5]), min_size=1, max_size=60).map(np.array)


@given(LABELS, st.integers(0, 99))
@settings(max_examples=60)
def test_draw_order__balanced_is_even_over_classes_and_within_them(labels_n: Any, seed: int) -> None:
    rows_n = draw_order(labels_n, options_of(sampler="balanced"), np.random.default_rng(seed))
    assert rows_n.dtype == np.int64
    assert len(rows_n) == len(labels_n)
    of_classes = Counter(labels_n[rows_n].tolist())
    present = set(labels_n.tolist())
    assert max(of_classes[c] for c in present) - min(of_classes[c] for c in present) <= 1
    of_rows = Counter(rows_n.tolist())
    for label in present:
        drawn = [of_rows[row] for row in np.flatnonzero(labels_n == label).tolist()]
        assert max(drawn) - min(drawn) <= 1
    again = draw_order(labels_n, options_of(sampler="balanced"), np.random.default_rng(seed))
    assert np.array_equal(rows_n, again)


def test_draw_order__uniform_is_the_permutation_of_earlier_results() -> None:
    labels_n = np.arange(50) % 3
    rows_n = draw_order(labels_n, LossOptions(), np.random.default_rng((0, 7, 2)))
    assert np.array_equal(rows_n, np.random.default_rng((0, 7, 2)).permutation(50))


def test_draw_order__balanced_repeats_the_rare_and_another_epoch_takes_others() -> None:
    labels_n = np.array([0] * 96 + [1] * 4)
    first, second = (
        draw_order(labels_n, options_of(sampler="balanced"), np.random.default_rng(seed)) for seed in (1, 2)
    )
    assert Counter(labels_n[first].tolist()) == {0: 50, 1: 50}
    assert set(first[labels_n[first] == 1]) == {96, 97, 98, 99}
    assert set(first) != set(second)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def long_tailed() -> LabelledImages:
    """20 crosses, 12 rings and 4 squares."""
    part = coloured_shapes(60, seed=1)
    kept = np.concatenate([np.flatnonzero(part.labels_n == label)[:n] for label, n in enumerate((20, 12, 4))])
    return LabelledImages(tuple(part.image_ids[row] for row in kept), part.images_nchw[kept], part.labels_n[kept])


PART, TEST = long_tailed(), coloured_shapes(45, seed=9)


def trained(teacher: Teacher | None = None, **options: Any) -> tuple[Classifier, list[float]]:
    classifier = small_classifier()
    defaults = {"epochs": 3, "batch_size": 12, "backbone_learning_rate_factor": 1.0}
    return classifier, tiny_training(classifier, PART, TrainRecipe.model_validate(defaults | options), teacher)


def share_of_squares(classifier: Classifier) -> float:
    """Mean probability given to the rarest class, over as many images of each."""
    logits_nk = torch.from_numpy(predict(classifier, TEST.images_nchw))
    return float(logits_nk.softmax(1)[:, 2].mean())


@pytest.fixture(scope="module")
def plain() -> Classifier:
    torch.set_num_threads(1)
    return trained()[0]


@pytest.mark.parametrize("options", [{"loss": "focal"}, {"label_smoothing": 0.0}, {"sampler": "balanced"}], ids=str)
def test_options__each_trains_and_ends_elsewhere(plain: Classifier, options: dict[str, Any]) -> None:
    classifier, history = trained(**options)
    assert history[-1] < history[0], history
    assert not torch.equal(classifier.head.weight, plain.head.weight)


@pytest.mark.parametrize(
    "options",
    [
        {"class_weights": "effective_number", "effective_number_beta": 0.99},
        {"logit_adjustment": 1.0},
    ],
    ids=str,
)
def test_options__each_gives_the_rare_class_more(plain: Classifier, options: dict[str, Any]) -> None:
    classifier, history = trained(**options)
    assert history[-1] < history[0], history
    assert share_of_squares(classifier) > 1.1 * share_of_squares(plain)


def test_options__distillation_brings_the_student_to_its_teacher(plain: Classifier) -> None:
    """The teacher never says ring; the student that follows it says so less than one that follows the labels."""

    def teacher(images_bchw: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[2.0, -8.0, 2.0]]).expand(len(images_bchw), 3)

    student, history = trained(teacher, distill_from="there", distill_weight=0.9)
    assert history[-1] < history[0], history
    rings = [float(torch.from_numpy(predict(of, TEST.images_nchw)).softmax(1)[:, 1].mean()) for of in (plain, student)]
    assert rings[1] < 0.7 * rings[0], rings
