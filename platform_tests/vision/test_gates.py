"""The gate: what bars a challenger, what keeps the incumbent, what promotes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from platform_assets.vision.gates import Comparison, Decision, Gate, decide

SAME = Comparison(challenger_ids="a", incumbent_ids="a", images=656, challenger=0.84, incumbent=0.85)


def decided(gate: Gate | None = None, **changes: Any) -> Decision:
    asked: dict[str, Any] = {"metric": "macro_f1", "value": 0.84, "faults": (), "same_checkpoint": False}
    return decide(gate or Gate(minimum=0.8), **{**asked, "comparison": None, **changes})


def test_decide__first_model_over_the_minimum_is_promoted() -> None:
    assert decided().text == "promoted: macro_f1 0.8400, and there is no incumbent"


@pytest.mark.parametrize(("value", "verdict"), [(0.8, "promoted"), (0.79999, "refused"), (math.nan, "refused")])
def test_decide__minimum_is_inclusive_and_nan_is_below_it(value: float, verdict: str) -> None:
    assert decided(value=value).verdict == verdict


def test_decide__every_fault_is_said_whatever_the_figures() -> None:
    found = decided(value=0.5, faults=("damaged file: a", "the licence is not known"), comparison=SAME)
    assert found.verdict == "refused"
    assert found.reasons == (
        "damaged file: a",
        "the licence is not known",
        "macro_f1 0.5000 is below the minimum 0.8000",
    )


def test_decide__the_incumbent_itself_is_kept_but_not_when_it_is_damaged() -> None:
    assert decided(same_checkpoint=True).verdict == "kept"
    assert decided(same_checkpoint=True, faults=("damaged file: a",)).verdict == "refused"


@pytest.mark.parametrize(("allowed", "verdict"), [(0.0, "kept"), (0.009, "kept"), (0.011, "promoted")])
def test_decide__a_loss_is_promoted_within_the_allowed_regression_only(allowed: float, verdict: str) -> None:
    found = decided(Gate(minimum=0.8, max_regression=allowed), comparison=SAME)
    assert found.verdict == verdict
    assert "0.8400 against 0.8500 on the same 656 images" in found.reasons[0]


def test_decide__figures_on_other_images_never_promote() -> None:
    better = SAME.model_copy(update={"incumbent_ids": "b", "challenger": 0.99})
    found = decided(comparison=better)
    assert found.verdict == "refused"
    assert "evaluated on other images" in found.reasons[0]
