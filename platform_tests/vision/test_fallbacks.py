"""Operators that fall back from MPS to the CPU, told by the warning that torch gives."""

from __future__ import annotations

import warnings

import pytest

from platform_assets.vision.fallbacks import fallbacks_reported

TORCHS = (
    "The operator '{}' is not currently supported on the MPS backend and will fall back to run on the CPU. "
    "This may have performance implications. (Triggered internally at MPSFallback.mm:14.)"
)


def _fall_back(operator: str) -> None:
    warnings.warn(TORCHS.format(operator), stacklevel=1)


def test_fallbacks__each_operator_is_named_once_and_counted() -> None:
    said: list[str] = []
    with fallbacks_reported(said.append) as found:
        for operator in ("aten::unique_dim", "aten::unique_dim", "aten::linalg_svd.U"):
            _fall_back(operator)
    assert found == ["aten::unique_dim", "aten::linalg_svd.U"]
    assert [line.split(":")[0] for line in said] == ["MPS has no aten", "MPS has no aten"]
    assert "MPS has no aten::unique_dim" in said[0]


def test_fallbacks__other_warnings_pass() -> None:
    with pytest.warns(UserWarning, match="of something else"), fallbacks_reported(print) as found:
        warnings.warn("of something else", UserWarning, stacklevel=1)
    assert found == []
