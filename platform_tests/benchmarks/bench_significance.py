"""Paired tests on simulated models: equal ones declared different (A/A), and how often two points are found (power)."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.predictions import compute_metrics, predictions_frame
from platform_tests.vision.evaluation.test_ranking_scores import held
from platform_tests.vision.simulated_models import Setting, declared_different, leads, p_values

REPETITIONS, ALPHA = 2000, 0.05
SETS = {
    "elpv": Setting(images=656, error=0.13, seeds=1, shared=0.0),
    "grocery": Setting(images=2485, error=0.22, seeds=1, shared=0.0),
}
ERRORS = {
    "independent": {"shared": 0.0},
    "correlated 0.5": {"shared": 0.5},
    "and 0.5 within a variant": {"shared": 0.5, "of_variant": 0.5},
}
MOST = float(binom.ppf(0.999, REPETITIONS, ALPHA)) / REPETITIONS


def _declared(setting: Setting, variants: int, seed: int) -> NDArray[np.bool_]:
    blocks = [
        leads(setting, variants=variants, repetitions=200, seed=seed + block) for block in range(REPETITIONS // 200)
    ]
    return np.concatenate([declared_different(p_values(block), ALPHA) for block in blocks])


@pytest.mark.bench
def test_bench_significance__equal_models_are_declared_different_in_at_most_alpha() -> None:
    print(f"\n{REPETITIONS} repetitions at {ALPHA}: at most {MOST:.4f} wanted, which chance exceeds in 1 of 1,000")
    print("| images | errors | 1 seed | 3 seeds | 5 variants against one, Holm, 1 seed | 3 seeds |")
    print("| --- | --- | --- | --- | --- | --- |")
    shares = []
    for name, one in SETS.items():
        for said, errors in ERRORS.items():
            cases = [(variants, replace(one, seeds=seeds, **errors)) for variants in (2, 6) for seeds in (1, 3)]
            shares += (row := [float(_declared(setting, variants, 100).mean()) for variants, setting in cases])
            print(f"| {one.images} ({name}) | {said} | {' | '.join(f'{share:.4f}' for share in row)} |")
    assert max(shares) <= MOST


@pytest.mark.bench
def test_bench_significance__power_for_two_points() -> None:
    print("\n| images | errors | 1 seed | 3 seeds | 5 variants, Holm, any of them, 3 seeds |")
    print("| --- | --- | --- | --- | --- |")
    for name, one in SETS.items():
        for said, errors in ERRORS.items():
            better = replace(one, better=0.02, **errors)
            row = [_declared(replace(better, seeds=seeds), 2, 500).mean() for seeds in (1, 3)]
            row.append(_declared(replace(better, seeds=3), 6, 500).mean())
            print(f"| {one.images} ({name}) | {said} | {' | '.join(f'{share:.3f}' for share in row)} |")


@pytest.mark.bench
def test_bench_significance__the_test_is_of_trained_models_and_not_of_recipes() -> None:
    """Equal recipes whose trained models differ by chance: what one seed calls different is a luckier seed."""
    print("\n| images | spread of seeds, points | 1 seed | 3 seeds |")
    print("| --- | --- | --- | --- |")
    for name, one in SETS.items():
        for spread in (0.005, 0.01, 0.02):
            row = [_recipes_declared(replace(one, seeds=seeds, shared=0.5), spread) for seeds in (1, 3)]
            print(f"| {one.images} ({name}) | {100 * spread:g} | {' | '.join(f'{share:.3f}' for share in row)} |")


def _recipes_declared(setting: Setting, spread: float) -> float:
    """Each seed of either recipe has an error rate of its own around the same one."""
    generator = np.random.default_rng(0)
    strength = (1 - setting.shared) / setting.shared
    verdicts = np.zeros((REPETITIONS, 1, setting.images), dtype=np.int8)
    for repetition in range(REPETITIONS):
        hard_n = generator.beta(setting.error * strength, (1 - setting.error) * strength, setting.images)
        for sign in (1, -1):
            for rate in generator.normal(setting.error, spread, setting.seeds):
                right_n = generator.random(setting.images) >= hard_n * rate / setting.error
                verdicts[repetition, 0] += (sign * right_n).astype(np.int8)
    return float((p_values(verdicts) < ALPHA).mean())


@pytest.mark.bench
@pytest.mark.parametrize(("images", "classes"), [(656, 2), (2485, 81), (6000, 81), (50_000, 1000)])
def test_bench_metrics__seconds_of_one_part(images: int, classes: int) -> None:
    generator = np.random.default_rng(0)
    names = LabelMap(names=tuple(f"c{number:04}" for number in range(classes)))
    truth_n = generator.integers(classes, size=images)
    logits_nk = (generator.normal(size=(images, classes)) + 3 * np.eye(classes)[truth_n]).astype(np.float32)
    ids = [f"{number:064d}" for number in range(images)]
    rows = pl.DataFrame({"image_id": ids, "path": ids, "part": "test", "label": [names.names[k] for k in truth_n]})
    frame = predictions_frame(rows, logits_nk, names)
    compute_metrics(frame[:100], names, "test")  # imports
    started, on_cpu = time.perf_counter(), time.process_time()
    found = compute_metrics(frame, names, "test")
    seconds, on_cpu = time.perf_counter() - started, time.process_time() - on_cpu
    print(f"\n{images} images, {classes} classes: {seconds:.2f} s, {on_cpu:.2f} of CPU")
    assert found.macro_auroc_interval is not None
    assert on_cpu < 2 or images > 2485


@pytest.mark.bench
@pytest.mark.parametrize("images", [30, 80, 150, 600])
@pytest.mark.parametrize("classes", [2, 4])
def test_bench_rankings__intervals_hold_the_truth(images: int, classes: int) -> None:
    auroc, ap = np.mean(held(images, 400, classes=classes), axis=0)
    print(f"\n| {images} | {classes} | {auroc:.3f} | {ap:.3f} |")
    assert min(auroc, ap) > 0.85
