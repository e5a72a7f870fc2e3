"""Files of tensors from anywhere, read without running what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]  # it is pickle's own

# Under which key a training script keeps the network among optimizer, epoch and arguments.
_NETWORK = ("state_dict", "model")


class BadTensorFile(ValueError):
    """A file that holds no tensors by name, or is damaged."""


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Name to tensor, on the CPU, of a .safetensors file or of one that torch.save wrote (.pth, .pt, .bin).

    `module.` in front of every name, which data-parallel training leaves, is taken off. Raises BadTensorFile.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise BadTensorFile(f"{path} is not a whole safetensors file: {error}; copy it again") from error
    content = _network_of(_loaded(path))
    if not isinstance(content, dict) or not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise BadTensorFile(f"{path} does not hold tensors by name; save the network's state_dict() to it")
    if all(name.startswith("module.") for name in content):
        return {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def _loaded(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise BadTensorFile(
            f"{path} is damaged, or holds more than tensors, which is never unpickled ({_first_line(error)}); "
            "copy it again, or save the network's state_dict() alone as safetensors"
        ) from error


def _network_of(content: Any) -> Any:
    if isinstance(content, dict):
        for key in _NETWORK:
            if isinstance(content.get(key), dict):
                return content[key]
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
