"""Whether label sets hold the truth, and answers are right, as often as they say: elpv and grocery, many draws of the fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from platform_assets.vision.evaluation.calibration import calibrate
from platform_assets.vision.evaluation.calibration_report import report
from platform_assets.vision.recipes.uncertainty_options import UncertaintyOptions
from platform_tests.benchmarks.bench_grocery import DATASET, EXPERIMENT, GROCERY, PROBE, materialized

ELPV = yaml.safe_load(Path(__file__).parents[2].joinpath("platform_assets/defs/elpv/defs.yaml").read_text())
ELPV_EXPERIMENT = {
    **{"name": "probe", "dataset": "elpv", "description": "A linear probe.", "baseline": "stages"},
    "variants": {"stages": PROBE},
}
DRAWS = 1000


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dataset", ["elpv", "grocery"])
def test_bench_coverage__lies_in_its_band_as_often_as_it_should(tmp_path: Path, dataset: str) -> None:
    """val and test of a dataset need not be alike; drawn from both together, the parts are, and then the law must hold."""
    if dataset == "grocery" and not GROCERY.is_dir():
        pytest.skip("the grocery photographs do not lie beside the project")
    documents: tuple[Any, Any] = (ELPV, ELPV_EXPERIMENT) if dataset == "elpv" else (DATASET, EXPERIMENT)
    predictions = materialized(tmp_path, *documents).read([dataset, "probe", "predictions"], "stages__s0")
    logits_nk = np.array(predictions["logits"].to_list())
    truth_n, val_n = predictions["truth_index"].to_numpy(), (predictions["part"] == "val").to_numpy()
    stated = report(
        calibrate(logits_nk[val_n], truth_n[val_n], UncertaintyOptions()), logits_nk[~val_n], truth_n[~val_n]
    )
    print(f"\n{dataset}, its own parts: {stated.covered:.3f} in {stated.covered_low:.3f} to {stated.covered_high:.3f}")
    print(
        "| sets | images to fit on, to judge | mean coverage | inside the band | labels a set | answers are right often enough | "
        "answered |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    generator, images = np.random.default_rng(0), int(val_n.sum())
    for sets in ("lac", "aps", "raps"):
        found = []
        for _ in range(DRAWS):
            order_n = generator.permutation(len(truth_n))
            fit_n, judge_n = order_n[:images], order_n[images:]
            fitted = calibrate(logits_nk[fit_n], truth_n[fit_n], UncertaintyOptions(sets=sets))
            found.append(report(fitted, logits_nk[judge_n], truth_n[judge_n]))
        frame = pl.DataFrame([each.model_dump() for each in found])
        inside = frame.select(pl.col("covered").is_between("covered_low", "covered_high").mean()).item()
        covered, size = frame["covered"].mean(), frame["mean_set_size"].mean()
        enough = (frame["answered_right"].fill_null(1.0) >= UncertaintyOptions().precision).mean()
        print(
            f"| {sets} | {images}, {len(truth_n) - images} | {covered:.4f} | {inside:.3f} | {size:.2f} | {enough:.3f} | "
            f"{frame['answered'].mean():.3f} |"
        )
        assert 0.93 <= inside <= 0.98
        assert covered >= 0.9 - 0.002
