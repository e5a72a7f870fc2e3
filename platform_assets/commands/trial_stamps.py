"""The stamp of a trial: what made it and which bytes came out, from its own folder, and the excerpt that others cite."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from platform_assets.stores.manifests import WEIGHTS_NAME

if TYPE_CHECKING:
    from platform_assets.stores.manifests import Manifest
    from platform_assets.stores.outputs import OutputFolder
    from platform_assets.vision.recipes.resolving import ResolvedTrial


@dataclass(frozen=True)
class TrialStamp:
    """`scores` are those of test, empty before the trial was evaluated; `problems` what is wrong with the files."""

    folder_url: str
    trial: ResolvedTrial
    environment: dict[str, Any]
    records_version: str
    device: str
    manifest: Manifest
    manifest_sha256: str
    scores: dict[str, float]
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.trial.dataset}/{self.trial.experiment}/{self.trial.trial}"


def read_stamp(folder: OutputFolder, *, verify: bool = True) -> TrialStamp:
    """Every file is read and compared with the manifest, unless told not to. Raises IncompleteOutput, DamagedOutput."""
    from platform_assets.vision.recipes.resolving import ResolvedTrial

    manifest = folder.manifest()
    fit = json.loads(folder.path("fit.json").read_bytes())
    metrics = json.loads(folder.path("metrics.json").read_bytes())["test"] if "metrics.json" in manifest.files else {}
    environment = json.loads(folder.path("env.json").read_bytes())
    problems = [*(folder.verify() if verify else []), *_faults(environment)]
    return TrialStamp(
        folder_url=folder.url,
        trial=ResolvedTrial.model_validate_json(folder.path("config.json").read_bytes()),
        environment=environment,
        records_version=fit["records_version"],
        device=fit["device"],
        manifest=manifest,
        manifest_sha256=hashlib.sha256(manifest.to_json().encode()).hexdigest(),
        scores={name: metrics[name] for name in ("top1", "macro_f1", "images", "units") if name in metrics},
        problems=tuple(problems),
    )


def _faults(environment: dict[str, Any]) -> list[str]:
    from platform_assets.stores.stamps import InvalidStamp, check_stamp

    try:
        check_stamp(environment)
    except InvalidStamp as error:
        return [str(error)]
    return []


def excerpt(stamp: TrialStamp) -> str:
    """The few lines of Markdown that a pull request cites."""
    env, trial, manifest = stamp.environment, stamp.trial, stamp.manifest
    scores = f", test top-1 {stamp.scores['top1']:.4f}, macro-F1 {stamp.scores['macro_f1']:.4f}" if stamp.scores else ""
    versions = ", ".join(f"{name} {env[f'{name}_version']}" for name in ("python", "torch", "torchvision", "timm"))
    machine = f"{env['gpu_count']} x {env['gpu_name']}" if env["gpu_name"] else stamp.device
    lines = [
        f"**`{stamp.name}`**, checkpoint `{manifest.checkpoint_id}`{scores}",
        "",
        f"- config `{manifest.config_hash[:16]}`, data `{stamp.records_version}`, seed {trial.seed}, "
        f"commit `{(env['git_commit'] or 'none')[:16]}{'-dirty' if str(env['git_commit']).endswith('-dirty') else ''}`",
        f"- {versions}; {env['os_version']}; {machine}; packages `{env['requirements_checksum'][:16]}`",
        f"- weights `{manifest.files[WEIGHTS_NAME].sha256}`, manifest `{stamp.manifest_sha256[:16]}`",
        f"- again: `kestrel replay {manifest.checkpoint_id}`",
    ]
    return "\n".join([*lines, *(f"- **damaged**: {problem}" for problem in stamp.problems)])


def as_json(stamp: TrialStamp) -> dict[str, Any]:
    """Everything of a stamp as plain values."""
    return {
        "trial": stamp.name,
        "folder": stamp.folder_url,
        "checkpoint_id": stamp.manifest.checkpoint_id,
        "config_hash": stamp.manifest.config_hash,
        "data_version": stamp.records_version,
        "device": stamp.device,
        "environment": stamp.environment,
        "config": stamp.trial.model_dump(mode="json"),
        "test": stamp.scores,
        "files": stamp.manifest.model_dump()["files"],
        "manifest_sha256": stamp.manifest_sha256,
        "problems": list(stamp.problems),
    }
