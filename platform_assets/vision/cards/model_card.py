"""The model card: Markdown with a Hugging Face head, made of typed facts and nothing else."""

from __future__ import annotations

import polars as pl
from pydantic import BaseModel, ConfigDict

from platform_assets.vision.cards.licences import StatedLicence, hub_fields
from platform_assets.vision.cards.markdown import front_matter, literal, stated, table
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.calibration_report import CalibrationReport
from platform_assets.vision.evaluation.metrics import Metrics
from platform_assets.vision.networks.exporting import ParityReport
from platform_assets.vision.recipes.backbones import get_backbone
from platform_assets.vision.recipes.modes import RECIPE_OF_MODE
from platform_assets.vision.recipes.resolving import ResolvedTrial

_BOARD_COLUMNS = (
    *("rank", "variant", "mode", "backbone", "image_size_px", "seeds", "val_mean", "test_mean", "test_low"),
    *("test_high", "difference", "p_holm", "parameters", "train_seconds"),
)
_WORST_CLASSES = 20


class Provenance(BaseModel):
    """The fields of env.json that a card shows; `Provenance.model_validate(stamp)` takes them out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run_id: str
    git_commit: str | None
    env_hash: str
    requirements_checksum: str
    os_version: str
    python_version: str
    torch_version: str
    gpu_name: str | None


class ModelCardFacts(BaseModel):
    """What a model card says. `choice` and `gate` are the reasons given by champion choice and gate."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str
    version: int
    licence: StatedLicence
    intended_use: str | None
    limits: str | None
    dataset_description: str
    data_licence: StatedLicence
    data_citation: str | None
    dataset_version: str
    train_images: int
    label_map: LabelMap
    trial: ResolvedTrial
    checkpoint_id: str
    parameters: int
    train_seconds: float
    device: str
    val: Metrics
    test: Metrics
    certainty: CalibrationReport | None
    leaderboard: pl.DataFrame
    choice: str
    gate: str
    parity: ParityReport
    latency: pl.DataFrame
    provenance: Provenance


def model_card(facts: ModelCardFacts) -> str:
    sections = [
        front_matter(_model_head(facts)),
        f"# {facts.name}, version {facts.version}",
        f"A classifier of images into {len(facts.label_map)} classes, trained on `{facts.trial.dataset}`: "
        f"{facts.dataset_description}",
        f"Intended use: {stated(facts.intended_use)}",
        f"Limits: {stated(facts.limits)}",
        "## Results",
        _results_text(facts),
        "## Certainty",
        _certainty_text(facts.certainty),
        "## Classes",
        _classes_text(facts.test),
        "## How it was chosen",
        f"{facts.choice}\n\nGate: {facts.gate}",
        _frame(facts.leaderboard.select(name for name in _BOARD_COLUMNS if name in facts.leaderboard.columns)),
        "`difference` is to the baseline on test; `p_holm` is of a paired test of top-1, "
        "corrected for the number of variants.",
        "## Training",
        _training_text(facts),
        "## Use",
        _use_text(facts),
        "## Licences",
        _licences_text(facts),
        "## Provenance",
        _provenance_text(facts),
    ]
    return "\n\n".join(sections) + "\n"


def _model_head(facts: ModelCardFacts) -> dict[str, object]:
    measured = [("accuracy", "top-1", facts.test.top1), ("f1", "macro-F1", facts.test.macro_f1)]
    dataset = {
        "name": facts.trial.dataset,
        "type": facts.trial.dataset,
        "split": "test",
        "revision": facts.dataset_version,
    }
    result = {
        "task": {"type": "image-classification"},
        "dataset": dataset,
        "metrics": [{"type": kind, "name": name, "value": round(value, 6)} for kind, name, value in measured],
    }
    return {
        **hub_fields(facts.licence),
        "pipeline_tag": "image-classification",
        "library_name": "onnx",
        "tags": ["kestrel", *dict.fromkeys(network.backbone for network in facts.trial.networks), facts.trial.mode],
        "metrics": ["accuracy", "f1"],
        "model-index": [{"name": facts.name, "results": [result]}],
    }


def _results_text(facts: ModelCardFacts) -> str:
    test, val = facts.test, facts.val
    more = ["balanced_accuracy", "loss", "ece"]
    if len(facts.label_map) > 5:
        more.insert(0, "top5")
    names = {"top1": "top-1", "macro_f1": "macro-F1", **{name: name for name in more}}
    rows = [
        *((said, _with_interval(test, name), getattr(val, name)) for name, said in names.items()),
        ("images", test.images, val.images),
    ]
    grouped = test.units is not None and test.units < test.images
    over = f"{test.units:,} groups of images" if grouped else "images"
    note = f"Intervals are 95 % bootstraps over {over}. Val made the choices, so its figures flatter; test made none."
    return f"{table(['figure', 'test', 'val'], rows)}\n\n{note}"


def _certainty_text(found: CalibrationReport | None) -> str:
    if found is None:
        return "Not measured."
    rows = [
        ("ECE, before its temperature was fitted on val", _with_interval(found, "ece_before")),
        ("ECE, after", _with_interval(found, "ece")),
        ("adaptive ECE, before", _with_interval(found, "adaptive_ece_before")),
        ("adaptive ECE, after", _with_interval(found, "adaptive_ece")),
        ("sets of labels that hold the truth", _with_interval(found, "covered")),
        ("labels a set", _with_interval(found, "mean_set_size")),
        ("images that it is sure of", _with_interval(found, "answered")),
        ("of those right", _with_interval(found, "answered_right")),
    ]
    band = f"{found.covered_low:.3f} to {found.covered_high:.3f}"
    note = (
        f"Where test is like val, sets hold the truth of a share of {band}, 95 times in 100, and of more where the likeliest "
        "label, which a set always has, is right more often by itself."
    )
    return f"{table(['figure', 'test'], rows)}\n\n{note}"


def _classes_text(test: Metrics) -> str:
    """The classes with the lowest F1 on test, and those it says nothing about."""
    ordered = sorted(test.per_class, key=lambda entry: (entry.f1 is None, entry.f1))[:_WORST_CLASSES]
    rows = [(entry.label, entry.images, entry.precision, entry.recall, entry.f1) for entry in ordered]
    unseen = [literal(entry.label) for entry in test.per_class if entry.images == 0]
    said = [f"On test, lowest F1 first, {len(rows)} of {len(test.per_class)} classes."]
    said.append(table(["class", "images", "precision", "recall", "F1"], rows))
    if unseen:
        said.append(f"Not measured, because test has no image of them: {', '.join(unseen)}.")
    return "\n\n".join(said)


def _training_text(facts: ModelCardFacts) -> str:
    trial = facts.trial
    recipe = getattr(trial, RECIPE_OF_MODE[trial.mode]) if trial.mode in RECIPE_OF_MODE else None
    rows = [
        ("backbone", ", ".join(dict.fromkeys(network.backbone for network in trial.networks))),
        *(("made of", member.trial.trial) for member in trial.members),
        ("mode", trial.mode),
        ("seed", str(trial.seed)),
        ("train images", facts.train_images),
        ("parameters", facts.parameters),
        ("seconds", f"{facts.train_seconds:.1f} on {facts.device}"),
        *((name, str(value)) for name, value in (recipe.model_dump() if recipe else {}).items()),
        *((f"pixels: {name}", str(value)) for name, value in trial.preprocessing.model_dump().items()),
    ]
    return table(["what", "value"], rows)


def _use_text(facts: ModelCardFacts) -> str:
    parity = facts.parity
    code = (
        "```python\nfrom pathlib import Path\n\nfrom platform_assets.vision.networks.onnx_classifier import OnnxClassifier\n\n"
        'model = OnnxClassifier(Path("exports/model.onnx"))\n'
        'print(model.predict([Path("photo.jpg").read_bytes()])[0].label)\n```'
    )
    verdict = "passed" if parity.passed else f"FAILED: {'; '.join(parity.problems)}"
    agreement = (
        f"Parity of the ONNX file with torch on {parity.images} test image files {verdict}: largest logit difference "
        f"{parity.max_abs_diff:.2g} ({parity.tolerance:.2g} allowed), labels changed {parity.top1_flips}."
    )
    return "\n\n".join([code, agreement, _frame(facts.latency)])


def _licences_text(facts: ModelCardFacts) -> str:
    rows = [
        ("this model", stated(facts.licence.described())),
        ("data", stated(facts.data_licence.described())),
        ("cite for the data", stated(facts.data_citation)),
    ]
    of_whom = {network.backbone: network for network in facts.trial.networks}
    for name, network in of_whom.items():
        backbone, of = get_backbone(name), f" of {name}" if len(of_whom) > 1 else ""
        weights = stated(backbone.weights_licence) if network.pretrained_sha256 else "none, trained from scratch"
        rows += [
            (f"pretrained weights{of}", weights),
            (f"architecture{of}", backbone.licence),
            (f"cite for the architecture{of}", backbone.citation),
        ]
    return table(["what", "licence or citation"], rows)


def _provenance_text(facts: ModelCardFacts) -> str:
    made, trial = facts.provenance, facts.trial
    software = f"{made.os_version}, Python {made.python_version}, torch {made.torch_version}"
    rows = [
        ("checkpoint id (SHA-256 of the weights, first 16)", facts.checkpoint_id),
        ("config hash", trial.config_hash),
        ("dataset version", facts.dataset_version),
        ("label map checksum", facts.label_map.checksum),
        ("test images (SHA-256 of their ids)", facts.test.image_ids_sha256),
        ("pretrained weights SHA-256", trial.pretrained_sha256 or "none"),
        ("Dagster run", made.run_id),
        ("git commit", stated(made.git_commit)),
        ("environment hash", made.env_hash),
        ("requirements checksum", made.requirements_checksum),
        ("machine", f"{software}, {made.gpu_name or 'no GPU'}"),
    ]
    return table(["what", "value"], rows)


def _frame(frame: pl.DataFrame) -> str:
    return table(frame.columns, frame.rows())


def _with_interval(figures: Metrics | CalibrationReport, name: str) -> str | None:
    value, bounds = getattr(figures, name), getattr(figures, f"{name}_interval")
    if value is None or bounds is None:
        return None if value is None else f"{value:.4f}"
    return f"{value:.4f} ({bounds[0]:.4f} to {bounds[1]:.4f})"
