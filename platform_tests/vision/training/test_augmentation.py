"""Augmentations against the functions that the field uses: torchvision's RandAugment, timm's erasing and mixing."""

from __future__ import annotations

import hashlib
import platform
import random
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats
from threadpoolctl import threadpool_limits
from timm.data.mixup import Mixup, mixup_target
from timm.data.random_erasing import RandomErasing
from torchvision.transforms.v2 import ColorJitter, RandAugment

from platform_assets.vision.recipes.train_options import AugmentOptions
from platform_assets.vision.training.augmentation import augment, cropped_side, mix, rand_augment_operations
from platform_tests.vision.shapes import coloured_shapes

SHAPE = torch.from_numpy(coloured_shapes(1, seed=0).images_nchw[0])
NOISE = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (3, 224, 224), dtype=np.uint8))
# Odds below which two laws are called different; the draws are seeded, so that a test that passes goes on passing.
ODDS = 1e-3


@pytest.fixture(scope="module", autouse=True)
def _one_core() -> Iterator[None]:
    """As the loading threads compute: on a loaded machine small kernels are slow on several."""
    torch.get_num_threads()
    with threadpool_limits(limits=1, user_api="openmp"):
        yield


@pytest.fixture
def seeded() -> Iterator[None]:
    """The oracles draw from global generators."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def _options(**options: object) -> AugmentOptions:
    return AugmentOptions.model_validate({"augmentation": "none", **options})


def _augmented(image_chw: torch.Tensor, options: AugmentOptions, seed: int) -> torch.Tensor:
    return augment(image_chw, options, np.random.default_rng(seed))


def test_augment__none_and_flip_and_dihedral_only_move_pixels() -> None:
    assert torch.equal(_augmented(SHAPE, _options(), 0), SHAPE)
    seen: dict[str, set[bytes]] = {"flip": set(), "dihedral": set(), "crop_flip": set()}
    for augmentation, pixels in seen.items():
        for seed in range(60):
            moved = _augmented(SHAPE, _options(augmentation=augmentation), seed)
            assert moved.shape == SHAPE.shape
            assert moved.dtype == torch.uint8
            pixels.add(moved.numpy().tobytes())
            if augmentation != "crop_flip":
                assert torch.equal(moved.flatten(1).sort().values, SHAPE.flatten(1).sort().values)
    assert (len(seen["flip"]), len(seen["dihedral"])) == (2, 8)
    assert len(seen["crop_flip"]) > 50


@pytest.mark.parametrize("area_min", [0.5, 0.08])
def test_augment__crop_flip_keeps_its_smallest_area_or_more(area_min: float) -> None:
    # A picture of its own row and column numbers shows how much is left of either.
    numbers = torch.arange(64, dtype=torch.uint8)
    place_chw = torch.stack([numbers.repeat(64, 1), numbers.repeat(64, 1).T, numbers.repeat(64, 1)])
    options, areas = _options(augmentation="crop_flip", crop_area_min=area_min), []
    for seed in range(300):
        cropped = _augmented(place_chw, options, seed).flatten(1).int()
        columns, rows, _ = (cropped.amax(1) - cropped.amin(1) + 1).tolist()
        areas.append(rows * columns / 64**2)
    assert area_min * 0.9 <= min(areas) <= area_min + 0.1
    assert max(areas) > 0.95


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors round a resized pixel otherwise")
def test_augment__pixels_of_trainings_before() -> None:
    found = hashlib.sha256()
    for seed in range(20):
        found.update(_augmented(NOISE, AugmentOptions(), seed).numpy().tobytes())
    assert found.hexdigest() == "f4fc24623bfd72ba62f307310bd9cfa5323b68a94776a660474e186d794055b5"


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(("level", "side"), [(1, 64), (9, 224), (15, 33), (30, 64)])
def test_rand_augment__each_operation_as_torchvision_makes_it(level: int, side: int) -> None:
    image_chw = NOISE[:, :side, :side].contiguous()
    image_chw[0] //= 2  # something for autocontrast to stretch
    ours: dict[bytes, str] = {}
    for operation in rand_augment_operations():
        magnitude = operation.magnitude(level, side)
        for signed in {magnitude, -magnitude} if operation.signed else {magnitude}:
            ours.setdefault(operation.apply(image_chw, signed).numpy().tobytes(), operation.name)
    oracle = RandAugment(num_ops=1, magnitude=level)
    found = Counter(ours.get(oracle(image_chw).numpy().tobytes(), "of torchvision alone") for _ in range(180))
    assert set(found) == set(ours.values())
    assert len(rand_augment_operations()) == len(RandAugment._AUGMENTATION_SPACE)


@pytest.mark.usefixtures("seeded")
def test_rand_augment__draws_as_torchvision_does() -> None:
    """Two operations, so that their order and independence count as well."""
    oracle, options = RandAugment(num_ops=2, magnitude=20), _options(randaugment=20, randaugment_ops=2)
    theirs = Counter(_kind(oracle(SHAPE)) for _ in range(800))
    ours = Counter(_kind(_augmented(SHAPE, options, seed)) for seed in range(800))
    kinds = sorted(kind for kind in theirs | ours if theirs[kind] + ours[kind] >= 20)
    assert len(kinds) > 5
    table = [
        [counts[kind] for kind in kinds] + [800 - sum(counts[kind] for kind in kinds)] for counts in (theirs, ours)
    ]
    assert stats.chi2_contingency(np.array(table) + 1).pvalue > ODDS


def _kind(image_chw: torch.Tensor) -> tuple[int, ...]:
    """A coarse hash: how bright the picture and its left upper quarter are, how black and how colourful."""
    image = image_chw.float()
    facts = image.mean() / 40, image[:, :16, :16].mean() / 40, (image == 0).float().mean() * 4, image.std(0).mean() / 30
    return tuple(int(fact) for fact in facts)


def test_rand_augment__every_operation_and_both_directions_alike_often() -> None:
    moves = Counter[bytes]()
    for seed in range(1400):
        moves[_augmented(SHAPE, _options(randaugment=12, randaugment_ops=1), seed).numpy().tobytes()] += 1
    wanted = Counter[bytes]()
    for operation in rand_augment_operations():
        magnitude = operation.magnitude(12, 32)
        for sign in (1, -1):
            applied = operation.apply(SHAPE, magnitude * sign if operation.signed else magnitude)
            wanted[applied.numpy().tobytes()] += 50
    assert set(moves) == set(wanted)
    assert stats.chisquare([moves[key] for key in wanted], list(wanted.values())).pvalue > ODDS


def test_augment__leaves_the_image_it_was_given() -> None:
    before = SHAPE.clone()
    for seed in range(60):
        _augmented(SHAPE, AugmentOptions(randaugment=15, randaugment_ops=1, random_erasing=0.5), seed)
        _augmented(SHAPE, _options(randaugment=15, random_erasing=1.0), seed)
    for operation in rand_augment_operations():
        operation.apply(SHAPE, operation.magnitude(9, 32))
    assert torch.equal(SHAPE, before)


def _box(image_chw: torch.Tensor) -> tuple[int, int, int, int]:
    """Height, width, top and left of what is not 0."""
    rows, columns = (image_chw != 0).any(0).any(1).nonzero(), (image_chw != 0).any(0).any(0).nonzero()
    top, left = int(rows[0]), int(columns[0])
    return int(rows[-1]) - top + 1, int(columns[-1]) - left + 1, top, left


@pytest.mark.usefixtures("seeded")
def test_random_erasing__the_boxes_of_timm() -> None:
    oracle = RandomErasing(probability=1.0, mode="pixel", device="cpu")
    theirs = np.array([_box(oracle(torch.zeros(3, 48, 48))) for _ in range(600)])
    black = torch.zeros(3, 48, 48, dtype=torch.uint8)
    ours = np.array([_box(_augmented(black, _options(random_erasing=1.0), seed)) for seed in range(600)])
    for law in range(4):
        assert stats.ks_2samp(theirs[:, law], ours[:, law]).pvalue > ODDS
    areas = [stats.ks_2samp(*(boxes[:, 0] * boxes[:, 1] for boxes in (theirs, ours))).pvalue]
    aspects = [stats.ks_2samp(*(boxes[:, 0] / boxes[:, 1] for boxes in (theirs, ours))).pvalue]
    assert min(areas + aspects) > ODDS


def test_random_erasing__noise_a_value_a_pixel_as_often_as_asked() -> None:
    grey = torch.full((3, 64, 64), 7, dtype=torch.uint8)
    erased = [_augmented(grey, _options(random_erasing=0.3), seed) for seed in range(400)]
    changed = [image for image in erased if not torch.equal(image, grey)]
    assert stats.binomtest(len(changed), 400, 0.3).pvalue > ODDS
    values = torch.cat([image[image != 7] for image in changed]).float()
    assert abs(float(values.mean()) - 115) < 2
    assert abs(float(values.std()) - 56) < 3
    spread_over_channels = torch.stack([image.float().std(0)[(image != 7).all(0)].mean() for image in changed])
    assert float(spread_over_channels.min()) > 20


def _mixed(options: AugmentOptions, seed: int, *, size: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images of one value each, so that a pixel says whose it is; what was mixed and its shares."""
    images_bchw = (torch.arange(size, dtype=torch.uint8) * 40)[:, None, None, None].repeat(1, 3, 40, 40)
    labels_b = torch.arange(size) % 5
    generator = np.random.default_rng(seed)
    before = images_bchw.clone()
    mixed = mix(images_bchw, labels_b, num_classes=5, options=options, generator=generator)
    assert torch.equal(images_bchw, before)
    return images_bchw, *mixed


def test_mix__mixup_is_timms_of_the_same_share() -> None:
    for seed in range(20):
        images_bchw, mixed_bchw, shares_bk = _mixed(_options(mixup=0.4), seed)
        share = float(shares_bk[1, 1])
        oracle = Mixup(mixup_alpha=0.4, num_classes=5, label_smoothing=0.0)
        oracle._params_per_batch = lambda share=share: (share, False)
        theirs_bchw, theirs_bk = oracle(images_bchw.float(), torch.arange(6) % 5)
        torch.testing.assert_close(mixed_bchw, theirs_bchw)
        torch.testing.assert_close(shares_bk, theirs_bk)
        assert mixed_bchw.dtype == torch.float32


def test_mix__cutmix_shares_are_the_areas_of_the_box() -> None:
    for seed in range(40):
        images_bchw, mixed_bchw, shares_bk = _mixed(_options(cutmix=1.0), seed)
        share = float(shares_bk[1, 1])
        torch.testing.assert_close(shares_bk, mixup_target(torch.arange(6) % 5, 5, share))
        foreign = mixed_bchw != images_bchw.float()
        assert torch.equal(mixed_bchw[foreign], images_bchw.flip(0).float()[foreign])
        assert float(foreign[1].float().mean()) == pytest.approx(1 - share, abs=1e-6)
        if foreign.any():
            height, width, _, _ = _box(foreign[1])
            assert height * width / 1600 == pytest.approx(1 - share, abs=1e-6)


def test_mix__the_middle_of_an_odd_batch_stays_itself() -> None:
    for options in (_options(mixup=0.4), _options(cutmix=1.0)):
        images_bchw, mixed_bchw, shares_bk = _mixed(options, 1, size=5)
        torch.testing.assert_close(mixed_bchw[2], images_bchw[2].float())
        torch.testing.assert_close(shares_bk[2], torch.eye(5)[2])
        torch.testing.assert_close(shares_bk.sum(1), torch.ones(5))


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.0, 0.3), (0.8, 1.0)])
def test_mix__shares_are_drawn_as_timm_draws_them(mixup: float, cutmix: float) -> None:
    oracle = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, num_classes=2, label_smoothing=0.0)
    pair = torch.zeros(2, 3, 40, 40)
    theirs = [float(oracle(pair, torch.arange(2))[1][0, 0]) for _ in range(600)]
    images_bchw, ours, cuts = torch.tensor([0, 200], dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 40, 40), [], 0
    for seed in range(600):
        mixed_bchw, shares_bk = mix(
            images_bchw,
            torch.arange(2),
            num_classes=2,
            options=_options(mixup=mixup, cutmix=cutmix),
            generator=np.random.default_rng(seed),
        )
        ours.append(float(shares_bk[0, 0]))
        cuts += bool(((mixed_bchw == 0) | (mixed_bchw == 200)).all())
    assert stats.ks_2samp(theirs, ours).pvalue > ODDS
    if mixup:
        assert stats.binomtest(cuts, 600, 0.5 if cutmix else 0.001).pvalue > ODDS


def test_augment__crops_of_larger_pictures_come_back_at_the_models_side() -> None:
    options = _options(augmentation="crop_flip", crop_scale=1.25, crop_area_min=0.1)
    for side_px in (32, 97, 160, 224, 225):
        kept = options.source_side(side_px)
        picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, kept, kept), dtype=np.uint8))
        assert cropped_side(kept, options) == side_px
        assert _augmented(picture, options, 1).shape == (3, side_px, side_px)


def test_augment__crops_may_be_smaller_than_what_is_evaluated() -> None:
    options = _options(augmentation="crop_flip", crop_scale=1.25, crop_size_px=96)
    kept = options.source_side(224)
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, kept, kept), dtype=np.uint8))
    assert kept == 120
    assert _augmented(picture, options, 1).shape == (3, 96, 96)


def test_augment__a_whole_crop_of_a_larger_picture_is_the_picture_antialiased() -> None:
    # Stripes of one pixel: halved with antialiasing they are grey, without it they stay black or white.
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(64).expand(3, 128, 128)
    options = _options(augmentation="crop_flip", crop_scale=2.0, crop_area_min=1.0)
    halved = next(
        crop for crop in (_augmented(stripes, options, seed).float() for seed in range(50)) if crop.std() < 20
    )
    assert 120 < halved.mean() < 135


def test_augment__color_jitter_is_torchvisions() -> None:
    picture = NOISE[:, :24, :24].clone()
    jittered = {_augmented(picture, _options(color_jitter=0.4), seed).numpy().tobytes() for seed in range(20)}
    assert len(jittered) == 20
    ours = [float(_augmented(SHAPE, _options(color_jitter=0.4), seed).float().mean()) for seed in range(300)]
    jitter = ColorJitter(0.4, 0.4, 0.4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        theirs = [float(jitter(SHAPE).float().mean()) for _ in range(300)]
    assert stats.ks_2samp(ours, theirs).pvalue > ODDS
    weaker = [float(_augmented(SHAPE, _options(color_jitter=0.1), seed).float().mean()) for seed in range(300)]
    assert stats.ks_2samp(ours, weaker).pvalue < ODDS
