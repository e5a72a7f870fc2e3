"""An exported ONNX file as it is served: from the bytes of image files to labels. No torch here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.calibration import Calibration, softmax
from platform_assets.vision.formats.boxes import Box
from platform_assets.vision.images.cropping import BadBox
from platform_assets.vision.images.decoding import MAX_PIXELS
from platform_assets.vision.recipes.preprocessing import Preprocessing, pixels_of_file


class OnnxFileError(ValueError):
    """A file that is not a whole export of ours."""


class Prediction(BaseModel):
    """What the model says of one image: the likeliest label and the probability of each class, in label-map order.

    `labels` is the set that holds the truth as often as the calibration states, likeliest first, and `is_sure` whether
    the label alone should be taken; both None, and probabilities as the network gives them, without a calibration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    confidence: float
    probabilities: tuple[float, ...]
    labels: tuple[str, ...] | None
    is_sure: bool | None


class OnnxClassifier:
    """One exported file, loaded. Weights outside of the file are refused by ONNX Runtime."""

    def __init__(self, path: Path, *, expect_label_map: LabelMap | None = None, threads: int = 0) -> None:
        """`threads` 0 leaves the choice to ONNX Runtime.

        Raises OnnxFileError on a file that is not ours, LabelMapMismatch when it was made with another label map.
        """
        import onnxruntime

        reasons = onnxruntime.capi.onnxruntime_pybind11_state
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # 2026-11: with spinning idle threads lite0 at 224 px took 72 ms, not 25, on 2 busy cores, beside torch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # what it would log is in the exception
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except (
            reasons.Fail,
            reasons.InvalidArgument,
            reasons.InvalidGraph,
            reasons.InvalidProtobuf,
            reasons.NoSuchFile,
            reasons.NotImplemented,
        ) as error:
            raise OnnxFileError(f"{path}: not an ONNX file that runs here ({error}); export it again") from error
        recorded = self._session.get_modelmeta().custom_metadata_map
        self.label_map, self.preprocessing, self.calibration = _recorded_facts(path, recorded)
        self.checkpoint_id: str = recorded["checkpoint_id"]
        if expect_label_map is not None:
            expect_label_map.require_same(self.label_map, what=str(path))

    def logits(self, images_bchw: NDArray[np.uint8]) -> NDArray[np.float32]:
        """logits_bk of pixels that `preprocessing` gave."""
        return cast("NDArray[np.float32]", self._session.run(["logits"], {"images": images_bchw})[0])

    def logits_of_files(
        self, images: Sequence[bytes], boxes: Sequence[Box] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> NDArray[np.float32]:
        """logits_bk of image files as they are on disk; raises as `pixels_of_files`."""
        return self.logits(pixels_of_files(images, self.preprocessing, boxes, max_pixels=max_pixels))

    def predict(
        self, images: Sequence[bytes], boxes: Sequence[Box] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> list[Prediction]:
        """One prediction per image file; raises as `pixels_of_files`."""
        if not images:
            return []
        logits_bk = self.logits_of_files(images, boxes, max_pixels=max_pixels)
        if self.calibration is None:
            return [self._prediction(row, None, None) for row in softmax(logits_bk)]
        probabilities_bk = self.calibration.probabilities(logits_bk)
        sets_bk, sure_b = self.calibration.label_sets(probabilities_bk), self.calibration.answers(probabilities_bk)
        rows = zip(probabilities_bk, sets_bk, sure_b.tolist(), strict=True)
        return [self._prediction(*row) for row in rows]

    def _prediction(
        self, probabilities_k: NDArray[np.float64], set_k: NDArray[np.bool_] | None, is_sure: bool | None
    ) -> Prediction:
        order = np.argsort(-probabilities_k, kind="stable").tolist()
        names = self.label_map.names
        return Prediction(
            label=names[order[0]],
            confidence=float(probabilities_k[order[0]]),
            probabilities=tuple(probabilities_k.tolist()),
            labels=None if set_k is None else tuple(names[k] for k in order if set_k[k]),
            is_sure=is_sure,
        )


def _recorded_facts(path: Path, recorded: dict[str, str]) -> tuple[LabelMap, Preprocessing, Calibration | None]:
    missing = {"labels", "label_map_checksum", "preprocessing", "checkpoint_id"} - recorded.keys()
    if missing:
        raise OnnxFileError(f"{path}: holds no {', '.join(sorted(missing))}; only files of `export_onnx` can be served")
    try:
        label_map = LabelMap(names=tuple(json.loads(recorded["labels"])))
        preprocessing = Preprocessing.model_validate_json(recorded["preprocessing"])
        said = recorded.get("calibration")
        calibration = Calibration.model_validate_json(said) if said else None
    except (ValidationError, json.JSONDecodeError) as error:
        raise OnnxFileError(
            f"{path}: its recorded labels, preprocessing or calibration are damaged ({error}); export again"
        ) from error
    if label_map.checksum != recorded["label_map_checksum"]:
        raise OnnxFileError(
            f"{path}: its labels have checksum {label_map.checksum[:12]} and it records "
            f"{recorded['label_map_checksum'][:12]}; it was edited after the export, export it again"
        )
    return label_map, preprocessing, calibration


def pixels_of_files(
    images: Sequence[bytes],
    preprocessing: Preprocessing,
    boxes: Sequence[Box] | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """images_bchw as a model takes them, from image files as they are on disk.

    `boxes`, one an image in pixels of the stored file, are needed where the preprocessing has a `box_margin`.
    Raises UnreadableImage, BadBox with the position of the image, and MissingBox.
    """
    pixels, their_boxes = [], boxes if boxes is not None else repeat(None, len(images))
    for number, (data, box) in enumerate(zip(images, their_boxes, strict=True), 1):
        try:
            pixels.append(pixels_of_file(data, preprocessing, box, max_pixels=max_pixels))
        except BadBox as error:
            raise BadBox(f"image {number} of {len(images)}: {error}") from error
    return np.stack(pixels)
