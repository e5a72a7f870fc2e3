"""Files of tensors from anywhere: read, and refused without running what is in them."""

from __future__ import annotations

import pathlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from platform_assets.vision.networks.tensor_files import BadTensorFile, read_tensors

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


def _same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin"])
@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 3, "optimizer": {"lr": 0.1}},
        {"model": TENSORS},
        {f"module.{name}": value for name, value in TENSORS.items()},
    ],
    ids=["plain", "training", "model", "parallel"],
)
def test_read_tensors__of_torch_save(tmp_path: Path, name: str, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / name)
    assert _same(read_tensors(tmp_path / name))


def test_read_tensors__of_safetensors(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "w.safetensors")
    assert _same(read_tensors(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"\x00" * 100])
def test_read_tensors__names_a_damaged_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadTensorFile, match=f"{name} is .*copy it again"):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_read_tensors__names_a_file_that_was_cut_off(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadTensorFile, match=f"{name} is .*copy it again"):
        read_tensors(path)


def test_read_tensors__runs_no_code_of_a_pickle(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return pathlib.Path.touch, (pathlib.Path(tmp_path / "ran"),)  # type: ignore[return-value]

    torch.save({"state_dict": TENSORS, "args": Trap()}, tmp_path / "w.pth")
    with pytest.raises(BadTensorFile, match=r"holds more than tensors, which is never unpickled"):
        read_tensors(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [{}, [TENSORS], {"epoch": 3}, torch.ones(2)])
def test_read_tensors__refuses_what_has_no_names(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(BadTensorFile, match=r"w\.pth does not hold tensors by name; save the network's state_dict"):
        read_tensors(tmp_path / "w.pth")
