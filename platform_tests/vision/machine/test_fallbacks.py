"""Operators that fall back from MPS to the CPU, told by the warning that torch gives."""

from __future__ import annotations

import warnings

import pytest
import torch

from platform_assets.vision.machine.fallbacks import fallbacks_reported

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


def test_fallbacks__torch_is_asked_for_more_than_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's warning has one place for all operators and is given once a process: a second operator was never named."""
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with fallbacks_reported(print):
            for _ in range(3):
                _ = torch.zeros(1, 1, 1).T  # as the fallback does, it warns by TORCH_WARN_ONCE
    assert ["The use of `x.T`" in str(each.message) for each in warned] == [True] * 3
    assert not torch.is_warn_always_enabled()
