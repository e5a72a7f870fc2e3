"""What is left of a trial to look at beside its figures: pictures, TensorBoard, FiftyOne and predictions.jsonl."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platform_assets.components import metadata as show
from platform_assets.components.checkpoint_steps import trial_vectors
from platform_assets.components.specs import code_version
from platform_assets.vision.recipes.modes import FROZEN_MODES

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.desk import Desk
    from platform_assets.stores.outputs import OutputFolder
    from platform_assets.vision.networks.models import Classifier
    from platform_assets.vision.recipes.resolving import ResolvedTrial

VIEWS, FIFTYONE, EVALUATION_LOG = "views", "fiftyone", "tb/evaluation"
FEATURES = "features.parquet"
MADE_FROM = "made_from.json"
EXPLAINED, PARTS_SHOWN = 8, 12
CODE = (
    *(
        "vision.views.galleries",
        "vision.views.saliency",
        "vision.views.embedding_maps",
        "vision.views.fiftyone_folder",
        "vision.views.part_pictures",
    ),
    *("vision.views.prediction_lines", "vision.views.tensorboard_views"),
)


def add_views(
    desk: Desk, trial: ResolvedTrial, classifier: Classifier, frame: pl.DataFrame, vectors: pl.DataFrame
) -> dict[str, Any]:
    """The pictures of these predictions as metadata; they and all other views join the folder of the trial.

    `vectors` (image_id, vector) are of all evaluated images or, of a network, of those that FEATURES_KEPT lets in.

    Views of the same predictions by the same code are taken as they are.
    """
    folder, made_from = desk.folder(trial.trial), _made_from(desk, trial)
    if _read_made_from(desk, trial) != made_from:
        _add_lists(desk, trial, frame, vectors)
        with tempfile.TemporaryDirectory() as scratch:
            for name, picture in _pictures(desk, trial, classifier, frame, vectors):
                Path(scratch, name).write_bytes(picture)
            Path(scratch, MADE_FROM).write_text(json.dumps(made_from, indent=2) + "\n")
            folder.add_tree(VIEWS, Path(scratch))
    return {Path(name).stem: show.picture(picture) for name, picture in view_pictures(folder).items()}


def view_pictures(folder: OutputFolder) -> dict[str, bytes]:
    """The pictures among the views of a trial, by file name."""
    names = [name for name in folder.manifest().files if name.startswith(f"{VIEWS}/") and not name.endswith(".json")]
    return {name.removeprefix(f"{VIEWS}/"): folder.path(name).read_bytes() for name in names}


def _made_from(desk: Desk, trial: ResolvedTrial) -> dict[str, str]:
    """All that the views follow from."""
    return {
        "predictions": desk.folder(trial.trial).manifest().files["predictions.parquet"].sha256,
        "images": str(desk.inputs.root),
        "code": code_version(*CODE),
    }


def _read_made_from(desk: Desk, trial: ResolvedTrial) -> dict[str, str] | None:
    folder, name = desk.folder(trial.trial), f"{VIEWS}/{MADE_FROM}"
    if name not in folder.manifest().files:
        return None
    said: dict[str, str] = json.loads(folder.path(name).read_bytes())
    return said


def _pictures(
    desk: Desk, trial: ResolvedTrial, classifier: Classifier, frame: pl.DataFrame, vectors: pl.DataFrame
) -> Iterator[tuple[str, bytes]]:
    """File name and content of every picture that there can be of this trial."""
    from platform_assets.vision.images.image_files import reader_of
    from platform_assets.vision.views.galleries import mistakes_sheet

    yield "worst_mistakes.jpg", mistakes_sheet(frame, reader_of(desk.inputs.root))
    explained = _explained(desk, trial, classifier, frame)
    if explained is not None:
        yield "saliency.jpg", explained
    mapped = _mapped(frame, vectors)
    if mapped.height:
        yield "embedding_map.png", _error_map(mapped)
    if trial.parts:
        yield "parts.png", _parts(desk, trial, classifier)


def _explained(desk: Desk, trial: ResolvedTrial, classifier: Classifier, frame: pl.DataFrame) -> bytes | None:
    """Where the evidence for the worst mistakes is; None without mistakes, or where the network does not show it."""
    from platform_assets.vision.networks.models import place
    from platform_assets.vision.views.galleries import saliency_sheet, worst_mistakes
    from platform_assets.vision.views.saliency import saliency

    worst = worst_mistakes(frame, most=EXPLAINED)
    if worst.is_empty():
        return None
    images = _pixels(desk, trial, worst)
    place(classifier, desk.compute.choose(desk.context.log).device)
    found = saliency(classifier, images, worst["prediction_index"].to_numpy())
    return None if found is None else saliency_sheet(worst, images, found.maps_nhw, method=found.method)


def _pixels(desk: Desk, trial: ResolvedTrial, rows: pl.DataFrame) -> Any:
    """images_nchw of a few rows, read anew: the decoded images that the next trial needs stay in memory."""
    from platform_assets.vision.images.cropping import boxes_of
    from platform_assets.vision.training.batches import load_images

    records = rows.select("path").join(desk.inputs.records, on="path", how="left", maintain_order="left")
    paths = [desk.inputs.root / path for path in records["path"]]
    return load_images(paths, trial.preprocessing, boxes=boxes_of(records, trial.preprocessing))


def _mapped(frame: pl.DataFrame, vectors: pl.DataFrame) -> pl.DataFrame:
    """A sample of test that is stable by hash, with vectors."""
    from platform_assets.vision.views.embedding_maps import MAPPED_IMAGES

    test = frame.filter(part="test").select("image_id", "truth", "correct").sort("image_id")
    return test.join(vectors, on="image_id", maintain_order="left").head(MAPPED_IMAGES)


def _error_map(mapped: pl.DataFrame) -> bytes:
    from platform_assets.vision.views.embedding_maps import error_map, neighbour_points

    return error_map(neighbour_points(mapped["vector"].to_numpy()), list(mapped["truth"]), list(mapped["correct"]))


def _parts(desk: Desk, trial: ResolvedTrial, classifier: Classifier) -> bytes:
    """What the last block looked at in a dozen images of test, classes in turn."""
    from platform_assets.vision.views.galleries import classes_in_turn
    from platform_assets.vision.views.part_pictures import looked_at

    test = classes_in_turn(desk.inputs.records_of(trial).filter(split="test"), most=PARTS_SHOWN)
    return looked_at(classifier, _pixels(desk, trial, test))


def _add_lists(desk: Desk, trial: ResolvedTrial, frame: pl.DataFrame, vectors: pl.DataFrame) -> None:
    """The predictions as other tools read them."""
    from platform_assets.vision.views.fiftyone_folder import write_fiftyone
    from platform_assets.vision.views.prediction_lines import PREDICTIONS_JSONL, as_jsonl

    folder, label_map = desk.folder(trial.trial), desk.inputs.label_map
    folder.add(PREDICTIONS_JSONL, as_jsonl(frame, label_map))
    with tempfile.TemporaryDirectory() as scratch:
        of_frame = vectors.join(frame, on="image_id", how="semi")
        write_fiftyone(Path(scratch), frame, root=desk.inputs.root, label_map=label_map, vectors=of_frame)
        folder.add_tree(FIFTYONE, Path(scratch))


def add_evaluation_log(desk: Desk, trial: ResolvedTrial, frame: pl.DataFrame, pictures: Mapping[str, bytes]) -> None:
    """PR curves, pictures and the vectors for the embedding projector, under the trial's tb/."""
    from platform_assets.vision.views.tensorboard_views import write_evaluation, write_projector

    with tempfile.TemporaryDirectory() as scratch:
        write_evaluation(Path(scratch), frame, desk.inputs.label_map, pictures)
        vectors = _kept_vectors(desk, trial)
        if vectors is not None:
            write_projector(Path(scratch), frame, vectors)
        desk.folder(trial.trial).add_tree(EVALUATION_LOG, Path(scratch))


def _kept_vectors(desk: Desk, trial: ResolvedTrial) -> pl.DataFrame | None:
    """Those that the predictions came from; None of a network that predicted when none were kept."""
    import polars as pl

    if trial.mode in FROZEN_MODES:
        return trial_vectors(desk, trial)
    folder = desk.folder(trial.trial)
    return pl.read_parquet(folder.path(FEATURES)) if FEATURES in folder.manifest().files else None
