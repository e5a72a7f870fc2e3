"""The body of the embeddings asset: every image once through each frozen backbone of an experiment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import BaseModel, ConfigDict

from platform_assets.components import metadata as show
from platform_assets.components.specs import data_version
from platform_assets.vision.backbones import get_backbone
from platform_assets.vision.recipes import resolve_preprocessing

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.inputs import Inputs
    from platform_assets.resources import ComputeResource
    from platform_assets.stores.embeddings import EmbeddingCache, EmbeddingKey
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.devices import Device
    from platform_assets.vision.engines import EngineChoice, RequestedEngine
    from platform_assets.vision.preprocessing import Preprocessing

EMBEDDINGS = (
    "One vector per image for every frozen backbone and preprocessing that the probes use, cached by image bytes, weights, "
    "preprocessing and engine: shared by all seeds and heads, and one changed image embeds one image."
)


class Embedded(BaseModel):
    """One row of the embeddings table: a backbone's vectors for all images, the engine that made them and its parity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    image_size_px: int
    preprocessing_id: str
    weights_sha256: str
    engine: str
    feature_dim: int
    parity_max_abs_diff: float
    parity_tolerance: float
    engine_images_s: float
    images: int
    embedded_now: int
    seconds: float

    @property
    def key(self) -> EmbeddingKey:
        from platform_assets.stores.embeddings import EmbeddingKey

        return EmbeddingKey(**{name: getattr(self, name) for name in EmbeddingKey.model_fields})


def embeddings(
    context: dg.AssetExecutionContext, inputs: Inputs, tables: Tables, cache: EmbeddingCache, compute: ComputeResource
) -> dg.MaterializeResult[Any]:
    """Embed what the cache lacks. What is done stays when the step is stopped."""
    import polars as pl

    device = compute.choose(context.log).device
    known = known_rows(tables, inputs)
    with show.stops_cleanly("The vectors made so far are kept."):
        rows = [
            embed_all(
                inputs, cache, name, preprocessing, known, device=device, engine=compute.engine, log=context.log.info
            )
            for name, preprocessing in probe_inputs(inputs)
        ]
    frame = pl.DataFrame([row.model_dump() for row in rows])
    tables.write([*inputs.spec.key, "embeddings"], frame)
    return dg.MaterializeResult(
        data_version=data_version(inputs.records_version, *(row.key.folder for row in rows)),
        metadata={
            "backbones": show.table(frame),
            "dagster/row_count": int(frame["images"].sum()),
            "embedded_now": int(frame["embedded_now"].sum()),
        },
    )


def probe_inputs(inputs: Inputs) -> list[tuple[str, Preprocessing]]:
    """Backbone and preprocessing of every linear probe, without repeats."""
    probes = [variant for variant in inputs.spec.variants.values() if variant.mode == "linear_probe"]
    found = {(probe.backbone, resolve_preprocessing(probe, inputs.protocol)): None for probe in probes}
    return list(found)


def known_rows(tables: Tables, inputs: Inputs) -> list[Embedded]:
    key = [*inputs.spec.key, "embeddings"]
    return [Embedded(**row) for row in tables.read(key).to_dicts()] if tables.exists(key) else []


def vectors_of(
    tables: Tables, cache: EmbeddingCache, inputs: Inputs, name: str, preprocessing: Preprocessing
) -> pl.DataFrame:
    """image_id and vector of every record, from the embeddings asset's row for this backbone and preprocessing."""
    wanted = (name, preprocessing.preprocessing_id)
    row = next(row for row in known_rows(tables, inputs) if (row.backbone, row.preprocessing_id) == wanted)
    return cache.lookup(row.key, list(inputs.records["image_id"]))


def embed_all(
    inputs: Inputs,
    cache: EmbeddingCache,
    name: str,
    preprocessing: Preprocessing,
    known: list[Embedded],
    *,
    device: Device,
    engine: RequestedEngine,
    log: Callable[[str], None],
) -> Embedded:
    """One backbone over all records. When an earlier row's vectors are all cached, no engine is built."""
    from platform_assets.vision.embedding import embed_batches
    from platform_assets.vision.engines import choose_engine
    from platform_assets.vision.weights import load_backbone, weights_sha256

    started = time.monotonic()
    backbone = load_backbone(name, pretrained=True)
    identity = (name, preprocessing.preprocessing_id, weights_sha256(backbone))
    what = f"{name} at {preprocessing.image_size_px} px"
    row = next((r for r in known if (r.backbone, r.preprocessing_id, r.weights_sha256) == identity), None)
    if row and engine in ("auto", row.engine) and not missing_images(inputs, cache, row):
        log(f"{what}: all {inputs.records.height:,} vectors are cached, none is computed")
        return row.model_copy(update={"images": inputs.records.height, "embedded_now": 0})
    choice = choose_engine(backbone, preprocessing, device, engine=engine)
    row = _row(identity, preprocessing, choice)
    images = missing_images(inputs, cache, row)
    log(f"{what}: {len(images):,} of {inputs.records.height:,} images to embed with {row.engine}, parity passed")
    progress = show.every_two_seconds(log, f"{what}: embedding")
    if images:
        cache.add_all(row.key, _counted(embed_batches(images, preprocessing, choice.engine), len(images), progress))
    seconds = time.monotonic() - started
    return row.model_copy(update={"images": inputs.records.height, "embedded_now": len(images), "seconds": seconds})


def missing_images(inputs: Inputs, cache: EmbeddingCache, row: Embedded) -> list[tuple[str, Callable[[], bytes]]]:
    """Id and loader of every image that the cache has no vector of."""
    cached = set(cache.lookup(row.key, list(inputs.records["image_id"]))["image_id"])
    rows = inputs.records.select("image_id", "path").rows()
    return [(image_id, (inputs.root / path).read_bytes) for image_id, path in rows if image_id not in cached]


def _counted(
    frames: Iterator[pl.DataFrame], total: int, progress: Callable[[int, int], None]
) -> Iterator[pl.DataFrame]:
    done = 0
    for frame in frames:
        done += frame.height
        progress(done, total)
        yield frame


def _row(identity: tuple[str, str, str], preprocessing: Preprocessing, choice: EngineChoice) -> Embedded:
    name, preprocessing_id, weights = identity
    parity = choice.parity[choice.engine.name]
    return Embedded(
        backbone=name,
        image_size_px=preprocessing.image_size_px,
        preprocessing_id=preprocessing_id,
        weights_sha256=weights,
        engine=choice.engine.name,
        feature_dim=get_backbone(name).feature_dim,
        parity_max_abs_diff=parity.max_abs_diff,
        parity_tolerance=parity.tolerance,
        engine_images_s=choice.rate_images_s,
        images=0,
        embedded_now=0,
        seconds=0.0,
    )
