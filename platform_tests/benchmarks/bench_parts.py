"""What part attention costs: training steps and an evaluation of one ViT with and without parts, by turns, each in a process.

python -m platform_tests.benchmarks.bench_parts SELECTOR SIDE_PX STRIDE_PX BATCH measures one of them.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import pytest
import timm
import torch
from torch import nn

from platform_assets.vision.networks.part_attention import PartAttention
from platform_assets.vision.recipes.part_options import PartOptions
from platform_tests.benchmarks.launched import launched

Selector = Literal["none", "glsim", "transfg"]
SELECTORS: tuple[Selector, ...] = ("none", "glsim", "transfg")
CLASSES, ROUNDS = 10, 1
BACKBONE = "vit_small_patch16_224"


class Setting(NamedTuple):
    """Pixels, and images a batch."""

    side_px: int
    stride_px: int
    batch: int


SETTINGS = (Setting(224, 16, 8), Setting(224, 12, 8), Setting(448, 12, 1))


def network(selector: Selector, setting: Setting) -> nn.Module:
    """The transformer on the patches of a setting, from random weights; without parts its last block reads them all."""
    torch.manual_seed(0)
    options = {"selector": "transfg" if selector == "none" else selector, "stride_px": setting.stride_px}
    parts = PartAttention(
        timm.create_model(BACKBONE, num_classes=0), PartOptions.model_validate(options), image_size_px=setting.side_px
    )
    return parts.model if selector == "none" else parts


def measured(selector: Selector, setting: Setting) -> dict[str, float]:
    """CPU seconds of one thread, and MB over the process before its first batch, of a training step and an evaluation."""
    torch.set_num_threads(1)
    backbone = network(selector, setting)
    trained = nn.ModuleList([backbone, nn.Linear(384, CLASSES)])
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-4)
    images_bchw = torch.randn(setting.batch, 3, setting.side_px, setting.side_px)
    labels_b = torch.arange(setting.batch) % CLASSES
    resting = _peak_mb()

    def evaluate() -> None:
        with torch.inference_mode():
            trained.eval()
            backbone(images_bchw)

    def step() -> None:
        trained.train()
        features_bd = backbone(images_bchw)
        loss = nn.functional.cross_entropy(trained[1](features_bd), labels_b)
        if isinstance(backbone, PartAttention):
            loss = loss + backbone.auxiliary_loss(features_bd, labels_b)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    # The peak never falls, so what takes less comes first.
    evaluate_s, evaluate_mb = _seconds(evaluate), _peak_mb() - resting
    step_s, step_mb = _seconds(step), _peak_mb() - resting
    return {"evaluate_s": evaluate_s, "evaluate_mb": evaluate_mb, "step_s": step_s, "step_mb": step_mb}


def _seconds(work: Callable[[], None]) -> float:
    """Of the second time: the first makes what is made once."""
    work()
    started = time.process_time()
    work()
    return time.process_time() - started


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e3 if sys.platform == "linux" else 1e6)


@pytest.mark.bench
@pytest.mark.timeout(3600)
def test_bench_parts__cost_no_more_than_a_third_of_a_step() -> None:
    found: dict[tuple[Setting, Selector], list[dict[str, Any]]] = {}
    for _ in range(ROUNDS):
        for setting in SETTINGS:
            for selector in SELECTORS:
                command = [sys.executable, "-m", __spec__.name, selector, *map(str, setting)]
                found.setdefault((setting, selector), []).append(json.loads(launched(command).said))
    print(
        f"\n| {BACKBONE} | parts | step, CPU s | to none | step, MB | evaluation, CPU s | to none | evaluation, MB |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    ratios = []
    for setting in SETTINGS:
        none = found[setting, "none"]
        for selector in SELECTORS:
            rows = found[setting, selector]
            median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
            to_none = {
                name: statistics.median(a[name] / b[name] for a, b in zip(rows, none, strict=True))
                for name in ("step_s", "evaluate_s")
            }
            ratios.append(to_none["step_s"])
            print(
                f"| {setting.side_px} px, stride {setting.stride_px}, batch {setting.batch} | {selector} "
                f"| {median['step_s']:.2f} | {to_none['step_s']:.2f} | {median['step_mb']:.0f} "
                f"| {median['evaluate_s']:.2f} | {to_none['evaluate_s']:.2f} | {median['evaluate_mb']:.0f} |"
            )
    assert max(ratios) < 1.34


if __name__ == "__main__":
    chosen: Any = sys.argv[1]
    print(json.dumps(measured(chosen, Setting(*map(int, sys.argv[2:5])))))
