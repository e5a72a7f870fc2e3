"""Networks of the user's own: found by name, checked before a training, known by the bytes of their source."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch
    from torch import nn

PLUGIN_NAME = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")

_TOLERANCE = 1e-5


class BadPlugin(ValueError):
    """A plug-in that cannot be found, or whose network does not keep the contract of `build_plugin`."""


def build_plugin(name: str, *, image_size_px: int) -> nn.Module:
    """The network that `module:callable` makes, called as `callable(image_size_px=...)`.

    It takes normalised images_bchw float32 (ImageNet's mean and std) to features_bd, and has an int `feature_dim`, d.
    The head is put on by Kestrel. What is random in it comes from torch's global generator.
    """
    from torch import nn

    make = _callable(name)
    try:
        inspect.signature(make).bind(image_size_px=image_size_px)
    except TypeError as error:
        raise BadPlugin(f"model {name}: it is called as callable(image_size_px=...): {error}") from error
    model = make(image_size_px=image_size_px)
    if not isinstance(model, nn.Module):
        raise BadPlugin(f"model {name}: it returned {type(model).__name__}; return a torch.nn.Module")
    width = getattr(model, "feature_dim", None)
    if not isinstance(width, int) or width < 1:
        raise BadPlugin(
            f"model {name}: its network has feature_dim {width!r}; set it to the width of the features_bd it returns"
        )
    return model


def check_plugin(name: str, *, image_size_px: int) -> None:
    """Try what training, resuming and serving rely on. Raises BadPlugin with what does not hold."""
    import torch

    with torch.random.fork_rng(devices=[]):
        first, again, other = (_seeded(name, image_size_px, seed) for seed in (0, 0, 1))
        images_bchw = torch.randn(3, 3, image_size_px, image_size_px, generator=torch.Generator().manual_seed(0))
    _require_trainable(name, first)
    _require_same(name, first.state_dict(), again.state_dict())
    features_bd = _features(name, first, images_bchw)
    alone_bd = _features(name, first, images_bchw[:2])
    if not torch.allclose(alone_bd, features_bd[:2], atol=_TOLERANCE, rtol=1e-3):
        raise BadPlugin(f"model {name}: an image's features depend on the others of its batch in evaluation mode")
    try:
        other.load_state_dict(first.state_dict())
    except RuntimeError as error:
        raise BadPlugin(f"model {name}: its state dict does not load into a fresh instance: {error}") from error
    if not torch.equal(_features(name, other, images_bchw), features_bd):
        raise BadPlugin(
            f"model {name}: a fresh instance with the same state dict gives other features; register as buffers what it holds"
        )
    with torch.random.fork_rng(devices=[]):
        _require_gradients(name, other.train(), images_bchw)


def plugin_sha256(name: str) -> str:
    """SHA-256 of the source of the module, which is found and not run; what it imports is not part of it."""
    return hashlib.sha256(_source(name).read_bytes()).hexdigest()


def _source(name: str) -> Path:
    module = name.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise BadPlugin(
            f"model {name}: there is no module {module!r} on the Python path; put it into the project's package, "
            "and run in the project's root"
        )
    return Path(spec.origin)


def _callable(name: str) -> Any:
    _source(name)
    module_name, _, attribute = name.partition(":")
    module = importlib.import_module(module_name)
    found = getattr(module, attribute, None)
    if not callable(found):
        raise BadPlugin(f"model {name}: module {module_name!r} has no callable {attribute!r}; correct the name")
    return found


def _seeded(name: str, image_size_px: int, seed: int) -> nn.Module:
    import torch

    torch.manual_seed(seed)
    return build_plugin(name, image_size_px=image_size_px).eval()


def _require_trainable(name: str, model: nn.Module) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise BadPlugin(f"model {name}: its network has no parameter that is trained")


def _require_same(name: str, first: dict[str, torch.Tensor], again: dict[str, torch.Tensor]) -> None:
    import torch

    for key in sorted(first.keys() | again.keys()):
        if key not in first or key not in again or not torch.equal(first[key], again[key]):
            raise BadPlugin(
                f"model {name}: {key} differs between two builds at one seed; draw it from torch's global generator"
            )


def _require_gradients(name: str, model: nn.Module, images_bchw: torch.Tensor) -> None:
    """In training mode, which may take another way through the network."""
    import torch

    features_bd = _tried(name, model, images_bchw)
    if features_bd.requires_grad:
        try:
            torch.autograd.backward(features_bd.square().sum())
        except RuntimeError as error:
            raise BadPlugin(f"model {name}: its backward pass fails: {error}") from error
    if all(parameter.grad is None for parameter in model.parameters()):
        raise BadPlugin(f"model {name}: no gradient reaches its parameters, so that they would not be trained")


def _features(name: str, model: nn.Module, images_bchw: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        return _tried(name, model, images_bchw)


def _tried(name: str, model: nn.Module, images_bchw: torch.Tensor) -> torch.Tensor:
    import torch

    try:
        found = model(images_bchw)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise BadPlugin(f"model {name}: it fails on images {tuple(images_bchw.shape)}: {error}") from error
    wanted = (len(images_bchw), cast(int, model.feature_dim))
    if not isinstance(found, torch.Tensor) or tuple(found.shape) != wanted:
        given = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise BadPlugin(f"model {name}: of images {tuple(images_bchw.shape)} it gives {given} instead of {wanted}")
    if found.dtype != torch.float32:
        raise BadPlugin(f"model {name}: its features are {found.dtype}; give float32, a recipe says its precision")
    if not torch.isfinite(found).all():
        raise BadPlugin(f"model {name}: its features of normal images are not finite")
    return found
