"""The options of a training as YAML gives them, one model per concern; what they do stands in the modules they name."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Augmentation = Literal["none", "flip", "crop_flip", "dihedral"]


class DoesNotTrain(ValueError):
    """Options that do not fit the network, its images or the device: with others the same training may do."""


class Options(BaseModel):
    """A frozen record: unknown keys are refused, numbers are finite."""

    # defer_build: most are only ever part of another, whose schema holds theirs; 0.05 of a load's 1.3 (2026-11).
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    def _refuse_without(self, option: str, needs: str, *, when: bool) -> None:
        """An option that nothing would read is a misunderstanding, unless it is at its default."""
        if getattr(self, option) != type(self).model_fields[option].default and not when:
            raise ValueError(f"option {option!r} {getattr(self, option)!r} has no meaning without {needs}; remove it")


class OptimizerOptions(Options):
    """Optimizer, learning-rate schedule and what is frozen: optimization.py."""

    optimizer: Literal["adamw", "sgd", "lion"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, description="at batch_size, after the warm-up")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd, Nesterov's")
    weight_decay: float = Field(default=0.05, ge=0, description="of matrices; never of norms, biases and embeddings")
    backbone_learning_rate_factor: float = Field(
        default=0.1, gt=0, le=1, description="rate of the backbone / rate of the head"
    )
    layer_decay: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="rate of a layer / rate of the one above it (Bao et al. 2021, arXiv 2106.08254)",
    )
    schedule: Literal["cosine", "linear", "step", "one_cycle", "constant"] = "cosine"
    warmup_epochs: float = Field(default=1.0, ge=0)
    step_epochs: int = Field(default=10, ge=1, description="epochs between two drops of schedule step")
    step_factor: float = Field(default=0.1, gt=0, lt=1, description="of schedule step")
    freeze_backbone_epochs: int = Field(default=0, ge=0, description="first epochs that train the head alone")
    frozen_layers: int = Field(default=0, ge=0, description="layers from the stem up that are never trained")
    clip_norm: float | None = Field(default=None, gt=0, description="largest norm of all gradients together")
    accumulate: int = Field(
        default=1, ge=1, description="batches per optimizer step; each is batch_size / accumulate images"
    )

    @model_validator(mode="after")
    def _options_of_other_choices(self) -> Self:
        self._refuse_without("momentum", "optimizer: sgd", when=self.optimizer == "sgd")
        for option in ("step_epochs", "step_factor"):
            self._refuse_without(option, "schedule: step", when=self.schedule == "step")
        # 0 is what one_cycle does anyway.
        rises_by_itself = self.schedule == "one_cycle" and self.warmup_epochs > 0
        self._refuse_without(
            "warmup_epochs", "a schedule other than one_cycle, which has a rise of its own", when=not rises_by_itself
        )
        return self


class LossOptions(Options):
    """The loss, and which images are drawn: losses.py."""

    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    focal_gamma: float = Field(default=2.0, ge=0, description="of loss focal (Lin et al. 2017, arXiv 1708.02002)")
    class_weights: Literal["none", "effective_number"] = Field(
        default="none", description="weights by the effective number of images (Cui et al. 2019, arXiv 1901.05555)"
    )
    effective_number_beta: float = Field(default=0.9999, gt=0, lt=1)
    logit_adjustment: float = Field(
        default=0.0, ge=0, description="tau: log priors added while training (Menon et al. 2021, arXiv 2007.07314)"
    )
    sampler: Literal["uniform", "balanced"] = Field(
        default="uniform", description="balanced: every class equally often"
    )
    distill_from: str | None = Field(
        default=None,
        description="folder or URL of a finished checkpoint, the teacher (Hinton et al. 2015, arXiv 1503.02531)",
    )
    distill_weight: float = Field(default=0.5, gt=0, le=1, description="share of the teacher in the loss")
    distill_temperature: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _options_of_other_losses(self) -> Self:
        self._refuse_without("focal_gamma", "loss: focal", when=self.loss == "focal")
        self._refuse_without(
            "effective_number_beta", "class_weights: effective_number", when=self.class_weights == "effective_number"
        )
        if self.sampler == "balanced" and self.logit_adjustment > 0:
            raise ValueError(
                f"sampler 'balanced' and logit_adjustment {self.logit_adjustment} correct for the same priors twice; use one"
            )
        for option in ("distill_weight", "distill_temperature"):
            self._refuse_without(option, "distill_from", when=self.distill_from is not None)
        return self


class AugmentOptions(Options):
    """What is done to training images: augmentation.py."""

    augmentation: Augmentation = "crop_flip"
    crop_area_min: float = Field(default=0.5, gt=0, le=1, description="smallest share of the area that crop_flip keeps")
    crop_scale: float = Field(
        default=1.0,
        ge=1,
        le=3,
        description="crops are cut from pictures this much larger, so that small boxes stay sharp",
    )
    crop_size_px: int | None = Field(
        default=None,
        ge=32,
        le=1024,
        description="side that crops are trained at, under the image_size_px of evaluation, where objects look smaller "
        "than in crops (Touvron et al. 2019, arXiv 1906.06423)",
    )
    color_jitter: float = Field(
        default=0.0, ge=0, lt=1, description="brightness, contrast and saturation change by up to this share"
    )
    randaugment: int = Field(
        default=0, ge=0, le=30, description="magnitude (Cubuk et al. 2020, arXiv 1909.13719); 0 is off"
    )
    randaugment_ops: int = Field(default=2, ge=1, le=10)
    random_erasing: float = Field(
        default=0.0, ge=0, le=1, description="probability (Zhong et al. 2020, arXiv 1708.04896)"
    )
    mixup: float = Field(default=0.0, ge=0, description="alpha (Zhang et al. 2018, arXiv 1710.09412); 0 is off")
    cutmix: float = Field(default=0.0, ge=0, description="alpha (Yun et al. 2019, arXiv 1905.04899); 0 is off")

    @model_validator(mode="after")
    def _options_of_other_augmentations(self) -> Self:
        for option in ("crop_area_min", "crop_scale", "crop_size_px"):
            self._refuse_without(option, "augmentation: crop_flip", when=self.augmentation == "crop_flip")
        self._refuse_without("randaugment_ops", "randaugment", when=self.randaugment > 0)
        return self

    def source_side(self, image_size_px: int) -> int:
        """The side that training pictures are kept at."""
        return round((self.crop_size_px or image_size_px) * self.crop_scale)

    @property
    def mixes(self) -> bool:
        """Whether labels become shares of two classes."""
        return self.mixup > 0 or self.cutmix > 0


class ExecutionOptions(Options):
    """How the network computes: precision.py, execution.py, strategies.py."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = Field(default=False, description="torch.compile: pays in trainings over ten minutes")
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations: less memory, a third more time"
    )
    deterministic: bool = Field(
        default=False, description="torch's deterministic algorithms; on a CPU training always is"
    )
    devices: int = Field(default=1, ge=1, description="processes, one a device; batch_size is that of all together")
    strategy: Literal["all_reduce", "ddp"] = Field(
        default="all_reduce",
        exclude_if=lambda strategy: strategy == "all_reduce",  # hashes of configs are those of before it was there
        description="how devices sum gradients: all_reduce once after the backward pass, ddp (torch's "
        "DistributedDataParallel) in buckets during it",
    )

    @model_validator(mode="after")
    def _strategy_of_one_device(self) -> Self:
        self._refuse_without("strategy", "devices over 1", when=self.devices > 1)
        return self


class TrainRecipe(OptimizerOptions, LossOptions, AugmentOptions, ExecutionOptions):
    """One training. `max_steps` ends a smoke run after that many optimizer steps in all."""

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=32, ge=2)
    patience_epochs: int = Field(default=8, ge=1)
    drop_path: float = Field(
        default=0.0, ge=0, lt=1, description="stochastic depth (Huang et al. 2016, arXiv 1603.09382)"
    )
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="evaluate and keep a moving average of the weights, this decay per step"
    )
    max_steps: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _parts_fit_the_whole(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} is longer than the {self.epochs} epochs; lower it")
        if self.freeze_backbone_epochs >= self.epochs > 0 and self.freeze_backbone_epochs:
            raise ValueError(
                f"freeze_backbone_epochs {self.freeze_backbone_epochs} leaves none of the {self.epochs} epochs; lower it"
            )
        parts = self.accumulate * self.devices
        if self.batch_size % parts or self.batch_size // parts < 2:
            raise ValueError(
                f"batch_size {self.batch_size} does not part into accumulate {self.accumulate} x devices {self.devices} "
                "batches of two images or more; choose a multiple"
            )
        return self

    def describe(self) -> dict[str, Any]:
        """The options that differ from their defaults, for logs and tables."""
        return self.model_dump(mode="json", exclude_defaults=True)
