"""docs/results.md by one command: elpv of this repository, and grocery in a project below data/ (`make results`).

What is finished and unchanged is not trained again. The finetune of grocery takes 40 minutes on two cores.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from platform_assets.scaffold import create_project
from platform_tests.benchmarks.bench_finetune import GROCERY_EXPERIMENT
from platform_tests.benchmarks.bench_grocery import DATASET, GROCERY

ROOT = Path(__file__).parents[2]
SHOP = "data/grocery_project"
LITE0 = {"backbone": "tf_efficientnet_lite0", "features": "stages"}
HEADS: dict[str, Any] = {
    "name": "heads",
    "dataset": "grocery",
    "description": "Heads on a frozen backbone, on the official parts.",
    "metric": "top1",
    "resize": "shorter_side",
    "image_size_px": 288,
    "baseline": "pooled",
    "variants": {
        "pooled": {**LITE0, "mode": "linear_probe", "features": "pooled"},
        "stages": {**LITE0, "mode": "linear_probe"},
        "nearest_mean": {**LITE0, "mode": "nearest_mean"},
        "knn": {**LITE0, "mode": "knn"},
    },
}


def _kestrel(*arguments: str, folder: Path = ROOT) -> None:
    subprocess.run([Path(sys.executable).with_name("kestrel"), *arguments], cwd=folder, check=True)


def _shop(experiments: list[dict[str, Any]]) -> list[str]:
    folder = ROOT / SHOP
    if not folder.is_dir():
        create_project(folder, name="shop")
        for place in ("photos", "photos_first"):
            (folder / f"shop/defs/{place}/defs.yaml").unlink()
    kind = "platform_assets.components.Experiment"
    documents = {"grocery": DATASET, **{each["name"]: {"type": kind, "attributes": each} for each in experiments}}
    for place, document in documents.items():
        path = folder / f"shop/defs/{place}/defs.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(document, sort_keys=False))
    names = [f"grocery/{each['name']}" for each in experiments]
    for name in ("grocery", *names):
        _kestrel("materialize", name, folder=folder)
    return [f"{SHOP}:{name}" for name in names]


if __name__ == "__main__":
    _kestrel("demo")
    wanted = [HEADS, *([GROCERY_EXPERIMENT] if "--finetune" in sys.argv[1:] else [])]
    shop = _shop(wanted) if GROCERY.is_dir() else []
    _kestrel("results", "--write", "docs/results.md", "elpv/probes", *shop)
