"""The model card: its head is what the Hub reads, its numbers are the facts, its gaps are said."""

import numpy as np
import polars as pl
import pytest
from huggingface_hub import ModelCard
from pydantic import ValidationError

from platform_assets.vision.cards.licences import Licence
from platform_assets.vision.cards.model_card import ModelCardFacts, Provenance, model_card
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.calibration import calibrate
from platform_assets.vision.evaluation.calibration_report import report_of
from platform_assets.vision.evaluation.predictions import compute_metrics, logits_and_truth, predictions_frame
from platform_assets.vision.networks.exporting import ParityReport
from platform_assets.vision.recipes.backbones import get_backbone
from platform_assets.vision.recipes.resolving import Protocol, resolve_trial
from platform_assets.vision.recipes.uncertainty_options import UncertaintyOptions
from platform_assets.vision.recipes.variants import Variant

LABELS = LabelMap(names=("a|b", "c"))


def _predictions() -> pl.DataFrame:
    """On test the model always says c and is right on 8 of 8; nothing of the first class is there."""
    truth = ["a|b", "c"] * 4 + ["c"] * 8
    rows = pl.DataFrame(
        {
            "image_id": [f"{i:064x}" for i in range(16)],
            "path": [f"{i}.png" for i in range(16)],
            "part": ["val"] * 8 + ["test"] * 8,
            "label": truth,
        }
    )
    return predictions_frame(rows, np.tile(np.array([[0.0, 2.0]], dtype=np.float32), (16, 1)), LABELS)


def _model_facts(**changed: object) -> ModelCardFacts:
    protocol = Protocol(
        dataset="solar", experiment="probes", metric="macro_f1", label_map_checksum=LABELS.checksum, image_size_px=64
    )
    variant = Variant(backbone="tf_efficientnet_lite0", mode="linear_probe")
    predictions = _predictions()
    stamp = {
        **{"run_id": "run-7", "git_commit": None, "env_hash": "e" * 64, "requirements_checksum": "f" * 64},
        **{"os_version": "Linux 6", "python_version": "3.11.7", "torch_version": "2.15.0", "gpu_name": None},
        **{"seed": 0, "fp16": False},
    }
    facts: dict[str, object] = {
        "name": "solar_probes",
        "version": 3,
        "licence": None,
        "intended_use": "Sorting cells for a second look.",
        "limits": None,
        "dataset_description": "Cells under light.",
        "data_licence": "CC-BY-NC-SA-4.0",
        "data_citation": None,
        "dataset_version": "0123456789abcdef",
        "train_images": 100,
        "label_map": LABELS,
        "trial": resolve_trial(variant, name="probe", seed=0, protocol=protocol),
        "checkpoint_id": "feedfacefeedface",
        "parameters": 3_374_570,
        "train_seconds": 12.34,
        "device": "cpu",
        "val": compute_metrics(predictions, LABELS, "val"),
        "test": compute_metrics(predictions, LABELS, "test"),
        "certainty": report_of(calibrate(*logits_and_truth(predictions, "val"), UncertaintyOptions()), predictions),
        "leaderboard": pl.DataFrame(
            {"rank": [1, 2], "variant": ["probe", "scratch"], "test_mean": [0.9, 0.5], "difference": [0.4, None]}
        ),
        "choice": "'probe' has the highest mean val macro_f1.",
        "gate": "promoted: no incumbent",
        "parity": ParityReport(
            images=8, max_abs_diff=2e-6, mean_abs_diff=1e-6, top1_flips=0, logit_range=3.0, tolerance=1e-3
        ),
        "latency": pl.DataFrame({"engine": ["torch", "onnxruntime"], "batch_size": [1, 1], "p50_ms": [20.5, 8.25]}),
        "provenance": Provenance.model_validate(stamp),
    }
    return ModelCardFacts(**{**facts, **changed})  # type: ignore[arg-type]


def test_model_card__the_hub_reads_its_head_and_results() -> None:
    card = ModelCard(model_card(_model_facts()))
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.model_name == "solar_probes"
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found == {"top-1": 1.0, "macro-F1": 1.0}
    assert {result.dataset_split for result in card.data.eval_results} == {"test"}
    assert {result.dataset_revision for result in card.data.eval_results} == {"0123456789abcdef"}


def test_model_card__numbers_come_from_the_facts() -> None:
    facts = _model_facts()
    text = model_card(facts)
    assert "| top-1 | 1.0000 (1.0000 to 1.0000) | 0.5000 |" in text
    assert f"| macro-F1 | 1.0000 (1.0000 to 1.0000) | {facts.val.macro_f1:.4f} |" in text
    assert "| images | 8 | 8 |" in text
    assert "| parameters | 3,374,570 |" in text
    assert "| 2 | scratch | 0.5000 | - |" in text
    assert "| onnxruntime | 1 | 8.2500 |" in text
    assert "passed: largest logit difference 2e-06 (0.001 allowed), labels changed 0" in text


def test_model_card__every_hash_is_there() -> None:
    facts = _model_facts()
    text = model_card(facts)
    hashes = (
        *("feedfacefeedface", facts.trial.config_hash, "0123456789abcdef", LABELS.checksum, "e" * 64, "f" * 64),
        *(facts.test.image_ids_sha256, get_backbone("tf_efficientnet_lite0").weights.sha256, "run-7"),  # type: ignore[union-attr]
    )
    assert [value for value in hashes if value not in text] == []


def test_model_card__gaps_and_unmeasured_classes_are_said() -> None:
    text = model_card(_model_facts())
    assert "Limits: not stated" in text
    assert "| this model | not stated |" in text
    assert "| cite for the data | not stated |" in text
    assert "| git commit | not stated |" in text
    assert r"Not measured, because test has no image of them: a\|b." in text


def test_model_card__licences_with_source_and_approval() -> None:
    text = model_card(_model_facts(data_licence=Licence(id="cc0-1.0", source="LICENSE.md", approved_by="J. Doe")))
    assert "| data | CC0-1.0, stated in LICENSE.md, approved by J. Doe |" in text


def test_model_card__failed_parity_is_said() -> None:
    broken = ParityReport(images=8, max_abs_diff=0.2, mean_abs_diff=0.1, top1_flips=3, logit_range=3.0, tolerance=1e-3)
    assert "FAILED: a logit differs by 0.2, 0.001 is allowed; 3 of 8 labels change" in model_card(
        _model_facts(parity=broken)
    )


def test_provenance__a_missing_field_of_the_stamp_is_refused() -> None:
    with pytest.raises(ValidationError, match="env_hash"):
        Provenance.model_validate({"run_id": "r", "git_commit": None})


def test_model_card__says_how_sure_the_model_is_or_that_nobody_measured() -> None:
    facts = _model_facts()
    assert facts.certainty is not None
    text = model_card(facts)
    low, high = facts.certainty.mean_set_size_interval or (0, 0)
    assert f"| labels a set | {facts.certainty.mean_set_size:.4f} ({low:.4f} to {high:.4f}) |" in text
    assert "## Certainty\n\nNot measured." in model_card(_model_facts(certainty=None))


def test_model_card__says_what_its_intervals_are_drawn_over() -> None:
    facts = _model_facts()
    assert "95 % bootstraps over images." in model_card(facts)
    grouped = facts.test.model_copy(update={"units": 3})
    assert "95 % bootstraps over 3 groups of images." in model_card(_model_facts(test=grouped))
