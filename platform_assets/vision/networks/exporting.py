"""A classifier exported as an ONNX file that carries its labels and pixels, compared with torch and timed beside it."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.calibration import Calibration
from platform_assets.vision.networks.onnx_classifier import OnnxClassifier, pixels_of_files

if TYPE_CHECKING:
    from platform_assets.vision.formats.boxes import Box
    from platform_assets.vision.networks.models import Classifier

# The lowest opset that torch's exporter writes without converting, so that old runtimes read the file too.
OPSET = 18
PARITY_TOLERANCE = 1e-3


class ExportError(ValueError):
    """A classifier that cannot be exported, or an export that cannot be compared with it."""


def export_onnx(
    classifier: Classifier,
    path: Path,
    *,
    label_map: LabelMap,
    checkpoint_id: str,
    calibration: Calibration | None = None,
) -> None:
    """Write one self-contained file: uint8 RGB `images` [batch, 3, size, size] to float32 `logits` [batch, classes].

    The normalisation is in the graph; labels, their checksum, the preprocessing, the calibration, the checkpoint id and
    our version are in `metadata_props`. The same classifier gives the same bytes. Raises ExportError when the label map
    does not fit.
    """
    import onnx

    if len(label_map) != classifier.num_classes:
        raise ExportError(
            f"label map {label_map.checksum[:12]} has {len(label_map)} names, the classifier {classifier.num_classes} "
            "logits; export with the label map of its checkpoint"
        )
    model = _graph(classifier)
    _leave_out_traces_of_this_machine(model)
    onnx.helper.set_model_props(
        model,
        {
            "labels": json.dumps(label_map.names, ensure_ascii=False),
            "label_map_checksum": label_map.checksum,
            "preprocessing": classifier.preprocessing.model_dump_json(),
            "checkpoint_id": checkpoint_id,
            "kestrel_version": _kestrel_version(),
            **({"calibration": calibration.model_dump_json()} if calibration else {}),
        },
    )
    onnx.checker.check_model(model, full_check=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    onnx.save_model(model, beside)
    beside.replace(path)


def _graph(classifier: Classifier) -> Any:
    """The onnx.ModelProto of a copy on the CPU in evaluation mode."""
    import torch

    side = classifier.preprocessing.image_size_px
    # Two images: of one, torch.export up to 2.13 made a constant batch.
    sample_bchw = torch.zeros((2, 3, side, side), dtype=torch.uint8)
    program = torch.onnx.export(
        copy.deepcopy(classifier).cpu().eval(),
        (sample_bchw,),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None, "the dynamo exporter returns the program"
    return program.model_proto


def _leave_out_traces_of_this_machine(model: Any) -> None:
    """The exporter notes source paths and stack traces at every node."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _kestrel_version() -> str:
    try:
        return importlib.metadata.version("kestrel-vision")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


class ParityReport(BaseModel):
    """Exported file against torch on the same image files, from bytes to label.

    Differences are of logits. `logit_range` is how far the widest logit moves over the images: without it a
    comparison says nothing. `top1_flips` counts images that get another label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    images: int
    max_abs_diff: float
    mean_abs_diff: float
    top1_flips: int
    logit_range: float
    tolerance: float

    @property
    def top1_flip_rate(self) -> float:
        return self.top1_flips / self.images

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the export must not be used; empty when it may. A flip within the tolerance is a tie, and no problem."""
        said = []
        if self.max_abs_diff > self.tolerance:
            flips = f"{self.top1_flips} of {self.images} labels change"
            said.append(f"a logit differs by {self.max_abs_diff:.3g}, {self.tolerance:.3g} is allowed; {flips}")
        if self.logit_range <= self.tolerance:
            said.append(
                f"the logits of {self.images} images differ by {self.logit_range:.3g} only: nothing was compared"
            )
        return tuple(said)

    @property
    def passed(self) -> bool:
        return not self.problems


def check_parity(
    classifier: Classifier,
    path: Path,
    images: Sequence[bytes],
    *,
    label_map: LabelMap,
    boxes: Sequence[Box] | None = None,
    batch_size: int = 32,
) -> ParityReport:
    """Run both on image files as on disk: torch float32 with its own preprocessing, the export with its recorded one.

    `boxes`, one an image, are for a classifier that sees the annotated box only.

    Raises ExportError with fewer than two images or a logit that is not finite, LabelMapMismatch on another label map.
    """
    if len(images) < 2:
        raise ExportError(f"{path}: {len(images)} images to compare on; give two or more different ones")
    exported = OnnxClassifier(path, expect_label_map=label_map)
    reference, found = [], []
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        batch, their_boxes = images[rows], boxes and boxes[rows]
        reference.append(_torch_logits(classifier, pixels_of_files(batch, classifier.preprocessing, their_boxes)))
        found.append(exported.logits_of_files(batch, their_boxes))
    return _parity(path, np.concatenate(reference), np.concatenate(found))


def _parity(path: Path, reference: NDArray[np.float32], found: NDArray[np.float32]) -> ParityReport:
    for who, logits_nk in (("torch", reference), ("the exported file", found)):
        broken = int((~np.isfinite(logits_nk).all(axis=1)).sum())
        if broken:
            raise ExportError(
                f"{path}: {who} gives non-finite logits for {broken} of {len(logits_nk)} images; train again"
            )
    differences = np.abs(reference.astype(np.float64) - found.astype(np.float64))
    return ParityReport(
        images=len(reference),
        max_abs_diff=float(differences.max()),
        mean_abs_diff=float(differences.mean()),
        top1_flips=int((reference.argmax(axis=1) != found.argmax(axis=1)).sum()),
        logit_range=float(np.ptp(reference, axis=0).max()),
        tolerance=PARITY_TOLERANCE,
    )


def _torch_logits(classifier: Classifier, images_bchw: NDArray[np.uint8]) -> NDArray[np.float32]:
    from platform_assets.vision.networks.inference import predict

    return predict(classifier, images_bchw, batch_size=len(images_bchw))


def measure_latency(
    classifier: Classifier, path: Path, *, batch_sizes: Sequence[int] = (1, 8), runs: int = 20
) -> pl.DataFrame:
    """Pixels to logits on this CPU, torch eager beside ONNX Runtime with as many threads, in alternating runs.

    One row per engine and batch size: p50 and p95 in ms per batch, images per second at p50. Decoding is not in it.
    """
    import torch

    threads = torch.get_num_threads()
    exported = OnnxClassifier(path, threads=threads)
    engines: dict[str, Callable[[NDArray[np.uint8]], object]] = {
        "torch": lambda images_bchw: _torch_logits(classifier, images_bchw),
        "onnxruntime": exported.logits,
    }
    side = classifier.preprocessing.image_size_px
    rng = np.random.default_rng(0)
    rows = []
    for size in batch_sizes:
        images_bchw = rng.integers(0, 256, (size, 3, side, side), dtype=np.uint8)
        for engine, times_ms in _alternating_ms(engines, images_bchw, runs).items():
            p50, p95 = np.percentile(times_ms, [50, 95])
            rows.append((engine, size, threads, runs, float(p50), float(p95), size / float(p50) * 1000))
    columns = ("engine", "batch_size", "threads", "runs", "p50_ms", "p95_ms", "images_per_s")
    return pl.DataFrame(rows, schema=columns, orient="row")


def _alternating_ms(
    engines: dict[str, Callable[[NDArray[np.uint8]], object]],
    images_bchw: NDArray[np.uint8],
    runs: int,
    warm_up: int = 3,
) -> dict[str, list[float]]:
    """Wall time of each run. Engines take turns, so that a busy moment of the machine falls on all of them."""
    times_ms: dict[str, list[float]] = {name: [] for name in engines}
    for run in range(warm_up + runs):
        for name, infer in engines.items():
            started = time.perf_counter()
            infer(images_bchw)
            if run >= warm_up:
                times_ms[name].append((time.perf_counter() - started) * 1000)
    return times_ms
