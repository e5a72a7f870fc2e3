"""The facts of a small report, whose texts would break a page that took them for markup."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from platform_assets.vision.cards.line_charts import Line, LineChart
from platform_assets.vision.cards.report_facts import Outcome, ReportFacts, Serving, ShownTrial
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.predictions import compute_metrics, predictions_frame
from platform_assets.vision.views.galleries import worst_mistakes
from platform_tests.vision.pictures import encoded, noise

EVIL = '<script>document.title="owned"</script>"\' onerror=x <img src=https://evil.example/x.png>'
LABELS = LabelMap(names=("apple", EVIL, "pear"))
TEST_IMAGES = 12
PNG = encoded(noise(5, width=30, height=20))


def load(path: str) -> bytes:
    return encoded(noise(int(path.rsplit("/", 1)[1].split(".")[0]), width=40, height=30))


def predictions() -> pl.DataFrame:
    """Twelve images of test: of apples 4 of 4 are right, of the second class 3 of 4, of pears 1 of 4."""
    truth_n = np.arange(TEST_IMAGES) // 4
    said_n = np.array([0, 0, 0, 0, 1, 1, 1, 0, 2, 0, 0, 1])
    logits_nk = np.eye(3, dtype=np.float32)[said_n] * (1 + np.arange(TEST_IMAGES, dtype=np.float32)[:, None])
    rows = pl.DataFrame(
        {
            "image_id": [f"{n:064x}" for n in range(TEST_IMAGES)],
            "path": [f"{EVIL if n == 8 else 'in'}/{n}.png" for n in range(TEST_IMAGES)],
            "part": "test",
            "label": [LABELS.names[k] for k in truth_n],
        }
    )
    return predictions_frame(rows, logits_nk, LABELS)


def trials(variants: int = 2, seeds: int = 2) -> pl.DataFrame:
    """The columns of the metrics table that a report shows; variant 0 is the best."""
    rows = [
        {
            **{"trial": f"v{v}__s{s}", "variant": f"v{v}", "seed": s, "train_seconds": 10.0 + v},
            **{"val_top1": 0.9 - v / 1000, "test_top1": 0.8 - v / 1000 + s / 100, "test_loss": 0.5, "test_ece": 0.05},
            **{"checkpoint_id": f"{v:08x}{s:08x}", "config_hash": f"{v:064x}"},
        }
        for v in range(variants)
        for s in range(seeds)
    ]
    return pl.DataFrame(rows)


def board(variants: int = 2, seeds: int = 2) -> pl.DataFrame:
    """As `comparison.leaderboard` gives it; the last variant is the baseline."""
    rows = [
        {
            **{"rank": v + 1, "variant": f"v{v}", "backbone": "baseline_cnn", "mode": "scratch", "image_size_px": 32},
            **{"seeds": seeds, "test_values": [0.8 - v / 1000 + s / 100 for s in range(seeds)]},
            **{"val_mean": 0.9 - v / 1000, "test_mean": 0.805 - v / 1000, "test_std": 0.007},
            **{"test_low": 0.7, "test_high": 0.85, "parameters": 1_200_000, "train_seconds": 10.0 + v},
            **{"difference": None if v == variants - 1 else 0.01, "p_holm": None if v == variants - 1 else 0.03},
        }
        for v in range(variants)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


ENVIRONMENT = {
    **{"run_id": "r1", "git_commit": "a" * 40 + "-dirty", "env_hash": "e" * 64, "os_version": "Linux"},
    **{"python_version": "3.11.7", "torch_version": "2.15.0", "gpu_name": None},
}


def shown(**changed: Any) -> ShownTrial:
    facts: dict[str, Any] = {
        "trial": "v0__s1",
        "checkpoint_id": "0000000000000001",
        "choice": "'v0' has the highest mean val top1. The test part had no say.",
        "test": compute_metrics(predictions(), LABELS, "test"),
        "mistakes": worst_mistakes(predictions(), most=32),
        "pictures": {"confusion.png": PNG, "saliency.jpg": PNG},
        "environment": ENVIRONMENT,
    }
    return ShownTrial(**{**facts, **changed})


def facts(**changed: Any) -> ReportFacts:
    given: dict[str, Any] = {
        "experiment": "fruit/first",
        "description": "Fruit & <b>more</b>.",
        "metric": "top1",
        "baseline": "v1",
        "dataset_version": "0123456789abcdef",
        "board": board(),
        "trials": trials(),
        "words": ("- `v0` differs from `v1`: +0.0100 top1, p = 0.03", f"- `{EVIL}` shows no significant difference"),
        "charts": (
            LineChart(
                title="v0",
                x_label="epoch",
                y_label="val top1",
                lines=(Line(name="v0__s0", points=((1, 0.5), (2, 0.7), (3, 0.6))), Line(name=EVIL, points=((1, 0.4),))),
            ),
        ),
        "shown": shown(),
        "serving": Serving(
            model="fruit_first",
            version=3,
            checkpoint_id="c" * 16,
            candidate="v0__s1",
            verdict="kept",
            reason="top1 0.8 against 0.9",
        ),
        "gate": (Outcome(name="verdict", passed=True, said="kept"),),
        "checks": (
            Outcome(name="metrics.metrics_beat_the_majority_class", passed=False, said=f"margin {EVIL}"),
            Outcome(name="exports.export_matches_its_checkpoint", passed=None),
        ),
        "env_hashes": ("e" * 64,),
        "commits": ("a" * 40 + "-dirty",),
        "commands": ("git checkout " + "a" * 40, "kestrel materialize fruit/first"),
    }
    return ReportFacts(**{**given, **changed})
