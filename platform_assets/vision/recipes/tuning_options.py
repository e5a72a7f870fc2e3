"""A search over the options of a variant, as YAML gives it, and the variant that values for its options make."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from platform_assets.vision.recipes.train_options import Options, TrainRecipe
from platform_assets.vision.recipes.variants import Seed, Variant, VariantName

if TYPE_CHECKING:
    import polars as pl
    from pydantic.fields import FieldInfo

Value = bool | int | float | str | None
Parameters = Mapping[str, Value]
"""Option path, such as `train.learning_rate`, to its value."""

# It becomes the last part of an asset key, `tuning_<name>`.
TuneName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$", max_length=60)]

NETWORK_MODES = ("scratch", "finetune")
_EPOCHS = "train.epochs"
_NEVER_TUNED = ("mode", "seeds", "tuned_by")


class Range(Options):
    """Numbers from `low` to `high`, both included; evenly in their logarithm with `log`, in steps with `step`."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _can_be_drawn_from(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}; swap them or set the option itself")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} has no logarithm; raise it above 0 or leave out log")
        if self.step is None:
            return self
        if self.log:
            raise ValueError(f"step {self.step} and log exclude each other; remove one")
        steps = (self.high - self.low) / self.step
        if abs(steps - round(steps)) > 1e-9 * max(1.0, steps):
            raise ValueError(f"from low {self.low}, high {self.high} is not reached in steps of {self.step}; move it")
        return self

    @property
    def tried_values(self) -> tuple[Value, ...]:
        """The values that must be valid before anything runs: here the two ends."""
        return self.low, self.high


class Choices(Options):
    """Any of these values."""

    choices: tuple[Value, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.choices)) != len(self.choices):
            raise ValueError(f"choices {list(self.choices)} name one value twice; name each once")
        return self

    @property
    def tried_values(self) -> tuple[Value, ...]:
        return self.choices


def _kind_of_axis(value: Any) -> str:
    return "choices" if isinstance(value, Choices) or (isinstance(value, dict) and "choices" in value) else "range"


Axis = Annotated[Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_kind_of_axis)]


class Tune(Options):
    """A search for better options of a variant, judged on val alone. The first of `trials` and `minutes` ends it.

    Interrupted trials count in minutes only, and a trial that has begun goes on to its end when the minutes are over.
    `seed` is of the sampler and of every trial.
    """

    variant: VariantName = Field(description="the variant that the search starts from")
    space: dict[str, Axis] = Field(min_length=1, description="option path, such as train.learning_rate, to its values")
    trials: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0, description="of all trials together, also over several runs")
    sampler: Literal["tpe", "random"] = Field(
        default="tpe", description="tpe: Parzen estimators (Bergstra et al. 2011), after ten random trials"
    )
    pruner: Literal["median", "hyperband", "none"] = Field(
        default="median",
        description="ends a network's trial early: below the median of its epoch, or by Hyperband (Li et al. 2018)",
    )
    seed: Seed = 0

    @field_validator("space")
    @classmethod
    def _of_known_options(cls, space: dict[str, Axis]) -> dict[str, Axis]:
        return {path: _typed(path, axis) for path, axis in space.items()}

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.trials is None and self.minutes is None:
            raise ValueError("a search without trials and minutes has no end; set one of them or both")
        return self

    def require_fits(self, variant: Variant) -> None:
        """Try both ends of every range and every choice on `variant`. Raises ValueError, naming path and value.

        One option is changed at a time: a combination that the recipe refuses is found, and passed over, in the search.
        """
        frozen = variant.mode not in NETWORK_MODES
        if frozen and "pruner" in self.model_fields_set and self.pruner != "none":
            raise ValueError(
                f"pruner {self.pruner!r} has no meaning in mode {variant.mode!r}, without epochs; remove it"
            )
        for path, axis in self.space.items():
            if frozen and "." not in path:
                raise ValueError(
                    f"space {path}: mode {variant.mode!r} would need vectors of every value; make each a variant instead"
                )
            for value in axis.tried_values:
                try:
                    with_best(variant, {path: value})
                except ValidationError as error:
                    raise ValueError(
                        f"space {path}: {value!r} is refused by variant {self.variant!r}: {first_message(error)}"
                    ) from None

    def most_epochs(self, variant: Variant) -> int:
        """The longest training that the search may ask for."""
        if _EPOCHS in self.space:
            return max(int(value) for value in self.space[_EPOCHS].tried_values if value is not None)
        return (variant.train or TrainRecipe()).epochs

    def fingerprint(self, variant: Variant) -> str:
        """SHA-256 of what decides which trials follow one another; a larger budget goes on with the same search."""
        fields = {
            "tune": self.model_dump(mode="json", exclude={"trials", "minutes"}),
            "variant": variant.model_dump(mode="json"),
        }
        return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def require_tunes_fit(tunes: Mapping[str, Tune], variants: Mapping[str, Variant], *, resample: bool) -> None:
    """Raises ValueError for a search that names no variant, or a space that its variant refuses."""
    if tunes and resample:
        raise ValueError(
            "tune and resample exclude each other: the val images of one seed are test images of another, so that the best "
            "options would have seen the test; remove resample"
        )
    for name, tune in tunes.items():
        if tune.variant not in variants:
            raise ValueError(f"tune {name}: {tune.variant!r} is not a variant; name one of {', '.join(variants)}")
        try:
            tune.require_fits(variants[tune.variant])
        except ValueError as error:
            raise ValueError(f"tune {name}: {error}") from None


def with_best(variant: Variant, parameters: Parameters) -> Variant:
    """`variant` with the options of `parameters` in place of its own. Raises pydantic's ValidationError."""
    fields = variant.model_dump(exclude_unset=True)
    for path, value in parameters.items():
        *parents, name = path.split(".")
        inner = fields
        for parent in parents:
            inner[parent] = dict(inner.get(parent) or {})
            inner = inner[parent]
        inner[name] = value
    return Variant.model_validate(fields)


def best_table(best: Parameters) -> pl.DataFrame:
    """One row a parameter: its path and its value as JSON, which keeps its type."""
    import polars as pl

    rows = {"parameter": list(best), "value": [json.dumps(value) for value in best.values()]}
    return pl.DataFrame(rows, schema={"parameter": pl.String, "value": pl.String})


def best_parameters(table: pl.DataFrame) -> dict[str, Value]:
    """What `best_table` wrote."""
    return {path: json.loads(text) for path, text in table.select("parameter", "value").iter_rows()}


def first_message(error: ValidationError) -> str:
    return str(error.errors()[0]["msg"]).removeprefix("Value error, ")


def _typed(path: str, axis: Range | Choices) -> Range | Choices:
    """The axis with its values as the option has them: numbers whole where it is whole, `1e-3` a number."""
    option = _option(path)
    if isinstance(axis, Choices):
        return Choices(choices=tuple(_typed_value(path, option, value) for value in axis.choices))
    kinds = [kind for kind in _types(option.annotation) if kind in (int, float)]
    if not kinds:
        raise ValueError(f"space {path}: a range needs a number, and this option is none; give `choices`")
    low, high = (_typed_value(path, option, value) for value in (axis.low, axis.high))
    whole = float not in kinds
    if whole and axis.step is not None and axis.step != int(axis.step):
        raise ValueError(f"space {path}: step {axis.step} is not whole, and this option is; give a whole step")
    step = int(axis.step) if whole and axis.step is not None else axis.step
    return axis.model_copy(update={"low": low, "high": high, "step": step})


def _typed_value(path: str, option: FieldInfo, value: Value) -> Any:
    try:
        return _reader(path).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"space {path}: {value!r} is refused: {first_message(error)}") from None


@cache
def _reader(path: str) -> TypeAdapter[Any]:
    option = _option(path)
    annotated: Any = Annotated[option.annotation, Field(), *option.metadata]
    return TypeAdapter(annotated)


def _option(path: str) -> FieldInfo:
    """The field that a path names. Raises ValueError with the nearest names."""
    options = _options()
    if path not in options:
        near = ", ".join(difflib.get_close_matches(path, options, n=3)) or "none"
        raise ValueError(f"space {path}: no such option can be searched; the nearest: {near}")
    return options[path]


@cache
def _options() -> dict[str, FieldInfo]:
    return dict(_options_of(Variant, ""))


def _options_of(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, option in model.model_fields.items():
        inner = [kind for kind in _types(option.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        for inner_model in inner:
            yield from _options_of(inner_model, f"{prefix}{name}.")
        if not inner and (prefix or name not in _NEVER_TUNED):
            yield f"{prefix}{name}", option


def _types(annotation: Any) -> list[Any]:
    """The alternatives of a type, without None's company or Annotated's wrapping."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _types(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [kind for inner in get_args(annotation) for kind in _types(inner)]
    return [annotation]
