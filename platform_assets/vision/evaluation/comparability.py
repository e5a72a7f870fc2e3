"""What two evaluations must share before their figures may stand in one ranking, as one hash and as its parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.vision.recipes.resolving import Protocol


class ComparisonError(ValueError):
    """Trials that cannot be compared fairly."""


class _Part(NamedTuple):
    what: str
    cure: str
    of_a_seed: bool


_AGAIN = "materialize both on one dataset version"
_PARTS = {
    "dataset_version": _Part("dataset versions", f"{_AGAIN}: checkpoint, predictions and metrics", False),
    "label_map_checksum": _Part("label maps", _AGAIN, False),
    "protocol": _Part(
        "preprocessing of their experiment", "give both one resize and crop_to_box and materialize them again", False
    ),
    "metric_code": _Part(
        "code of their metrics", "materialize metrics of both again, nothing is trained for it", False
    ),
    "split_sha256": _Part("splits", "the rule of the split was changed in between; materialize both again", True),
    "val_ids_sha256": _Part("val images", _AGAIN, True),
    "test_ids_sha256": _Part("test images", _AGAIN, True),
}


class Comparability(BaseModel):
    """The parts of the hash of one trial; each is a column of its metrics row.

    In it is what must be equal for two figures to differ by the models alone: the version of the dataset (which names its
    tiny subset and its target too), its label map, which image stands in which part, the images that were evaluated, what
    the experiment fixes of preprocessing (resize, crop to box), and the code that computes the metrics. Not in it is what
    variants may differ in, because it is what they are compared for: backbone, mode, recipe, resolution, and with the
    backbone its normalisation and interpolation; nor the metric that ranks, the seed, or the name of the experiment.

    Seeds that draw their own split are equal in all but the split and the images: they are compared seed by seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset_version: str
    label_map_checksum: str
    split_sha256: str
    val_ids_sha256: str
    test_ids_sha256: str
    protocol: str
    metric_code: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    @property
    def columns(self) -> dict[str, str]:
        return {"comparability": self.sha256, **self.model_dump()}


def fixed_preprocessing(protocol: Protocol) -> str:
    """What an experiment fixes of the pixels of all its variants, as canonical JSON."""
    return json.dumps(protocol.model_dump(mode="json", include={"resize", "crop_to_box"}), sort_keys=True)


def split_sha256(parts: pl.DataFrame) -> str:
    """SHA-256 of which image stands in which part, from `image_id` and `split`, whatever the order of the rows."""
    rows = sorted(f"{image_id} {part}" for image_id, part in parts.select("image_id", "split").rows())
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def require_comparable(rows: pl.DataFrame) -> None:
    """Raises ComparisonError, naming two trials, the part that differs and the cure, unless metrics rows may be ranked.

    Rows of one seed must have one hash. Rows of different seeds may differ in the split, and in nothing else.
    """
    found = rows.to_dicts()
    for row in found:
        _require_own_hash(row)
    first = found[0]
    firsts_of_seeds: dict[int, dict[str, Any]] = {}
    for row in found:
        first_of_seed = firsts_of_seeds.setdefault(row["seed"], row)
        for difference in (
            *_differences(first, row, of_a_seed=False),
            *_differences(first_of_seed, row, of_a_seed=True),
        ):
            raise ComparisonError(difference)


def _require_own_hash(row: Mapping[str, Any]) -> None:
    again = f"materialize the metrics of {row['trial']!r} again"
    if row.get("comparability") is None:
        raise ComparisonError(f"{row['trial']!r} has no comparability hash, older code made its row; {again}")
    found = Comparability(**{name: row[name] for name in Comparability.model_fields}).sha256
    if found != row["comparability"]:
        raise ComparisonError(
            f"{row['trial']!r} has the comparability hash {row['comparability'][:12]} and parts that give {found[:12]}: "
            f"its metrics row was edited; {again}"
        )


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], *, of_a_seed: bool) -> Iterator[str]:
    for name, part in _PARTS.items():
        if part.of_a_seed == of_a_seed and one[name] != other[name]:
            where = f" under seed {one['seed']}" if of_a_seed else ""
            yield (
                f"{one['trial']!r} and {other['trial']!r} have different {part.what}{where} ({_short(one[name])} and "
                f"{_short(other[name])}): their scores cannot be compared; {part.cure}"
            )


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value
