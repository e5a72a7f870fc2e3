"""What is done to training pixels at random: to one image, and to the images and labels of one batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch

from platform_assets.vision.recipes.train_options import AugmentOptions

_CROP_ASPECT = (3 / 4, 4 / 3)
_RANDAUGMENT_LEVELS = 31
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)
_ERASING_ATTEMPTS = 10
# Unit noise behind ImageNet's normalisation, as timm erases with, has about this mean and spread on the 0 to 255 scale.
_NOISE_MEAN, _NOISE_STD = 0.45 * 255, 0.225 * 255


def augment(image_chw: torch.Tensor, options: AugmentOptions, generator: np.random.Generator) -> torch.Tensor:
    """One square uint8 image, transformed at random; the same generator state gives the same pixels.

    The image given is left as it is, and is what comes back where nothing is done to it. With `crop_scale` or
    `crop_size_px` the one that comes back has the side of `cropped_side`.
    """
    image_chw = _moved(image_chw, options, generator)
    if options.color_jitter:
        image_chw = _jittered(image_chw, options.color_jitter, generator)
    if options.randaugment:
        image_chw = _rand_augmented(image_chw, options, generator)
    if options.random_erasing and generator.random() < options.random_erasing:
        image_chw = _erased(image_chw, generator)
    return image_chw


def _moved(image_chw: torch.Tensor, options: AugmentOptions, generator: np.random.Generator) -> torch.Tensor:
    if options.augmentation == "none":
        return image_chw
    if options.augmentation == "crop_flip":
        image_chw = _resized_crop(image_chw, options, generator)
    if options.augmentation == "dihedral":
        image_chw = image_chw.rot90(int(generator.integers(4)), (1, 2))
    return image_chw.flip(2) if generator.random() < 0.5 else image_chw


def _resized_crop(image_chw: torch.Tensor, options: AugmentOptions, generator: np.random.Generator) -> torch.Tensor:
    """A random box of `crop_area_min` to all of the area, stretched to the model's size (Szegedy et al. 2015, arXiv
    1409.4842); antialiased where it is made smaller.
    """
    side = image_chw.shape[1]
    area = generator.uniform(options.crop_area_min, 1.0) * side * side
    aspect = math.exp(generator.uniform(*np.log(_CROP_ASPECT)))
    height = min(side, round(math.sqrt(area / aspect)))
    width = min(side, round(math.sqrt(area * aspect)))
    top = int(generator.integers(side - height + 1))
    left = int(generator.integers(side - width + 1))
    box_1chw = image_chw[None, :, top : top + height, left : left + width]
    trained_side = cropped_side(side, options)
    smaller = trained_side < side
    return torch.nn.functional.interpolate(
        box_1chw, size=(trained_side, trained_side), mode="bilinear", align_corners=False, antialias=smaller
    )[0]


def cropped_side(side: int, options: AugmentOptions) -> int:
    """The side that is trained at, of pictures kept at `side`; `options.source_side` is the way back."""
    return options.crop_size_px or round(side / options.crop_scale)


def _jittered(image_chw: torch.Tensor, most: float, generator: np.random.Generator) -> torch.Tensor:
    """Brightness, contrast and saturation by factors of 1 - most to 1 + most, in any order, as torchvision's ColorJitter."""
    from torchvision.transforms.v2 import functional as kernels

    changes = (kernels.adjust_brightness, _contrasted, kernels.adjust_saturation)
    factors = generator.uniform(1 - most, 1 + most, size=len(changes)).tolist()
    for number in generator.permutation(len(changes)).tolist():
        image_chw = changes[number](image_chw, factors[number])
    return image_chw


class Operation(NamedTuple):
    """One of RandAugment's: what it does at a magnitude, and the magnitudes of level 0 and of the last for a side."""

    name: str
    apply: Callable[[torch.Tensor, float], torch.Tensor]
    ends: Callable[[int], tuple[float, float]] = lambda side: (0.0, 0.0)
    signed: bool = False

    def magnitude(self, level: int, side: int) -> float:
        return float(torch.linspace(*self.ends(side), _RANDAUGMENT_LEVELS)[level])


def _rand_augmented(image_chw: torch.Tensor, options: AugmentOptions, generator: np.random.Generator) -> torch.Tensor:
    """Operations drawn alike, each at the same level and in either direction (Cubuk et al. 2020, arXiv 1909.13719).

    torchvision's own class draws from torch's global generator, which loading threads would share.
    """
    side = image_chw.shape[1]
    for _ in range(options.randaugment_ops):
        operation = rand_augment_operations()[int(generator.integers(len(rand_augment_operations())))]
        magnitude = operation.magnitude(options.randaugment, side)
        if operation.signed and generator.random() < 0.5:
            magnitude = -magnitude
        image_chw = operation.apply(image_chw, magnitude)
    return image_chw


@cache
def rand_augment_operations() -> tuple[Operation, ...]:
    """The fourteen of torchvision's RandAugment, with its magnitudes; what leaves the picture is filled with black."""
    from torchvision.transforms.v2 import functional as kernels

    affine: Callable[..., torch.Tensor] = partial(kernels.affine, angle=0.0, scale=1.0)

    def sheared(image_chw: torch.Tensor, x: float, y: float) -> torch.Tensor:
        degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
        return affine(image_chw, translate=[0.0, 0.0], shear=degrees, center=[0.0, 0.0])

    def shifted(image_chw: torch.Tensor, x: float, y: float) -> torch.Tensor:
        return affine(image_chw, translate=[int(x), int(y)], shear=[0.0, 0.0])

    def signed(name: str, apply: Callable[[torch.Tensor, float], torch.Tensor], most: float) -> Operation:
        return Operation(name, apply, lambda _: (0.0, most), signed=True)

    def shift(name: str, apply: Callable[[torch.Tensor, float], torch.Tensor]) -> Operation:
        return Operation(name, apply, lambda side: (0.0, 150.0 / 331.0 * side), signed=True)

    return (
        Operation("Identity", lambda image, _: image),
        signed("ShearX", lambda image, m: sheared(image, m, 0.0), 0.3),
        signed("ShearY", lambda image, m: sheared(image, 0.0, m), 0.3),
        shift("TranslateX", lambda image, m: shifted(image, m, 0.0)),
        shift("TranslateY", lambda image, m: shifted(image, 0.0, m)),
        signed("Rotate", kernels.rotate, 30.0),
        signed("Brightness", lambda image, m: kernels.adjust_brightness(image, 1.0 + m), 0.9),
        signed("Color", lambda image, m: kernels.adjust_saturation(image, 1.0 + m), 0.9),
        signed("Contrast", lambda image, m: _contrasted(image, 1.0 + m), 0.9),
        signed("Sharpness", lambda image, m: kernels.adjust_sharpness(image, 1.0 + m), 0.9),
        Operation("Posterize", lambda image, m: kernels.posterize(image, bits=round(m)), lambda _: (8.0, 4.0)),
        Operation("Solarize", lambda image, m: kernels.solarize(image, threshold=255.0 * m), lambda _: (1.0, 0.0)),
        Operation("AutoContrast", lambda image, _: kernels.autocontrast(image)),
        Operation("Equalize", lambda image, _: kernels.equalize(image)),
    )


def _contrasted(image_chw: torch.Tensor, factor: float) -> torch.Tensor:
    """torchvision's adjust_contrast, with a mean that does not depend on the number of threads that sum it."""
    from torchvision.transforms.v2 import functional as kernels

    mean = kernels.rgb_to_grayscale(image_chw).mean(dtype=torch.float64).float()
    return image_chw.mul(factor).add_(mean, alpha=1.0 - factor).clamp_(0, 255).to(torch.uint8)


def _erased(image_chw: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """A box of 2 % to a third of the area becomes noise, a value a pixel (Zhong et al. 2020, arXiv 1708.04896).

    The law of the box is the paper's; one that does not fit is drawn again, ten times at most.
    """
    side = image_chw.shape[1]
    for _ in range(_ERASING_ATTEMPTS):
        area = generator.uniform(*_ERASED_AREA) * side * side
        aspect = math.exp(generator.uniform(*np.log(_ERASED_ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < height < side and 0 < width < side:
            top, left = int(generator.integers(side - height + 1)), int(generator.integers(side - width + 1))
            noise_chw = generator.standard_normal((image_chw.shape[0], height, width), dtype=np.float32)
            erased_chw = image_chw.clone()
            erased_chw[:, top : top + height, left : left + width] = torch.from_numpy(
                np.clip(np.rint(noise_chw * _NOISE_STD + _NOISE_MEAN), 0, 255).astype(np.uint8)
            )
            return erased_chw
    return image_chw


def mix(
    images_bchw: torch.Tensor,
    labels_b: torch.Tensor,
    *,
    num_classes: int,
    options: AugmentOptions,
    generator: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each image with the one at its place from the end: images_bchw float32 on the 0 to 255 scale, shares_bk.

    Mixup (Zhang et al. 2018, arXiv 1710.09412) or CutMix (Yun et al. 2019, arXiv 1905.04899), one share for the whole
    batch, drawn from Beta(alpha, alpha); with both on, either with probability 1/2.
    """
    cuts = options.cutmix > 0 and (options.mixup == 0 or generator.random() < 0.5)
    alpha = options.cutmix if cuts else options.mixup
    share = float(generator.beta(alpha, alpha))
    mixed_bchw = images_bchw.to(torch.float32, copy=True)
    if cuts:
        rows, columns = _cut_box(images_bchw.shape[2], images_bchw.shape[3], share, generator)
        mixed_bchw[:, :, rows, columns] = images_bchw.flip(0)[:, :, rows, columns].float()
        cut = (rows.stop - rows.start) * (columns.stop - columns.start)
        share = 1.0 - cut / (images_bchw.shape[2] * images_bchw.shape[3])
    else:
        mixed_bchw = mixed_bchw.mul_(share).add_(images_bchw.flip(0), alpha=1.0 - share)
    own_bk = torch.nn.functional.one_hot(labels_b, num_classes).float()
    return mixed_bchw, own_bk * share + own_bk.flip(0) * (1.0 - share)


def _cut_box(height: int, width: int, share: float, generator: np.random.Generator) -> tuple[slice, slice]:
    """A box of 1 - share of the area about a centre anywhere in the picture, as much of it as is inside."""

    def span(side: int) -> slice:
        length, centre = int(side * math.sqrt(1.0 - share)), int(generator.integers(side))
        return slice(max(0, centre - length // 2), min(side, centre + (length + 1) // 2))

    return span(height), span(width)
