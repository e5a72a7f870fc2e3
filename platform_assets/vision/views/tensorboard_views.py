"""The evaluation of a trial for TensorBoard: PR curves, pictures, vectors. The training is tensorboard_log.py's."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.splits import Part
from platform_assets.vision.evaluation.predictions import predictions_of_part
from platform_assets.vision.training.tensorboard_log import write_events

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

# Tags: pr/{part} for all classes pooled, pr/{part}/{class} for the most frequent ones, {part}/{name} for a picture.
PR_CLASSES = 25
PR_THRESHOLDS = 127
PROJECTED_IMAGES = 1000
TENSORS, METADATA, CONFIG = "tensors.tsv", "metadata.tsv", "projector_config.pbtxt"
_SHOWN = ("path", "part", "truth", "prediction", "correct", "confidence")


def write_evaluation(
    folder: Path, predictions: pl.DataFrame, label_map: LabelMap, pictures: Mapping[str, bytes], *, part: Part = "test"
) -> Path:
    """Write one event file into `folder`: PR curves one against the rest, and the pictures (PNG or JPEG), at step 0."""
    curves = _pr_curves(predictions_of_part(predictions, part), label_map, part)
    images = (_picture(f"{part}/{name}", picture) for name, picture in pictures.items())
    return write_events(folder, ((0, summary) for summary in (*curves, *images)))


def _pr_curves(rows: pl.DataFrame, label_map: LabelMap, part: Part) -> Iterator[Summary]:
    from torch.utils.tensorboard.summary import pr_curve

    probabilities_nk = rows["probabilities"].explode().to_numpy().reshape(rows.height, -1).astype(np.float64)
    is_truth_nk = rows["truth_index"].to_numpy()[:, None] == np.arange(len(label_map.names))
    curves = {f"pr/{part}": (is_truth_nk.ravel(), probabilities_nk.ravel())}
    for k in np.argsort(-is_truth_nk.sum(axis=0), kind="stable")[:PR_CLASSES]:
        if is_truth_nk[:, k].any():
            curves[f"pr/{part}/{label_map.names[k]}"] = (is_truth_nk[:, k], probabilities_nk[:, k])
    for tag, (truth_n, score_n) in curves.items():
        yield pr_curve(tag, truth_n, score_n, num_thresholds=PR_THRESHOLDS)  # type: ignore[no-untyped-call]


def _picture(tag: str, picture: bytes) -> Summary:
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = Image.open(io.BytesIO(picture)).size
    image = Summary.Image(encoded_image_string=picture, width=width, height=height, colorspace=3)
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def write_projector(folder: Path, predictions: pl.DataFrame, vectors: pl.DataFrame) -> None:
    """Write the embedding projector's files into `folder`, which needs an event file beside them to be found.

    Up to PROJECTED_IMAGES of the predictions by image id, of those that have a vector in `vectors` (image_id, vector): TENSORS,
    and METADATA with path, part, truth, prediction, correct and confidence.
    Format: tensorboard.plugins.projector (projector_config.proto).
    """
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    folder.mkdir(parents=True, exist_ok=True)
    shown = predictions.sort("image_id").join(vectors, on="image_id", maintain_order="left").head(PROJECTED_IMAGES)
    vectors_nd: NDArray[np.float32] = shown["vector"].to_numpy()
    columns = pl.DataFrame(vectors_nd, schema=[str(d) for d in range(vectors_nd.shape[1])])
    columns.write_csv(folder / TENSORS, separator="\t", include_header=False, float_precision=4)
    # The plugin splits lines and tabs itself and knows no quotes.
    text = pl.selectors.string().str.replace_all(r"\s", " ")
    shown.select(_SHOWN).with_columns(text).write_csv(folder / METADATA, separator="\t", quote_style="never")
    config = ProjectorConfig()
    config.embeddings.add(tensor_name="embedding", tensor_path=TENSORS, metadata_path=METADATA)
    (folder / CONFIG).write_text(text_format.MessageToString(config))
