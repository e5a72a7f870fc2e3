"""The rules a model must pass before it may serve, and the verdict on one candidate. Decides; changes nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["promoted", "kept", "refused"]


class Gate(BaseModel):
    """Rules on the report part. `minimum` is a floor of the experiment's metric; the incumbent may lose by no more than
    `max_regression` on the images that both were evaluated on and neither was fitted on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum: float = Field(0.0, ge=0, le=1)
    max_regression: float = Field(0.0, ge=0, le=1)


class Comparison(BaseModel):
    """Challenger and incumbent on the same images: the hash of their ids, how many, and the metric of each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    challenger_ids: str
    incumbent_ids: str
    images: int
    challenger: float
    incumbent: float


class Decision(BaseModel):
    """One row of the gate's record: what was asked, measured and decided, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict
    reasons: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{self.verdict}: {'; '.join(self.reasons)}"


def decide(
    gate: Gate,
    *,
    metric: str,
    value: float,
    faults: tuple[str, ...],
    same_checkpoint: bool,
    comparison: Comparison | None,
) -> Decision:
    """`value` is the challenger's metric on its report part, `faults` what bars it whatever its figures: damaged files, a
    dataset without a known licence.

    `refused` when the challenger fails on its own, `kept` when the incumbent stays, `promoted` when the challenger may
    take the alias. A comparison on different images never promotes.
    """
    against = list(faults)
    if not value >= gate.minimum:
        against.append(f"{metric} {value:.4f} is below the minimum {gate.minimum:.4f}")
    if comparison and comparison.challenger_ids != comparison.incumbent_ids:
        against.append("challenger and incumbent were evaluated on other images; evaluate both on the same")
    if against:
        return Decision(verdict="refused", reasons=tuple(against))
    if same_checkpoint:
        return Decision(verdict="kept", reasons=("the incumbent is this very checkpoint",))
    if comparison is None:
        return Decision(verdict="promoted", reasons=(f"{metric} {value:.4f}, and there is no incumbent",))
    difference = comparison.challenger - comparison.incumbent
    said = f"{metric} {comparison.challenger:.4f} against {comparison.incumbent:.4f} on the same {comparison.images} images"
    if difference < -gate.max_regression:
        return Decision(verdict="kept", reasons=(f"{said}: a loss beyond {gate.max_regression:.4f}",))
    return Decision(verdict="promoted", reasons=(said,))
