"""The rules a model must pass before it may serve, and the verdict on one candidate. Decides; changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Verdict = Literal["promoted", "kept", "held", "refused", "rolled_back"]
Otherwise = Literal["refused", "kept", "held"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

SIGNIFICANCE = 0.05
_HARDEST_FIRST: tuple[Otherwise, ...] = ("refused", "kept", "held")
_ROUNDING = 1e-9  # two equal scores may differ in the last bits


class ClassFloor(BaseModel):
    """No class may be given up for the mean: the lowest score of those with at least `min_images` images of test."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: Literal["recall", "f1"] = "recall"
    minimum: Fraction
    min_images: int = Field(10, gt=0, description="a class with fewer images of test is not judged")


class ApprovalRule(BaseModel):
    """A person's word, for one checkpoint; one of `approvers` is enough."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    required: bool = True
    approvers: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _someone_may_approve(self) -> Self:
        if self.required and not self.approvers:
            raise ValueError("required is true and approvers is empty; name who may approve, or set required: false")
        return self


class Gate(BaseModel):
    """Rules on the report part. What must hold of any model needs no key: whole files, a known licence of the data, green
    checks, and an evaluation that is current, of the records' own parts, and found again from the predictions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum: Fraction = Field(0.0, description="floor of the experiment's metric")
    max_regression: Fraction = Field(
        0.0,
        description="how much of the metric the challenger may lose to the incumbent: the 95 % interval of the difference "
        "(paired bootstrap) must lie above its negative, so that 0 asks for a challenger that is shown not to be worse",
    )
    class_floor: ClassFloor | None = None
    max_ece: Fraction | None = Field(None, description="largest calibration error after temperature scaling")
    max_parameters: int | None = Field(None, gt=0)
    max_weights_mb: float | None = Field(None, gt=0, description="of the weights file, in 10^6 bytes")
    max_latency_ms: float | None = Field(
        None, gt=0, description="median of one image by torch on the CPU of the machine that judges"
    )
    approval: ApprovalRule | None = None


class Finding(BaseModel):
    """One rule and what was measured for it; `otherwise` is the verdict on a candidate that does not pass it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    passed: bool
    measured: float | None
    threshold: float
    said: str
    otherwise: Otherwise = "refused"


class Comparison(BaseModel):
    """Challenger and incumbent on the same images: the metric of each, the 95 % interval of the difference by paired
    bootstrap, and how many images (or groups) only one of them got right, with the exact p-value of McNemar (1947)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    challenger: float
    incumbent: float
    low: float
    high: float
    only_challenger: int
    only_incumbent: int
    p_value: float

    def text(self, metric: str) -> str:
        return (
            f"{metric} {self.challenger:.4f} against {self.incumbent:.4f} on the same {self.images} images, "
            f"{self.challenger - self.incumbent:+.4f} ({self.low:+.4f} to {self.high:+.4f}; "
            f"McNemar {self.only_challenger} to {self.only_incumbent}, p = {self.p_value:.3g})"
        )


class Decision(BaseModel):
    """What was found rule by rule, the verdict and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)

    @property
    def text(self) -> str:
        return f"{self.verdict}: {self.reason}"


def none_of(rule: str, faults: Sequence[str]) -> Finding:
    """A rule that no fault may break."""
    shown = [*faults[:3], *([f"and {len(faults) - 3} more"] if len(faults) > 3 else [])]
    return Finding(rule=rule, passed=not faults, measured=len(faults), threshold=0, said="; ".join(shown))


def at_least(rule: str, measured: float, threshold: float, said: str) -> Finding:
    """Not a number is below every floor."""
    return Finding(rule=rule, passed=measured >= threshold, measured=measured, threshold=threshold, said=said)


def at_most(rule: str, measured: float, threshold: float, said: str) -> Finding:
    return Finding(rule=rule, passed=measured <= threshold, measured=measured, threshold=threshold, said=said)


def compared(comparison: Comparison, gate: Gate, metric: str) -> list[Finding]:
    """Whether the challenger is shown to lose no more than it may, and is not significantly worse whatever it may lose.

    The first is a test of non-inferiority with `max_regression` as its margin (Piaggio et al. 2012, doi
    10.1001/jama.2012.87802): a small test part makes the interval wide and the gate strict, where a rule on the
    difference alone would let chance promote. The second judges the metric by the same interval; on top-1 McNemar's
    exact test must agree.
    """
    said, allowed = comparison.text(metric), gate.max_regression
    found = [
        Finding(
            rule="max_regression",
            passed=comparison.low >= -allowed - _ROUNDING,
            measured=comparison.low,
            threshold=0.0 - allowed,  # 0, not -0
            said=f"{said}: a loss beyond {allowed:.4f} is not ruled out",
            otherwise="kept",
        ),
        Finding(
            rule="not_significantly_worse",
            passed=comparison.high >= -_ROUNDING,
            measured=comparison.high,
            threshold=0,
            said=f"{said}: significantly worse",
            otherwise="kept",
        ),
    ]
    if metric == "top1":
        loses = comparison.only_challenger < comparison.only_incumbent
        found.append(
            Finding(
                rule="mcnemar",
                passed=not (loses and comparison.p_value < SIGNIFICANCE),
                measured=comparison.p_value,
                threshold=SIGNIFICANCE,
                said=f"{said}: significantly worse by McNemar's test",
                otherwise="kept",
            )
        )
    return found


def decide(findings: Sequence[Finding], *, summary: str) -> Decision:
    """`refused` when the challenger fails on its own, `kept` when the incumbent stays, `held` when a person's word is
    all that lacks, `promoted`, for which `summary` is the reason, when the challenger may take the alias."""
    broken = [finding for finding in findings if not finding.passed]
    for verdict in _HARDEST_FIRST:
        if reasons := tuple(finding.said for finding in broken if finding.otherwise == verdict):
            return Decision(verdict=verdict, reasons=reasons, findings=tuple(findings))
    return Decision(verdict="promoted", reasons=(summary,), findings=tuple(findings))
