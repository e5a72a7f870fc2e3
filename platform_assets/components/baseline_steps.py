"""The body of baseline_table: every linear probe of an experiment as one row of a table that others can cite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.leaderboard_steps import folder_urls, metrics_rows
from platform_assets.components.specs import data_version
from platform_assets.stores.whole_files import write_whole

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.stores.outputs import OutputFolder, Outputs
    from platform_assets.stores.runs import Runs
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.evaluation.metrics import ClassMetrics

BASELINE_TABLE = (
    "The linear probes, one row a seed, as Parquet, CSV and JSON: backbone, normalization, resolution, head, checkpoint, "
    "top-1, macro-F1 and figures of each class on test, and the finetune of the same backbone."
)
FINETUNE_COLUMNS = ("trial", "checkpoint_id", "test_top1", "test_macro_f1", "mlflow_run_id")
# Empty where no backbone is finetuned, and columns of text all the same.
_TEXTS = ("finetune_trial", "finetune_checkpoint_id", "finetune_mlflow_run_id", "finetune_run_url")
_CLASS_FIGURES = ("images", "precision", "recall", "f1")


def has_baselines(spec: ExperimentSpec) -> bool:
    return any(variant.mode == "linear_probe" for variant in spec.variants.values())


def baseline_file(spec: ExperimentSpec, tables: Tables, suffix: str) -> Path:
    """Where the table lies as CSV or JSON, beside the Parquet file."""
    return tables.root.joinpath(*spec.key, "baseline_table", f"baseline_table.{suffix}")


def baseline_table(spec: ExperimentSpec, tables: Tables, outputs: Outputs, runs: Runs) -> dg.MaterializeResult[Any]:
    import polars as pl

    rows = metrics_rows(spec, tables)
    probes = rows.filter(pl.col("mode") == "linear_probe")
    folders = {trial: outputs.at(url) for trial, url in folder_urls(spec, tables, probes["trial"]).items()}
    frame = pl.DataFrame(
        [_row(probe, folders[probe["trial"]], _finetune(probe, rows, spec), runs) for probe in probes.to_dicts()],
        infer_schema_length=None,
        schema_overrides=dict.fromkeys(_TEXTS, pl.String),
    )
    tables.write([*spec.key, "baseline_table"], frame)
    csv, text = (baseline_file(spec, tables, suffix) for suffix in ("csv", "json"))
    write_whole(csv, _wide(frame).write_csv())
    write_whole(text, json.dumps(frame.to_dicts(), indent=2, ensure_ascii=False) + "\n")
    return dg.MaterializeResult(
        data_version=data_version(*rows["checkpoint_id"], *rows["test_ids_sha256"]),
        metadata={
            "dagster/row_count": frame.height,
            "baselines": show.table(frame.drop("per_class")),
            "csv": dg.MetadataValue.path(str(csv)),
            "json": dg.MetadataValue.path(str(text)),
        },
    )


def _row(probe: dict[str, Any], folder: OutputFolder, finetune: dict[str, Any] | None, runs: Runs) -> dict[str, Any]:
    from platform_assets.stores.manifests import WEIGHTS_NAME
    from platform_assets.vision.evaluation.metrics import Metrics
    from platform_assets.vision.recipes.backbones import get_backbone
    from platform_assets.vision.recipes.resolving import ResolvedTrial

    trial = ResolvedTrial.model_validate_json(folder.path("config.json").read_bytes())
    test = Metrics.model_validate(json.loads(folder.path("metrics.json").read_bytes())["test"])
    run_id = finetune["mlflow_run_id"] if finetune else None
    return {
        "backbone": trial.backbone,
        "config_name": trial.variant,
        "config_hash": trial.config_hash,
        "normalization_id": get_backbone(trial.backbone).normalization,
        "preprocessing_id": trial.preprocessing.preprocessing_id,
        "resolution_px": trial.preprocessing.image_size_px,
        "features": trial.features,
        **head_size(folder.path(WEIGHTS_NAME)),
        "seed": trial.seed,
        "trial": trial.trial,
        "checkpoint_id": probe["checkpoint_id"],
        "checkpoint_sha256": folder.manifest().files[WEIGHTS_NAME].sha256,
        "test_images": test.images,
        "test_ids_sha256": test.image_ids_sha256,
        "top1": test.top1,
        "macro_f1": test.macro_f1,
        **{f"finetune_{name}": finetune[name] if finetune else None for name in FINETUNE_COLUMNS},
        "finetune_run_url": runs.run_url(run_id) if run_id else None,
        "per_class": [_figures(entry) for entry in test.per_class],
    }


def _figures(entry: ClassMetrics) -> dict[str, Any]:
    return {"label": entry.label, **{name: getattr(entry, name) for name in _CLASS_FIGURES}}


def head_size(weights: Path) -> dict[str, int]:
    """Inputs, outputs and parameters of the linear head in a weights file, of which only the header is read."""
    from safetensors import safe_open

    with safe_open(weights, framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys() if name.startswith("head.")}  # noqa: SIM118
    outputs, inputs = next(shape for name, shape in shapes.items() if name.endswith("weight"))
    return {"head_inputs": inputs, "head_outputs": outputs, "head_parameters": inputs * outputs + outputs}


def _finetune(probe: dict[str, Any], rows: pl.DataFrame, spec: ExperimentSpec) -> dict[str, Any] | None:
    """The finetune of the same backbone: of the same seed where there is one, and then the best on val."""
    import polars as pl

    tuned = rows.filter(pl.col("mode") == "finetune", pl.col("backbone") == probe["backbone"]).with_columns(
        same_seed=pl.col("seed") == probe["seed"]
    )
    ranked = tuned.sort(["same_seed", f"val_{spec.metric}", "trial"], descending=[True, True, False])
    return ranked.row(0, named=True) if ranked.height else None


def _wide(frame: pl.DataFrame) -> pl.DataFrame:
    """A column a figure and class, such as `recall: Apple`: CSV knows no lists."""
    import polars as pl

    flat = [
        {f"{name}: {entry['label']}": entry[name] for entry in entries for name in _CLASS_FIGURES}
        for entries in frame["per_class"].to_list()
    ]
    return pl.concat([frame.drop("per_class"), pl.DataFrame(flat, infer_schema_length=None)], how="horizontal")
