"""Where the pretrained weights of a backbone lie: found, verified, downloaded where need be. No tensors are read here."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from platform_assets.vision.recipes.backbones import Backbone, HubWeights, PackagedWeights, get_backbone

if TYPE_CHECKING:
    from platform_assets.vision.recipes.variants import Variant

Origin = Literal["package", "variant", "file", "cache"]
Say = Callable[[str], None]


class WeightsMissing(ValueError):
    """The pretrained weights that a backbone needs are not on this machine, and cannot be had."""


class WeightsChanged(ValueError):
    """A weights file is not, byte for byte, the one that the registry, the hub or the lock names."""


class BadLock(ValueError):
    """A lock file that is not one of ours."""


class NoPretrainedWeights(ValueError):
    """Pretrained weights are asked of a backbone that has none."""


@dataclass(frozen=True)
class WeightPlaces:
    """`root` is the project, where a variant's paths start; `data` its folder of state."""

    root: Path
    data: Path

    @property
    def lock(self) -> Path:
        return self.data / "weights.lock.json"

    def file_of(self, backbone: Backbone) -> Path:
        """Where a user puts the weights of a backbone that cannot be downloaded."""
        return self.data / "weights" / f"{backbone.slug}.safetensors"


@dataclass(frozen=True)
class WeightsFile:
    """A file whose bytes had this SHA-256 when it was found: in a package, at a variant's path, in data/, in the hub's cache."""

    path: Path
    sha256: str
    origin: Origin

    @property
    def file(self) -> Path | None:
        """What `load_backbone` takes as `weights`; it finds a package's by itself, whose tensors have names of their own."""
        return None if self.origin == "package" else self.path


def weights_of(variant: Variant, places: WeightPlaces, *, say: Say | None = None) -> WeightsFile | None:
    """The file that a variant starts from; None where it starts from random weights.

    Raises WeightsMissing, WeightsChanged, NoPretrainedWeights.
    """
    if variant.mode == "scratch" or not variant.pretrained:
        return None
    if variant.weights is not None:
        path = places.root / variant.weights
        if not path.is_file():
            raise WeightsMissing(f"weights: {path} is missing; correct the path, which starts at the project's root")
        return WeightsFile(path, sha256_of(path), "variant")
    try:
        return find_weights(get_backbone(variant.backbone), places, say=say)
    except WeightsMissing as error:
        if variant.mode != "finetune":
            raise
        raise WeightsMissing(
            f"{error}; `pretrained: false` in the variant starts from random weights instead"
        ) from error


def find_weights(backbone: Backbone, places: WeightPlaces, *, say: Say | None = None) -> WeightsFile:
    """The published weights of a backbone: from its package, from data/weights or the hub's cache, else downloaded.

    At first use the lock takes down the SHA-256 of what no registry knows. Raises WeightsMissing, WeightsChanged and
    NoPretrainedWeights.
    """
    found = locate(backbone, places)
    if found is None:
        assert backbone.hub is not None
        path = _downloaded(backbone, backbone.hub, places, say or (lambda text: None))
        found = WeightsFile(path, _verified_in_cache(path), "cache")
        _require_locked(backbone, found, places)
    if found.origin != "package":
        _lock(backbone, found, places)
    return found


def locate(backbone: Backbone, places: WeightPlaces) -> WeightsFile | None:
    """As `find_weights`, from this machine alone, and nothing is written; None where there is only the hub."""
    if backbone.weights is not None:
        path = packaged_file(backbone.weights)
        return WeightsFile(path, _verified_in_package(path, backbone.weights), "package")
    if backbone.hub is None and not backbone.name.startswith("timm/"):
        raise NoPretrainedWeights(f"backbone {backbone.name!r} has no pretrained weights; use it with mode 'scratch'")
    placed = places.file_of(backbone)
    cached = None if placed.is_file() or backbone.hub is None else cached_file(backbone.hub)
    if placed.is_file():
        found = WeightsFile(placed, sha256_of(placed), "file")
    elif cached is not None:
        found = WeightsFile(cached, _verified_in_cache(cached), "cache")
    elif backbone.hub is None:
        raise WeightsMissing(f"backbone {backbone.name!r} is on no hub; {_cures(backbone, places)}")
    else:
        return None
    _require_locked(backbone, found, places)
    return found


def whereabouts(backbone: Backbone, places: WeightPlaces) -> str:
    """Where the published weights of a backbone are now, in a few words; no byte of them is read."""
    if backbone.weights is not None:
        try:
            packaged_file(backbone.weights)
        except WeightsMissing:
            return f"package {backbone.weights.package}, not installed"
        return "package"
    if places.file_of(backbone).is_file():
        return "file"
    if backbone.hub is None:
        return "none"
    return "cache" if cached_file(backbone.hub) else "to be downloaded"


def packaged_file(weights: PackagedWeights) -> Path:
    """Path of a weights file in an installed package, which is not imported. Raises WeightsMissing."""
    # find_spec does not run the package's code, which these weights do not need.
    spec = importlib.util.find_spec(weights.package)
    if spec is None or spec.origin is None:
        raise WeightsMissing(
            f"package {weights.package!r} is not installed; install the extra 'demo' of kestrel-vision"
        )
    path = Path(spec.origin).parent / weights.file
    if not path.is_file():
        raise WeightsMissing(f"{path} is missing; install the package {weights.package!r} again")
    return path


def verified_package(weights: PackagedWeights) -> Path:
    """Path of the packaged file, after its SHA-256 was compared. Raises WeightsMissing, WeightsChanged."""
    path = packaged_file(weights)
    _verified_in_package(path, weights)
    return path


def cached_file(hub: HubWeights) -> Path | None:
    """The file in the hub client's cache, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub.repo, hub.file)
    return Path(found) if isinstance(found, str) else None


def locked(places: WeightPlaces) -> dict[str, str]:
    """Backbone to the SHA-256 of the weights that were used first. Raises BadLock."""
    if not places.lock.is_file():
        return {}
    cure = "restore the file, or remove it to trust the weights that are here now"
    try:
        content = json.loads(places.lock.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadLock(f"{places.lock} is not JSON: {error}; {cure}") from error
    if not isinstance(content, dict) or not all(re.fullmatch("[0-9a-f]{64}", str(sha)) for sha in content.values()):
        raise BadLock(f"{places.lock} is not a map of backbones to SHA-256; {cure}")
    return content


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes; read once a process while the file stays as it is."""
    facts = path.stat()
    return _sha256(path.resolve(), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified_in_package(path: Path, weights: PackagedWeights) -> str:
    found = sha256_of(path)
    if found != weights.sha256:
        raise WeightsChanged(
            f"{path}: SHA-256 is {found}, expected {weights.sha256}; install the package {weights.package!r} again"
        )
    return found


def _verified_in_cache(path: Path) -> str:
    """The hub states the SHA-256 of a large file, and its client names the file in the cache by it."""
    found, stated = sha256_of(path), path.resolve().name
    if re.fullmatch("[0-9a-f]{64}", stated) and found != stated:
        raise WeightsChanged(
            f"{path}: SHA-256 is {found}, the hub states {stated}; remove {path.resolve()} and it is downloaded again"
        )
    return found


def _require_locked(backbone: Backbone, found: WeightsFile, places: WeightPlaces) -> None:
    before = locked(places).get(backbone.name, found.sha256)
    if before != found.sha256:
        raise WeightsChanged(
            f"backbone {backbone.name!r}: {found.path} has SHA-256 {found.sha256}, {places.lock} has {before} since its "
            "first use; restore that file, or remove the line from the lock to take this one from now on"
        )


def _lock(backbone: Backbone, found: WeightsFile, places: WeightPlaces) -> None:
    if backbone.name in locked(places):
        return
    from filelock import FileLock

    places.data.mkdir(parents=True, exist_ok=True)
    with FileLock(places.data / ".weights.lock"):
        content = {backbone.name: found.sha256, **locked(places)}
        beside = places.lock.with_suffix(f".{os.getpid()}.partial")
        beside.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        beside.replace(places.lock)
    # Whoever was first has decided.
    _require_locked(backbone, found, places)


def _downloaded(backbone: Backbone, hub: HubWeights, places: WeightPlaces, say: Say) -> Path:
    from huggingface_hub import hf_hub_download

    say(f"{backbone.name}: its weights ({hub.file} of {hub.repo}) are not on this machine; downloading them")
    try:
        return Path(hf_hub_download(hub.repo, hub.file))
    except OSError as error:  # what the hub's client raises offline, for refused access and for broken transfers
        raise WeightsMissing(
            f"backbone {backbone.name!r}: {hub.file} of {hub.repo} is not on this machine and cannot be downloaded "
            f"({_first_line(error)}); {_cures(backbone, places)}"
        ) from error


def _cures(backbone: Backbone, places: WeightPlaces) -> str:
    return f"put the file at {places.file_of(backbone)}, or name one with `weights: PATH` in the variant"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
