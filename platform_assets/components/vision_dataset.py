"""The VisionDataset component: one YAML file describes a dataset and becomes its assets."""

from collections.abc import Iterator
from typing import Any, Literal, Self

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, model_validator

from platform_assets.components import description_steps, quality_steps, records_steps, source_steps
from platform_assets.components.automation import new_dataset_version
from platform_assets.components.specs import DEFAULT_OWNERS, FOLLOWS_ITS_INPUTS, SINGLE_RUN, SLUG, asset_spec
from platform_assets.resources import FilesResource, TablesResource
from platform_assets.vision.cards.dataset_facts import ResponsibleAI, Texts
from platform_assets.vision.cards.licences import Licence, StatedLicence
from platform_assets.vision.datasets.source_kinds import SourceSpec
from platform_assets.vision.datasets.splits import SplitRule


class VisionDatasetSpec(BaseModel):
    """What a user says of a dataset. `name` is its key prefix and group in the graph."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=SLUG)
    description: str = Field(description="one sentence: what the pictures show and what the label says")
    licence: StatedLicence = Field(
        Licence(), description="SPDX id of the data's licence; for any other its id, source and approved_by"
    )
    citation: str | None = Field(None, description="where the data comes from")
    responsible_ai: ResponsibleAI = Field(
        ResponsibleAI(), description="what the data card says in the terms of Croissant RAI"
    )
    source: SourceSpec
    split: SplitRule
    leaks: Literal["fail", "drop"] = Field("fail", description="what happens to bytes that official parts share")
    near_duplicates: Literal["warn", "fail", "ignore"] = Field(
        "warn", description="what two images that look the same in two parts mean; ignore does not look for them"
    )
    overrides: Texts = Field(
        (),
        description="decisions of reviewers: CSV files or Label Studio's JSON exports, relative to the project; on an image "
        "that several decide on the last one counts",
    )
    min_images_per_class: int = Field(5, gt=0)
    max_imbalance: float = Field(100, gt=1, description="images of the largest class over those of the smallest")
    shift_alpha: float = Field(
        0.01, gt=0, lt=1, description="chance of a false alarm of the comparisons of distributions"
    )
    max_rejected_fraction: float = Field(0.01, ge=0, le=1)
    max_pixels: int = Field(
        50_000_000,
        gt=0,
        le=50_000_000,
        description="a larger image is rejected before it is decoded; the highest is what training decodes",
    )
    decode_for: tuple[str, ...] = Field(
        (),
        description="experiments whose images the scan also decodes, while it has them at hand, into the cache of pixels "
        "(KESTREL_PIXEL_CACHE_GB), so that their first training need not",
    )
    tiny_batch_size: int = Field(16, gt=0)
    owners: tuple[str, ...] = DEFAULT_OWNERS

    @model_validator(mode="after")
    def _grouped_by_what_is_found(self) -> Self:
        if self.split.kind == "grouped" and self.near_duplicates == "ignore":
            raise ValueError(
                "split kind grouped keeps near duplicates together, which `near_duplicates: ignore` never finds"
            )
        return self


class VisionDataset(dg.Component):
    """Real images as a versioned, checked, split dataset: source, records, label map, tiny subset, profile and card."""

    def __init__(self, spec: VisionDatasetSpec) -> None:
        self.spec = spec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return VisionDatasetSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "VisionDataset":
        assert isinstance(attributes, VisionDatasetSpec)
        return cls(attributes)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        spec = self.spec
        return dg.Definitions(
            assets=[
                _source(spec),
                _records(spec),
                _changes(spec),
                _tiny_subset(spec),
                _profile(spec),
                _data_card(spec),
            ],
            asset_checks=[description_steps.tiny_check(spec)],
            sensors=[new_dataset_version(spec)],
        )


def _spec(dataset: VisionDatasetSpec, name: str, description: str, deps: list[str], **more: Any) -> dg.AssetSpec:
    return asset_spec(
        [dataset.name, name],
        description,
        deps=[[dataset.name, dep] for dep in deps],
        owners=dataset.owners,
        condition=FOLLOWS_ITS_INPUTS if deps else None,
        **more,
    )


def _source(dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    text = f"{dataset.description} The raw files as they are outside; the data version is the hash of their content."
    spec = _spec(dataset, "source", text, [], kinds={dataset.source.kind}, code=source_steps.source_code(dataset))

    @dg.multi_asset(name=f"{dataset.name}__source", specs=[spec], backfill_policy=SINGLE_RUN)
    def source(
        context: dg.AssetExecutionContext, tables: TablesResource, files: FilesResource
    ) -> dg.MaterializeResult[Any]:
        return source_steps.source(context, dataset, tables.open(), files)

    return source


def _records(dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    code = records_steps.records_code(dataset)
    specs = [
        _spec(dataset, "records", records_steps.RECORDS, ["source"], kinds={"polars", "parquet"}, code=code),
        _spec(dataset, "rejected", records_steps.REJECTED, ["source"], kinds={"polars", "parquet"}, code=code),
        _spec(dataset, "label_map", records_steps.LABEL_MAP, ["source"], kinds={"parquet"}, code=code),
        _spec(dataset, "near_duplicates", quality_steps.NEAR_DUPLICATES, ["source"], kinds={"parquet"}, code=code),
    ]

    @dg.multi_asset(
        name=f"{dataset.name}__records",
        specs=specs,
        check_specs=[*records_steps.record_checks(dataset.name), quality_steps.near_duplicate_check(dataset)],
        backfill_policy=SINGLE_RUN,
    )
    def records(
        context: dg.AssetExecutionContext, tables: TablesResource, files: FilesResource
    ) -> Iterator[dg.MaterializeResult[Any]]:
        yield from records_steps.records(context, dataset, tables.open(), files)

    return records


def _tiny_subset(dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    spec = _spec(
        dataset, "tiny_subset", description_steps.TINY, ["records"], kinds={"folder"}, code=["vision.datasets.tiny"]
    )

    @dg.multi_asset(name=f"{dataset.name}__tiny_subset", specs=[spec], backfill_policy=SINGLE_RUN)
    def tiny_subset(tables: TablesResource, files: FilesResource) -> dg.MaterializeResult[Any]:
        return description_steps.tiny_subset(dataset, tables.open(), files)

    return tiny_subset


def _changes(dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    code = ["vision.datasets.dataset_diff", "vision.quality.shift"]
    spec = _spec(dataset, "changes", quality_steps.CHANGES, ["records"], kinds={"polars", "parquet"}, code=code)

    @dg.multi_asset(
        name=f"{dataset.name}__changes",
        specs=[spec],
        check_specs=[quality_steps.changes_check(dataset)],
        backfill_policy=SINGLE_RUN,
    )
    def changes(tables: TablesResource) -> Iterator[dg.MaterializeResult[Any]]:
        yield quality_steps.changes(dataset, tables.open())

    return changes


def _profile(dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    deps, code = ["records", "rejected", "label_map", "near_duplicates"], ["vision.quality.image_faults"]
    page = ["vision.datasets.profile", "vision.cards.profile_page"]
    specs = [
        _spec(dataset, "image_issues", quality_steps.IMAGE_ISSUES, ["records"], kinds={"parquet"}, code=code),
        _spec(dataset, "profile", description_steps.PROFILE, deps, kinds={"polars", "html"}, code=page),
    ]

    @dg.multi_asset(name=f"{dataset.name}__profile", specs=specs, backfill_policy=SINGLE_RUN)
    def profile(tables: TablesResource, files: FilesResource) -> Iterator[dg.MaterializeResult[Any]]:
        yield from description_steps.profile(dataset, tables.open(), files)

    return profile


def _data_card(dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    deps = ["records", "rejected", "label_map", "near_duplicates", "image_issues", "profile"]
    spec = _spec(
        dataset, "data_card", description_steps.DATA_CARD, deps, kinds={"markdown"}, code=["vision.cards.data_card"]
    )

    @dg.multi_asset(name=f"{dataset.name}__data_card", specs=[spec], backfill_policy=SINGLE_RUN)
    def data_card(tables: TablesResource, files: FilesResource) -> dg.MaterializeResult[Any]:
        return description_steps.data_card(dataset, tables.open(), files)

    return data_card
