"""grocery by YAML alone: a linear probe on its official parts, and the embedding rate beside the engine's own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from platform_assets.scaffold import create_project
from platform_assets.stores.tables import Tables

GROCERY = Path(__file__).parents[3] / "shared/data/grocery"
DATASET = {
    "type": "platform_assets.components.VisionDataset",
    "attributes": {
        "name": "grocery",
        "description": "Shop photographs of 81 products.",
        "licence": "MIT",
        "source": {
            "kind": "table",
            "path": str(GROCERY),
            "files": {"train": "train.txt", "val": "val.txt", "test": "test.txt"},
            "header": False,
            "columns": {"path": 0, "label": 1},
            "extra": {"coarse": 2},
            "label_names": {"file": "classes.csv", "id": "Class ID (int)", "name": "Class Name (str)"},
        },
        "split": {"kind": "official"},
    },
}
PROBE = {"backbone": "tf_efficientnet_lite0", "mode": "linear_probe", "image_size_px": 288, "features": "stages"}
EXPERIMENT = {
    "name": "probe",
    "dataset": "grocery",
    "description": "A linear probe, C chosen on the official val part.",
    "metric": "top1",
    "resize": "shorter_side",
    "baseline": "stages",
    "variants": {"stages": {**PROBE, "probe": {"log10_c_min": -2, "log10_c_max": 1, "points": 7}}},
}


def materialized(folder: Path, dataset: dict[str, Any], experiment: dict[str, Any]) -> Tables:
    """The tables of a dataset and an experiment on it, made in a project of its own by the commands a user has."""
    create_project(folder, name="shop")
    documents = {
        "photos": dataset,
        "photos_first": {"type": "platform_assets.components.Experiment", "attributes": experiment},
    }
    for place, document in documents.items():
        (folder / f"shop/defs/{place}/defs.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    kestrel, name = Path(sys.executable).with_name("kestrel"), dataset["attributes"]["name"]
    for what in (name, f"{name}/{experiment['name']}"):
        subprocess.run([kestrel, "materialize", what], cwd=folder, check=True)
    return Tables(folder / "data/tables")


@pytest.mark.bench
@pytest.mark.skipif(not GROCERY.is_dir(), reason="the grocery photographs do not lie beside the project")
def test_bench_grocery__linear_probe_by_yaml_alone(tmp_path: Path) -> None:
    tables = materialized(tmp_path, DATASET, EXPERIMENT)
    row = tables.read(["grocery", "probe", "metrics"], "stages__s0").row(0, named=True)
    embedded = tables.read(["grocery", "probe", "embeddings"]).row(0, named=True)
    counts = tables.read(["grocery", "records"])["split"].value_counts().sort("split")
    chosen = pl.read_parquet(next((tmp_path / "data/outputs").rglob("history.parquet"))).filter("chosen")
    rate = embedded["images"] / embedded["seconds"]
    print(
        f"\n| parts | top-1 on test | macro-F1 | log10 C | fit s | images/s | engine alone |\n| {counts.rows()} ",
        end="",
    )
    print(f"| {row['test_top1']:.4f} | {row['test_macro_f1']:.4f} | {chosen['log10_c'][0]} ", end="")
    print(f"| {row['train_seconds']:.0f} | {rate:.0f} | {embedded['engine_images_s']:.0f} |")
    assert counts.rows() == [("test", 2485), ("train", 2640), ("val", 296)]
    assert row["test_top1"] >= 0.764
