"""Number formats: what a device is refused, with the reason and the cure."""

from __future__ import annotations

import pytest

from platform_assets.vision.machine.devices import choose_device
from platform_assets.vision.machine.precision import PrecisionNotSupported, require_precision
from platform_assets.vision.recipes.train_options import ExecutionOptions


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_require_precision__float16_is_for_cuda(device) -> None:
    with pytest.raises(PrecisionNotSupported, match=f"'float16' on {device}: gradients underflow .*; use float32"):
        require_precision(ExecutionOptions(precision="float16"), device)


def test_require_precision__bfloat16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ExecutionOptions(precision="bfloat16")
    for amx, avx, fast in ((False, False, False), (True, False, True), (False, True, True)):
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda avx=avx: avx)
        assert choose_device("cpu").bfloat16 is fast
        if fast:
            require_precision(options, "cpu")
            continue
        with pytest.raises(PrecisionNotSupported, match="AVX512_BF16 emulates it, 2 to 12 times slower"):
            require_precision(options, "cpu")


def test_require_precision__float32_everywhere() -> None:
    for device in ("cpu", "mps", "cuda"):
        require_precision(ExecutionOptions(), device)
