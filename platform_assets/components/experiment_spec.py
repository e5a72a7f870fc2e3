"""What an experiment's YAML may say: the variants, and all that they share."""

import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from platform_assets.components.specs import DEFAULT_OWNERS, SLUG
from platform_assets.vision.evaluation.gates import Gate
from platform_assets.vision.recipes.combination_options import require_combinations_fit
from platform_assets.vision.recipes.evaluation_options import Costs, Slices
from platform_assets.vision.recipes.modes import COMBINATION_MODES, FROZEN_MODES
from platform_assets.vision.recipes.preprocessing import Resize
from platform_assets.vision.recipes.resolving import CropToBox, MetricName, Protocol, trial_key
from platform_assets.vision.recipes.tuning_options import Tune, TuneName, require_tunes_fit
from platform_assets.vision.recipes.uncertainty_options import UncertaintyOptions
from platform_assets.vision.recipes.variants import (
    BackboneName,
    ImageSizePx,
    Seeds,
    Variant,
    VariantName,
    require_patches,
)


class Waiver(BaseModel):
    """Why a rule is not kept, and since when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field(min_length=10)
    date: datetime.date


class ExperimentSpec(BaseModel):
    """What all variants share, and the variants. Its assets stand under `[dataset, name]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=SLUG)
    dataset: str = Field(description="name of a VisionDataset of this project")
    description: str
    target: str = Field(
        "label", description="the column of records that is predicted: label, coarse_label or an extra one"
    )
    metric: MetricName = "macro_f1"
    image_size_px: ImageSizePx | None = Field(None, description="the backbone's native size unless set")
    resize: Resize = "squash"
    crop_to_box: CropToBox | None = Field(None, description="what all models see is the annotated box of each image")
    seeds: Seeds = (0,)
    resample: bool = Field(
        False, description="each seed draws its own split by the dataset's rule, instead of sharing one"
    )
    subset: Literal["all", "tiny"] = Field("all", description="tiny: two batches a part, for smoke runs")
    baseline: VariantName = Field(description="the variant that the others are compared with")
    variants: Annotated[dict[VariantName, Variant], Field(min_length=1)]
    tune: dict[TuneName, Tune] = Field(default={}, description="searches for better options of a variant, on val alone")
    folds: int | None = Field(
        default=None,
        ge=2,
        le=20,
        description="cross-validation: seed s trains without fold s and selects on it; test stays; every fold has its "
        "seed unless `seeds` are named",
    )
    without_probe: dict[BackboneName, Waiver] = Field(
        default={}, description="backbones that are finetuned without a linear probe beside it, and why"
    )
    uncertainty: UncertaintyOptions = Field(
        default=UncertaintyOptions(), description="what is asked of the certainty of all models"
    )
    costs: Costs | None = Field(
        default=None, description="truth to prediction to the cost of that mistake; 1 where none is named"
    )
    slices: Slices | None = Field(
        default=None,
        description="columns of the records by which accuracy is broken down; unless named, measures of the images and "
        "texts with few values",
    )
    spectral_alpha: bool = Field(False, description="advice on how trained the weights look; needs the extra spectral")
    gate: Gate = Gate()
    licence: str | None = Field(None, description="licence under which the model may be used")
    retrain: str | None = Field(None, description="cron of the retrain schedule, which ships stopped")
    intended_use: str | None = None
    limits: str | None = None
    owners: tuple[str, ...] = DEFAULT_OWNERS

    @model_validator(mode="after")
    def _a_seed_for_each_fold(self) -> Self:
        if self.folds is not None and "seeds" not in self.model_fields_set:
            object.__setattr__(self, "seeds", tuple(range(self.folds)))
        return self

    @model_validator(mode="after")
    def _baseline_is_a_variant(self) -> Self:
        if self.baseline not in self.variants:
            raise ValueError(f"baseline {self.baseline!r} is not a variant; name one of {', '.join(self.variants)}")
        return self

    @model_validator(mode="after")
    def _parts_fit_the_size(self) -> Self:
        """A variant knows its own size alone, and most take the experiment's."""
        for name, variant in self.variants.items():
            try:
                require_patches(variant, variant.image_size_px or self.image_size_px)
            except ValueError as error:
                raise ValueError(f"variants.{name}.{error}") from None
        return self

    @model_validator(mode="after")
    def _combinations_fit(self) -> Self:
        require_combinations_fit(self.variants, self.trials, self.protocol("0" * 64))
        return self

    def protocol(self, label_map_checksum: str) -> Protocol:
        """What all variants share, so that they can be compared."""
        return Protocol(
            dataset=self.dataset,
            experiment=self.name,
            metric=self.metric,
            label_map_checksum=label_map_checksum,
            image_size_px=self.image_size_px,
            resize=self.resize,
            crop_to_box=self.crop_to_box,
            resample=self.resample,
            folds=self.folds,
        )

    @model_validator(mode="after")
    def _searches_fit(self) -> Self:
        require_tunes_fit(self.tune, self.variants, resample=self.resample)
        for name, variant in self.variants.items():
            if variant.tuned_by is not None and variant.tuned_by not in self.tune:
                known = ", ".join(self.tune) or "none"
                raise ValueError(f"variants.{name}.tuned_by: {variant.tuned_by!r} is no search of `tune` ({known})")
        for name, tune in self.tune.items():
            if self.variants[tune.variant].tuned_by is not None:
                raise ValueError(f"tune.{name}.variant: {tune.variant!r} is itself tuned; start from an untuned one")
        if self.folds is not None and self.resample:
            raise ValueError("folds and resample both say how a seed draws its split; use one")
        return self

    @model_validator(mode="after")
    def _finetunes_stand_beside_probes(self) -> Self:
        """A finetune that a linear probe of the same backbone equals is hours spent on nothing."""
        probed = {variant.backbone for variant in self.variants.values() if variant.mode == "linear_probe"}
        tuned = {variant.backbone for variant in self.variants.values() if variant.mode == "finetune"}
        searches = (tune.space for tune in self.tune.values() if self.variants[tune.variant].mode == "finetune")
        tuned |= {str(name) for space in searches if "backbone" in space for name in space["backbone"].tried_values}
        for backbone in sorted(tuned - probed - self.without_probe.keys()):
            # A network of the user's own has no linear probe to add.
            cure = "say" if ":" in backbone else "add one with mode linear_probe, or say"
            raise ValueError(
                f"backbone {backbone!r} is finetuned and no variant probes it; {cure} under "
                f"without_probe.{backbone} for which reason and since which date"
            )
        if needless := sorted(self.without_probe.keys() - (tuned - probed)):
            raise ValueError(f"without_probe.{needless[0]}: nothing is waived by it; remove it")
        return self

    @property
    def trials(self) -> dict[str, tuple[str, int]]:
        """Partition key to variant name and seed, in the order of the YAML file."""
        singles = {name: v.seeds or self.seeds for name, v in self.variants.items() if v.mode not in COMBINATION_MODES}
        # A combination takes all seeds of its members, and comes after them.
        combinations = {name: self.seeds[:1] for name in self.variants if name not in singles}
        named = (singles | combinations).items()
        return {trial_key(name, seed): (name, seed) for name, seeds in named for seed in seeds}

    @property
    def has_probes(self) -> bool:
        return any(variant.mode in FROZEN_MODES for variant in self.variants.values())

    @property
    def key(self) -> list[str]:
        return [self.dataset, self.name]

    @property
    def group(self) -> str:
        return "_".join(self.key)
