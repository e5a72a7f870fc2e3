"""One trial, fitted: a probe on cached vectors or a network on pixels, from the records of its train and val parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from platform_assets.vision.cropping import boxes_of, crop_id
from platform_assets.vision.datasets import LabelledImages, load_images, require_memory
from platform_assets.vision.models import Classifier, build_classifier
from platform_assets.vision.probe import Candidate, fit_probe
from platform_assets.vision.training import train

if TYPE_CHECKING:
    from platform_assets.vision.devices import Device
    from platform_assets.vision.formats.boxes import Box
    from platform_assets.vision.label_map import LabelMap
    from platform_assets.vision.pixel_cache import PixelCache
    from platform_assets.vision.preprocessing import Preprocessing
    from platform_assets.vision.recipes import ResolvedTrial
    from platform_assets.vision.splits import Part
    from platform_assets.vision.training_state import EpochRow


class MissingVectors(ValueError):
    """Images of a trial that have no embedding."""


class ChangedImage(ValueError):
    """A file whose bytes are not those that its record was made of."""


@dataclass(frozen=True)
class Fitted:
    """A classifier ready to save. `history` has one row per epoch, or per value of C for a probe."""

    classifier: Classifier
    history: pl.DataFrame
    summary: dict[str, float | int | bool]


class Pixels:
    """The decoded images of one folder at one preprocessing; the last one asked for is kept for the next trial.

    With a `cache` they are kept for the next process too: the same pixels, bit for bit.
    """

    def __init__(
        self, root: Path, *, on_image: Callable[[int, int], None] | None = None, cache: PixelCache | None = None
    ) -> None:
        self._root = root
        self._on_image = on_image
        self._cache = cache
        self._held: tuple[tuple[str, ...], str, NDArray[np.uint8]] | None = None

    def of(self, records: pl.DataFrame, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """images_nchw uint8 of these records, row by row.

        Raises MissingBox when the preprocessing crops to boxes and, with a cache, ChangedImage.
        """
        boxes = boxes_of(records, preprocessing)
        crops = zip(records["image_id"], boxes or repeat(None, records.height), strict=True)
        key = (tuple(crop_id(image_id, box) for image_id, box in crops), preprocessing.preprocessing_id)
        if self._held is None or self._held[:2] != key:
            if self._cache is None:
                images = self._loaded(records, boxes, preprocessing, of=records.height)
            else:
                images = self._cached(self._cache, key[0], records, boxes, preprocessing)
            self._held = (*key, images)
        return self._held[2]

    def _loaded(
        self,
        records: pl.DataFrame,
        boxes: Sequence[Box] | None,
        preprocessing: Preprocessing,
        *,
        of: int,
        after: int = 0,
    ) -> NDArray[np.uint8]:
        """Decoded, as number `after` and following of all `of` images."""
        report = self._on_image
        heard = (lambda n: report(after + n, of)) if report else None
        paths = [self._root / path for path in records["path"]]
        return load_images(paths, preprocessing, boxes=boxes, on_image=heard)

    def _cached(
        self,
        cache: PixelCache,
        names: Sequence[str],
        records: pl.DataFrame,
        boxes: Sequence[Box] | None,
        preprocessing: Preprocessing,
    ) -> NDArray[np.uint8]:
        require_memory(records.height, preprocessing.image_size_px)
        done = 0

        def load(rows: Sequence[int]) -> NDArray[np.uint8]:
            nonlocal done
            some, some_boxes = records[rows], [boxes[row] for row in rows] if boxes else None
            for path, image_id in some.select("path", "image_id").iter_rows():
                _require_unchanged(self._root / path, image_id)
            images = self._loaded(some, some_boxes, preprocessing, of=records.height, after=done)
            done += len(rows)
            return images

        return cache.images(names, preprocessing, load)


def _require_unchanged(path: Path, image_id: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != image_id:
        raise ChangedImage(
            f"{path}: its SHA-256 is now {found[:12]}..., its record was made of {image_id[:12]}...; "
            "materialize the records again"
        )


def part_labels(records: pl.DataFrame, part: Part, label_map: LabelMap) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of a part and their label indices, both [n]."""
    rows = np.flatnonzero((records["split"] == part).to_numpy())
    labels = records["label"].to_list()
    return rows, np.array([label_map.index(labels[row]) for row in rows], dtype=np.int64)


def features_of(records: pl.DataFrame, vectors: pl.DataFrame) -> NDArray[np.float32]:
    """features_nd of every record, from a frame of image_id and vector. Raises MissingVectors."""
    joined = records.select("image_id", "path").join(vectors, on="image_id", how="left", maintain_order="left")
    missing = joined.filter(pl.col("vector").is_null())
    if not missing.is_empty():
        raise MissingVectors(
            f"{missing.height} images have no embedding, the first is {missing['path'][0]}; materialize embeddings again"
        )
    return joined["vector"].to_numpy(writable=True)


def fit_probe_trial(
    trial: ResolvedTrial,
    records: pl.DataFrame,
    vectors: pl.DataFrame,
    label_map: LabelMap,
    *,
    on_candidate: Callable[[Candidate], None] | None = None,
) -> Fitted:
    """A head on the frozen backbone's vectors, and the backbone with that head as one classifier."""
    import torch

    assert trial.probe is not None
    features = features_of(records, vectors)
    (train_rows, train_labels), (val_rows, val_labels) = (part_labels(records, p, label_map) for p in ("train", "val"))
    probe = fit_probe(
        (features[train_rows], train_labels),
        (features[val_rows], val_labels),
        num_classes=len(label_map),
        recipe=trial.probe,
        metric=trial.metric,
        on_candidate=on_candidate,
    )
    classifier = build_classifier(
        trial.backbone,
        len(label_map),
        trial.preprocessing,
        pretrained=True,
        seed=trial.seed,
        features=trial.features,
    )
    classifier.set_head(torch.from_numpy(probe.weight_kd), torch.from_numpy(probe.bias_k))
    return Fitted(classifier, probe.candidates, {"log10_c": probe.log10_c, "at_grid_edge": probe.at_grid_edge})


def fit_network_trial(
    trial: ResolvedTrial,
    records: pl.DataFrame,
    pixels: Pixels,
    label_map: LabelMap,
    *,
    device: Device,
    work_dir: Path,
    on_epoch: Callable[[EpochRow], None] | None = None,
) -> Fitted:
    """A network trained from scratch or from pretrained weights; resumes from `work_dir`."""
    assert trial.train is not None
    images, image_ids = pixels.of(records, trial.preprocessing), records["image_id"].to_numpy()
    parts = {}
    for part in ("train", "val"):
        rows, labels = part_labels(records, part, label_map)
        parts[part] = LabelledImages(tuple(image_ids[rows]), images[rows], labels)
    classifier = build_classifier(
        trial.backbone, len(label_map), trial.preprocessing, pretrained=trial.mode == "finetune", seed=trial.seed
    )
    result = train(
        classifier,
        parts["train"],
        parts["val"],
        trial.train,
        metric=trial.metric,
        seed=trial.seed,
        device=device,
        work_dir=work_dir,
        on_epoch=on_epoch,
    )
    summary: dict[str, float | int | bool] = {
        "best_epoch": result.best_epoch,
        "stopped_early": result.stopped_early,
        "resumed_from_epoch": result.resumed_from_epoch,
    }
    return Fitted(classifier, result.history, summary)
