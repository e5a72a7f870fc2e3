"""The choice of a device on this machine."""

from __future__ import annotations

import pytest
import torch

from platform_assets.vision.machine.devices import Device, DeviceNotAvailable, available_devices, choose_device

ABSENT = [name for name in ("mps", "cuda") if name not in available_devices()]


def test_choose_device__auto_takes_the_fastest_present() -> None:
    choice = choose_device("auto")
    assert choice.device == available_devices()[0]
    assert "auto" in choice.reason
    assert torch.zeros(1, device=choice.device).device.type == choice.device


def test_choose_device__cpu_is_always_there_and_is_not_overruled() -> None:
    choice = choose_device("cpu")
    assert (choice.device, choice.reason) == ("cpu", "asked for by name")
    assert choice.channels_last
    assert choice.bfloat16 == (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@pytest.mark.skipif(not ABSENT, reason="every kind of device is present")
@pytest.mark.parametrize("requested", ABSENT)
def test_choose_device__absent_device_is_an_error_with_the_present_ones(requested: Device) -> None:
    with pytest.raises(
        DeviceNotAvailable, match=rf"'{requested}' is not on this machine \(present: .*cpu\); use 'auto'"
    ):
        choose_device(requested)
