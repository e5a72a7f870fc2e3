"""Models that err at random at a known rate, to try tests on: no images, no network, only who was right where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from platform_assets.vision.evaluation.significance import holm, sign_test


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Images, the rate of errors, seeds a variant, and what errors have in common.

    `shared` is the correlation of the errors of any two models on an image (some images are hard for all), `of_variant` of
    what is left within the seeds of one variant. All variants but the first have an error rate lower by `better`.
    """

    images: int
    error: float
    seeds: int
    shared: float
    of_variant: float = 0.0
    better: float = 0.0


def leads(setting: Setting, *, variants: int, repetitions: int, seed: int) -> NDArray[np.int8]:
    """[repetitions, variants - 1, images]: under how many more seeds than the first variant the others were right."""
    generator = np.random.default_rng(seed)
    found = np.empty((repetitions, variants - 1, setting.images), dtype=np.int8)
    for repetition in range(repetitions):
        hard_n = _around(np.full(setting.images, setting.error), setting.shared, generator)
        first_n = _right(setting, hard_n, generator)
        lower_n = hard_n * (1 - setting.better / setting.error)
        for number in range(variants - 1):
            found[repetition, number] = _right(setting, lower_n, generator) - first_n
    return found


def _right(setting: Setting, hard_n: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int8]:
    """Under how many seeds of one variant each image is right."""
    own_n = _around(hard_n, setting.of_variant, generator)
    return (generator.random((setting.seeds, setting.images)) >= own_n).sum(axis=0).astype(np.int8)


def _around(mean_n: NDArray[np.float64], correlation: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """Error rates of images, beta distributed: two errors drawn at one image's rate are so correlated."""
    if correlation == 0:
        return mean_n
    strength = (1 - correlation) / correlation
    mean_n = mean_n.clip(1e-9, 1 - 1e-9)
    return generator.beta(mean_n * strength, (1 - mean_n) * strength)


def p_values(found: NDArray[np.int8]) -> NDArray[np.float64]:
    """[repetitions, variants - 1]: as `comparison.paired_test` has them, an image counting for the better side."""
    return sign_test((found > 0).sum(axis=2), (found < 0).sum(axis=2))


def declared_different(p: NDArray[np.float64], alpha: float) -> NDArray[np.bool_]:
    """Of each repetition, whether any variant is called different after Holm's correction."""
    return np.array([min(holm(list(row))) < alpha for row in p])
