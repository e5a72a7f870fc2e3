"""The bodies of the assets that hand a champion over: exports and model card."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.champion_steps import gate_records, read_champion
from platform_assets.components.inputs import open_inputs
from platform_assets.components.specs import code_version, data_version
from platform_assets.components.trial_evaluation import CALIBRATION
from platform_assets.resources import FilesResource, OutputsResource, TablesResource
from platform_assets.stores.whole_files import write_whole

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.components.inputs import Inputs
    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.stores.outputs import OutputFolder, Outputs
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.evaluation.calibration import Calibration
    from platform_assets.vision.evaluation.calibration_report import CalibrationReport
    from platform_assets.vision.networks.exporting import ParityReport
    from platform_assets.vision.networks.models import Classifier

EXPORTS = (
    "The champion as ONNX: dynamic batch, normalisation inside, labels and preprocessing recorded, with its parity on real "
    "image files and its latency beside torch."
)
MODEL_CARD = (
    "The model card in Markdown, every number from the assets above; what is not known is marked as not stated."
)
ONNX, PARITY, LATENCY = "exports/model.onnx", "exports/parity.json", "exports/latency.parquet"
PARITY_IMAGES = 128


def parity_check(spec: ExperimentSpec, dataset: VisionDatasetSpec) -> dg.AssetChecksDefinition:
    """Compares the file that lies there now, whenever the check runs."""

    @dg.asset_check(
        name="export_matches_its_checkpoint",
        asset=[*spec.key, "exports"],
        description="From image file to logits the export agrees with torch on real test images.",
        blocking=True,
    )
    def export_matches_its_checkpoint(
        tables: TablesResource, outputs: OutputsResource, files: FilesResource
    ) -> dg.AssetCheckResult:
        from platform_assets.vision.networks.checkpoints import CLASSIFIER_FILES, load_classifier

        store = tables.open()
        inputs = open_inputs(spec, dataset, store, files)
        folder = outputs.open().at(read_champion(spec, store).folder_url)
        classifier = load_classifier(folder.local_folder(*CLASSIFIER_FILES), expect_label_map=inputs.label_map)
        parity = _parity_on_test(inputs, classifier, folder.path(ONNX))
        return dg.AssetCheckResult(
            passed=parity.passed,
            description="; ".join(parity.problems) or None,
            metadata={
                "max_abs_diff": parity.max_abs_diff,
                "threshold": parity.tolerance,
                "top1_flip_rate": parity.top1_flip_rate,
                "images": parity.images,
            },
        )

    return export_matches_its_checkpoint


def exports(
    context: dg.AssetExecutionContext, inputs: Inputs, tables: Tables, outputs: Outputs
) -> dg.MaterializeResult[Any]:
    """Export unless this champion's folder already holds the export of this code."""
    import polars as pl

    from platform_assets.vision.views.plots import latency_bars

    row = read_champion(inputs.spec, tables)
    folder, code = outputs.at(row.folder_url), code_version("vision.networks.exporting")
    calibration = certainty_of(folder)[0]
    said = calibration.model_dump(mode="json") if calibration else None
    known = json.loads(folder.path(PARITY).read_bytes()) if PARITY in folder.manifest().files else {}
    if (known.get("code_version"), known.get("calibration")) == (code, said):
        context.log.info(f"champion {row.checkpoint_id}: nothing changed, its export is taken as it is")
    else:
        _export(inputs, folder, row.checkpoint_id, code, calibration)
    known = json.loads(folder.path(PARITY).read_bytes())
    latency = pl.read_parquet(folder.path(LATENCY))
    tables.write([*inputs.spec.key, "exports"], latency)
    return dg.MaterializeResult(
        data_version=data_version(row.checkpoint_id, code, json.dumps(said)),
        metadata={
            "onnx": dg.MetadataValue.path(f"{folder.url}/{ONNX}"),
            "onnx_bytes": folder.manifest().files[ONNX].bytes,
            "parity": dg.MetadataValue.json(known["parity"]),
            "latency": show.table(latency),
            "latency_bars": show.picture(latency_bars(latency)),
            "preprocessing": dg.MetadataValue.json(
                json.loads(folder.path("config.json").read_bytes())["preprocessing"]
            ),
        },
    )


def certainty_of(folder: OutputFolder) -> tuple[Calibration | None, CalibrationReport | None]:
    """What was fitted on val and found on test; None for a model that was evaluated before there was either."""
    from platform_assets.vision.evaluation.calibration import Calibration
    from platform_assets.vision.evaluation.calibration_report import CalibrationReport

    if CALIBRATION not in folder.manifest().files:
        return None, None
    said = json.loads(folder.path(CALIBRATION).read_bytes())
    return Calibration.model_validate(said["calibration"]), CalibrationReport.model_validate(said["on_test"])


def _export(
    inputs: Inputs, folder: OutputFolder, checkpoint_id: str, code: str, calibration: Calibration | None
) -> None:
    """Export, compare on test images, time it; the files join the checkpoint's folder in one step."""
    from platform_assets.vision.networks.checkpoints import CLASSIFIER_FILES, load_classifier
    from platform_assets.vision.networks.exporting import export_onnx, measure_latency

    classifier = load_classifier(folder.local_folder(*CLASSIFIER_FILES), expect_label_map=inputs.label_map)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, Path(ONNX).name)
        export_onnx(classifier, path, label_map=inputs.label_map, checkpoint_id=checkpoint_id, calibration=calibration)
        parity = _parity_on_test(inputs, classifier, path)
        report = {
            "code_version": code,
            "calibration": calibration.model_dump(mode="json") if calibration else None,
            "parity": parity.model_dump(mode="json"),
        }
        measure_latency(classifier, path).write_parquet(Path(scratch, Path(LATENCY).name))
        Path(scratch, Path(PARITY).name).write_text(json.dumps(report, indent=2) + "\n")
        folder.add_tree("exports", Path(scratch))


def _parity_on_test(inputs: Inputs, classifier: Classifier, path: Path) -> ParityReport:
    """On files of the test part, the first by id: a stable sample."""
    import polars as pl

    from platform_assets.vision.images.cropping import boxes_of
    from platform_assets.vision.networks.exporting import check_parity

    test: pl.DataFrame = inputs.records.filter(pl.col("split") == "test").sort("image_id").head(PARITY_IMAGES)
    files, boxes = (
        [(inputs.root / path).read_bytes() for path in test["path"]],
        boxes_of(test, classifier.preprocessing),
    )
    return check_parity(classifier, path, files, label_map=inputs.label_map, boxes=boxes)


def model_card(inputs: Inputs, tables: Tables, outputs: Outputs, files: FilesResource) -> dg.MaterializeResult[Any]:
    from platform_assets.components.card_facts import model_card_facts
    from platform_assets.vision.cards.model_card import model_card as write_card

    row, records = read_champion(inputs.spec, tables), gate_records(inputs.spec, tables, files).read()
    text = write_card(model_card_facts(inputs, tables, outputs.at(row.folder_url), row, records))
    path = write_whole(files.card(*inputs.spec.key, "model_card"), text)
    return dg.MaterializeResult(
        data_version=data_version(row.checkpoint_id, text),
        metadata={"card": dg.MetadataValue.md(text), "path": dg.MetadataValue.path(str(path))},
    )
