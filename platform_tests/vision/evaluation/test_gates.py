"""The gate's rules: what each lets through at its threshold, and which verdict follows from which finding."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from platform_assets.vision.evaluation.gates import (
    Comparison,
    Decision,
    Finding,
    Gate,
    at_least,
    at_most,
    compared,
    decide,
    none_of,
)

SAME = Comparison(
    images=656,
    challenger=0.84,
    incumbent=0.85,
    low=-0.022,
    high=0.004,
    only_challenger=20,
    only_incumbent=27,
    p_value=0.38,
)


def against(gate: Gate, metric: str = "macro_f1", **changes: Any) -> Decision:
    return decide(compared(SAME.model_copy(update=changes), gate, metric), summary="better")


def finding(otherwise: Any, said: str) -> Finding:
    return Finding(rule="r", passed=False, measured=0, threshold=1, said=said, otherwise=otherwise)


@pytest.mark.parametrize(("value", "passed"), [(0.8, True), (0.79999, False), (math.nan, False)])
def test_at_least__a_floor_is_inclusive_and_nan_is_below_it(value: float, passed: bool) -> None:
    assert at_least("minimum", value, 0.8, "too low").passed is passed


@pytest.mark.parametrize(("value", "passed"), [(0.05, True), (0.0501, False), (math.nan, False)])
def test_at_most__a_ceiling_is_inclusive_and_nan_is_above_it(value: float, passed: bool) -> None:
    assert at_most("max_ece", value, 0.05, "too much").passed is passed


def test_none_of__names_the_first_faults_and_counts_all() -> None:
    assert none_of("files", []).passed
    found = none_of("files", ["a", "b", "c", "d", "e"])
    assert (found.passed, found.measured, found.said) == (False, 5, "a; b; c; and 2 more")


def test_decide__the_hardest_verdict_wins_and_has_all_its_reasons() -> None:
    waits, beaten = finding("held", "waits"), finding("kept", "not better")
    broken = [finding("refused", "damaged file: a"), finding("refused", "below the minimum")]
    passed = at_least("minimum", 1.0, 0.5, "never said")
    assert decide([passed], summary="better").text == "promoted: better"
    assert decide([passed, waits], summary="better").text == "held: waits"
    assert decide([waits, beaten], summary="better").text == "kept: not better"
    found = decide([waits, beaten, passed, *broken], summary="better")
    assert found.text == "refused: damaged file: a; below the minimum"
    assert len(found.findings) == 5


@pytest.mark.parametrize(("allowed", "verdict"), [(0.0, "kept"), (0.0219, "kept"), (0.022, "promoted")])
def test_compared__a_loss_must_be_ruled_out_by_the_interval_not_the_difference(allowed: float, verdict: str) -> None:
    found = against(Gate(max_regression=allowed))
    assert found.verdict == verdict
    if verdict == "kept":
        assert found.reasons == (
            "macro_f1 0.8400 against 0.8500 on the same 656 images, -0.0100 (-0.0220 to +0.0040; McNemar 20 to 27, "
            f"p = 0.38): a loss beyond {allowed:.4f} is not ruled out",
        )


def test_compared__with_no_loss_allowed_an_equal_challenger_passes_and_a_better_one_must_be_shown_to_be() -> None:
    assert against(Gate(), low=0.0, high=0.0).verdict == "promoted"
    assert against(Gate(), low=-1e-12, high=0.01).verdict == "promoted"
    assert against(Gate(), low=-0.001, high=0.03).verdict == "kept"


def test_compared__significantly_worse_never_passes_whatever_may_be_lost() -> None:
    found = against(Gate(max_regression=1), low=-0.02, high=-0.001)
    assert found.verdict == "kept"
    assert found.reason.endswith("significantly worse")


def test_compared__on_top1_mcnemars_test_must_agree() -> None:
    lost = {"only_challenger": 5, "only_incumbent": 20, "p_value": 0.004}
    assert against(Gate(max_regression=1), "top1", **lost).reason.endswith("worse by McNemar's test")
    assert against(Gate(max_regression=1), "macro_f1", **lost).verdict == "promoted"
    won = {"only_challenger": 20, "only_incumbent": 5, "p_value": 0.004}
    assert against(Gate(max_regression=1), "top1", **won).verdict == "promoted"


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"minimun": 0.5}, "Extra inputs are not permitted"),
        ({"minimum": 1.5}, "less than or equal to 1"),
        ({"max_parameters": 0}, "greater than 0"),
        ({"class_floor": {"score": "precision", "minimum": 0.5}}, "'recall' or 'f1'"),
        ({"approval": {"required": True}}, "name who may approve"),
        ({"approval": {"approvers": [" "]}}, "at least 1 character"),
    ],
)
def test_gate__what_is_no_rule_is_refused(rules: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Gate.model_validate(rules)


def test_gate__every_rule_is_optional() -> None:
    assert Gate() == Gate(minimum=0, max_regression=0)
