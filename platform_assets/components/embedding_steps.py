"""The body of the embeddings asset: every image once through each frozen backbone of an experiment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import BaseModel, ConfigDict

from platform_assets.components import metadata as show
from platform_assets.components.specs import data_version
from platform_assets.vision.recipes.backbones import Features, get_backbone
from platform_assets.vision.recipes.modes import FROZEN_MODES
from platform_assets.vision.recipes.preprocessing import Preprocessing
from platform_assets.vision.recipes.resolving import resolve_preprocessing
from platform_assets.vision.recipes.variants import Variant

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.inputs import Inputs
    from platform_assets.resources import ComputeResource
    from platform_assets.stores.embeddings import EmbeddingCache, EmbeddingKey
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.machine.devices import Device, RequestedEngine
    from platform_assets.vision.networks.engines import EngineChoice
    from platform_assets.vision.recipes.resolving import ResolvedTrial

EMBEDDINGS = (
    "One vector per image for every frozen backbone and preprocessing that the probes use, cached by image bytes (and box, "
    "where models see that alone), weights, preprocessing and engine: shared by all seeds and heads, and one changed image "
    "embeds one image."
)

MAPPED_IMAGES = 2000


class StaleEmbeddings(ValueError):
    """The embeddings asset was made for other variants than the YAML now has."""


class Embedded(BaseModel):
    """One row of the embeddings table: a backbone's vectors for all images, the engine that made them and its parity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    weights: str | None = None
    features: Features
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

        found = {name: getattr(self, name) for name in EmbeddingKey.model_fields}
        return EmbeddingKey(**{**found, "backbone": f"{get_backbone(self.backbone).slug}.{self.features}"})


def embeddings(
    context: dg.AssetExecutionContext, inputs: Inputs, tables: Tables, cache: EmbeddingCache, compute: ComputeResource
) -> dg.MaterializeResult[Any]:
    """Embed what the cache lacks. What is done stays when the step is stopped."""
    import polars as pl

    device = compute.choose(context.log).device
    known = known_rows(tables, inputs)
    with show.stops_cleanly("The vectors made so far are kept."):
        rows = [
            embed_all(inputs, cache, frozen, known, device=device, engine=compute.engine, log=context.log.info)
            for frozen in frozen_backbones(inputs)
        ]
    frame = pl.DataFrame([row.model_dump() for row in rows])
    maps = {
        f"map_of_row_{number}": _map(inputs, cache, row, frozen.preprocessing)
        for number, (row, frozen) in enumerate(zip(rows, frozen_backbones(inputs), strict=True), 1)
    }
    tables.write([*inputs.spec.key, "embeddings"], frame)
    return dg.MaterializeResult(
        data_version=data_version(inputs.records_version, *(row.key.folder for row in rows)),
        metadata={
            "backbones": show.table(frame),
            "dagster/row_count": int(frame["images"].sum()),
            "embedded_now": int(frame["embedded_now"].sum()),
            **maps,
        },
    )


def _map(
    inputs: Inputs, cache: EmbeddingCache, row: Embedded, preprocessing: Preprocessing
) -> dg.MarkdownMetadataValue:
    """Where the classes lie, from a sample that is stable by hash."""
    from platform_assets.vision.views.embedding_maps import embedding_map

    sample = inputs.records.sort("image_id").head(MAPPED_IMAGES)
    mapped = sample.join(held_vectors(inputs, cache, row, preprocessing), on="image_id", maintain_order="left")
    return show.picture(embedding_map(mapped["vector"].to_numpy(), list(mapped["label"])))


class Frozen(BaseModel):
    """A frozen backbone as a probe uses it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    weights: str | None
    features: Features
    preprocessing: Preprocessing

    def made(self, row: Embedded) -> bool:
        """Whether a row of the embeddings table is of this backbone, these weights, features and preprocessing."""
        mine = (self.backbone, self.weights, self.features, self.preprocessing.preprocessing_id)
        return (row.backbone, row.weights, row.features, row.preprocessing_id) == mine

    @property
    def variant(self) -> Variant:
        """What its weights are found by."""
        return Variant(backbone=self.backbone, weights=self.weights, features=self.features, mode="linear_probe")


def frozen_backbones(inputs: Inputs) -> list[Frozen]:
    """What the linear probes of an experiment stand on, without repeats."""
    probes = [variant for variant in inputs.spec.variants.values() if variant.mode in FROZEN_MODES]
    found = [
        Frozen(
            backbone=v.backbone,
            weights=v.weights,
            features=v.features,
            preprocessing=resolve_preprocessing(v, inputs.protocol),
        )
        for v in probes
    ]
    return list(dict.fromkeys(found))


def known_rows(tables: Tables, inputs: Inputs) -> list[Embedded]:
    key = [*inputs.spec.key, "embeddings"]
    return [Embedded(**row) for row in tables.read(key).to_dicts()] if tables.exists(key) else []


def vectors_of(tables: Tables, cache: EmbeddingCache, inputs: Inputs, trial: ResolvedTrial) -> pl.DataFrame:
    """image_id and vector of every record, by the row that the embeddings asset wrote for the trial's backbone.

    Raises MissingTable when embeddings was never materialized, StaleEmbeddings when it was for other variants.
    """
    frozen = Frozen(
        backbone=trial.backbone,
        weights=inputs.spec.variants[trial.variant].weights,
        features=trial.features,
        preprocessing=trial.preprocessing,
    )
    rows = [Embedded(**row) for row in tables.read([*inputs.spec.key, "embeddings"]).to_dicts()]
    row = next((row for row in rows if frozen.made(row)), None)
    if row is None:
        asset = "/".join([*inputs.spec.key, "embeddings"])
        raise StaleEmbeddings(
            f"{asset}: no vectors of {trial.backbone} ({trial.features}) at {trial.preprocessing.image_size_px} px; "
            "the YAML changed since, materialize it again"
        )
    return held_vectors(inputs, cache, row, frozen.preprocessing)


def held_vectors(inputs: Inputs, cache: EmbeddingCache, row: Embedded, preprocessing: Preprocessing) -> pl.DataFrame:
    """image_id and vector of the records that the cache has one of, by the box that they have now."""
    import polars as pl

    ids = crop_ids(inputs, preprocessing)
    names = pl.DataFrame({"image_id": list(ids), "crop_id": list(ids.values())})
    held = cache.lookup(row.key, list(ids.values())).rename({"image_id": "crop_id"})
    return names.join(held, on="crop_id", how="inner", maintain_order="left").drop("crop_id")


def embed_all(
    inputs: Inputs,
    cache: EmbeddingCache,
    frozen: Frozen,
    known: list[Embedded],
    *,
    device: Device,
    engine: RequestedEngine,
    log: Callable[[str], None],
) -> Embedded:
    """One backbone over all records. When an earlier row's vectors are all cached, no engine is built."""
    from platform_assets.vision.images.cropping import boxes_by_image
    from platform_assets.vision.networks.embedding import embed_batches
    from platform_assets.vision.networks.engines import choose_engine
    from platform_assets.vision.networks.weights import load_backbone, weights_sha256

    started = time.monotonic()
    start = inputs.start(frozen.variant)
    backbone = load_backbone(
        frozen.backbone,
        pretrained=True,
        features=frozen.features,
        image_size_px=frozen.preprocessing.image_size_px,
        weights=start.file if start else None,
    )
    weights = weights_sha256(backbone)
    what = f"{frozen.backbone} ({frozen.features}) at {frozen.preprocessing.image_size_px} px"
    ids = crop_ids(inputs, frozen.preprocessing)
    row = next((row for row in known if frozen.made(row) and row.weights_sha256 == weights), None)
    if row and engine in ("auto", row.engine) and not missing_images(inputs, cache, row, ids):
        log(f"{what}: all {inputs.records.height:,} vectors are cached, none is computed")
        return row.model_copy(update={"images": inputs.records.height, "embedded_now": 0})
    choice = choose_engine(backbone, frozen.preprocessing, device, engine=engine)
    row = _row(frozen, weights, choice)
    images = missing_images(inputs, cache, row, ids)
    log(f"{what}: {len(images):,} of {inputs.records.height:,} images to embed with {row.engine}, parity passed")
    progress = show.every_two_seconds(log, f"{what}: embedding")
    if images:
        boxes = boxes_by_image(inputs.records, frozen.preprocessing)
        frames = embed_batches(images, frozen.preprocessing, choice.engine, boxes=boxes)
        cache.add_all(row.key, _named(_counted(frames, len(images), progress), ids))
    seconds = time.monotonic() - started
    return row.model_copy(update={"images": inputs.records.height, "embedded_now": len(images), "seconds": seconds})


def crop_ids(inputs: Inputs, preprocessing: Preprocessing) -> dict[str, str]:
    """Image id to the id that the cache knows its vector by: the same for whole pictures, another for every box."""
    from platform_assets.vision.images.cropping import boxes_by_image, crop_id

    boxes = boxes_by_image(inputs.records, preprocessing) or {}
    return {image_id: crop_id(image_id, boxes.get(image_id)) for image_id in inputs.records["image_id"]}


def missing_images(
    inputs: Inputs, cache: EmbeddingCache, row: Embedded, ids: dict[str, str]
) -> list[tuple[str, Callable[[], bytes]]]:
    """Id and loader of every image that the cache has no vector of; `ids` are those of `crop_ids`."""
    cached = set(cache.lookup(row.key, list(ids.values()))["image_id"])
    rows = inputs.records.select("image_id", "path").rows()
    return [(image_id, (inputs.root / path).read_bytes) for image_id, path in rows if ids[image_id] not in cached]


def _named(frames: Iterator[pl.DataFrame], ids: dict[str, str]) -> Iterator[pl.DataFrame]:
    """The frames as the cache keeps them, by crop id."""
    import polars as pl

    for frame in frames:
        yield frame.with_columns(pl.col("image_id").replace_strict(ids, return_dtype=pl.String))


def _counted(
    frames: Iterator[pl.DataFrame], total: int, progress: Callable[[int, int], None]
) -> Iterator[pl.DataFrame]:
    done = 0
    for frame in frames:
        done += frame.height
        progress(done, total)
        yield frame


def _row(frozen: Frozen, weights: str, choice: EngineChoice) -> Embedded:
    parity = choice.parity[choice.engine.name]
    return Embedded(
        backbone=frozen.backbone,
        weights=frozen.weights,
        features=frozen.features,
        image_size_px=frozen.preprocessing.image_size_px,
        preprocessing_id=frozen.preprocessing.preprocessing_id,
        weights_sha256=weights,
        engine=choice.engine.name,
        feature_dim=get_backbone(frozen.backbone).dim(frozen.features),
        parity_max_abs_diff=parity.max_abs_diff,
        parity_tolerance=parity.tolerance,
        engine_images_s=choice.rate_images_s,
        images=0,
        embedded_now=0,
        seconds=0.0,
    )
