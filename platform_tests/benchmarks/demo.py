"""The shipped elpv dataset and experiment as the benchmarks take them: their specs, and one backbone embedded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl
import yaml

from platform_assets.components.experiment_spec import ExperimentSpec
from platform_assets.components.vision_dataset import VisionDatasetSpec

if TYPE_CHECKING:
    from platform_assets.stores.embeddings import EmbeddingCache
    from platform_assets.vision.recipes.resolving import ResolvedTrial

DEFS = Path(__file__).parents[2] / "platform_assets/defs"


def _attributes(name: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((DEFS / name / "defs.yaml").read_text())["attributes"]
    return found


DATASET = VisionDatasetSpec.model_validate(_attributes("elpv"))
EXPERIMENT = ExperimentSpec.model_validate(_attributes("elpv_probes"))


class Frozen(NamedTuple):
    """What a set of vectors is of."""

    backbone: str
    features: str
    preprocessing_id: str


def embed_frozen(trial: ResolvedTrial, records: pl.DataFrame, root: Path, cache: EmbeddingCache) -> pl.DataFrame:
    """image_id and vector of all records, computed and kept in the cache."""
    from platform_assets.stores.embeddings import EmbeddingKey
    from platform_assets.vision.networks.embedding import embed_batches
    from platform_assets.vision.networks.engines import choose_engine
    from platform_assets.vision.networks.weights import load_backbone, weights_sha256
    from platform_assets.vision.recipes.backbones import get_backbone

    backbone = load_backbone(trial.backbone, pretrained=True, features=trial.features)
    choice = choose_engine(backbone, trial.preprocessing, "cpu")
    key = EmbeddingKey(
        backbone=f"{trial.backbone}.{trial.features}",
        weights_sha256=weights_sha256(backbone),
        preprocessing_id=trial.preprocessing.preprocessing_id,
        engine=choice.engine.name,
        feature_dim=get_backbone(trial.backbone).dim(trial.features),
    )
    images = [(image_id, (root / path).read_bytes) for image_id, path in records.select("image_id", "path").rows()]
    cache.add_all(key, embed_batches(images, trial.preprocessing, choice.engine))
    return cache.lookup(key, list(records["image_id"]))
