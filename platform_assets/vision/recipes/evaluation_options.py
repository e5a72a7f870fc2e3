"""What YAML may ask of the evaluation of models; what is done of it stands in evaluation_rules.py and slices.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

MetricName = Literal["top1", "macro_f1", "balanced_accuracy"]


def _of_mistakes(costs: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    for truth, row in costs.items():
        if truth in row:
            raise ValueError(f"{truth}.{truth}: a right answer costs nothing; remove it")
    return costs


Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Costs = Annotated[dict[str, dict[str, Cost]], AfterValidator(_of_mistakes)]
"""Truth to prediction to the cost of that mistake, in units of the user's own. A mistake that is not named costs 1."""

Slices = tuple[Annotated[str, Field(min_length=1)], ...]
