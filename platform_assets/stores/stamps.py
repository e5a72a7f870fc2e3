"""The environment a run took place in, as the env.json beside its weights."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from platform_assets.vision.machine.devices import Device

_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
# The fields of env.json that describe the environment alone: env_hash covers these.
HASHED_FIELDS = (
    "os_version",
    "python_version",
    "torch_version",
    "torchvision_version",
    "timm_version",
    "driver_version",
    "cuda_version",
    "cudnn_version",
    "gpu_name",
    "gpu_count",
    "requirements_checksum",
)


class InvalidStamp(ValueError):
    """An env.json that does not fit env.schema.json or whose hash is not that of its facts."""


def environment_stamp(
    *,
    run_id: str,
    config_hash: str,
    seed: int,
    device: Device,
    fp16: bool,
    tiny_train_subset_path: str | None,
    tiny_infer_subset_path: str | None,
    repository: Path,
) -> dict[str, Any]:
    """The content of env.json; its fields are described in env.schema.json. Raises InvalidStamp on an ill-formed value.

    `env_hash` covers the environment alone, so two runs of other seeds or configs in one environment share it.
    """
    facts = environment_facts(device)
    stamp = {
        "run_id": run_id,
        "config_hash": config_hash,
        "git_commit": git_commit(repository),
        **facts,
        "fp16": fp16,
        "seed": seed,
        "env_hash": _hash(facts),
        "tiny_train_subset_path": tiny_train_subset_path,
        "tiny_infer_subset_path": tiny_infer_subset_path,
    }
    check_stamp(stamp)
    return stamp


def check_stamp(stamp: dict[str, Any]) -> None:
    """Raises InvalidStamp naming every field that does not fit the schema, or an env_hash of other facts."""
    from jsonschema import Draft202012Validator

    errors = sorted(Draft202012Validator(stamp_schema()).iter_errors(stamp), key=lambda error: error.json_path)
    if errors:
        problems = "; ".join(f"{error.json_path}: {error.message}" for error in errors)
        raise InvalidStamp(f"env.json: {problems}; write it with environment_stamp")
    facts = {name: stamp[name] for name in HASHED_FIELDS}
    if stamp["env_hash"] != _hash(facts):
        raise InvalidStamp(f"env.json: env_hash {stamp['env_hash'][:16]} is not of its facts; the file was edited")


def stamp_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of env.json."""
    text = resources.files("platform_assets.stores").joinpath("env.schema.json").read_text()
    schema: dict[str, Any] = json.loads(text)
    return schema


def environment_facts(device: Device) -> dict[str, Any]:
    """Versions and hardware under a run on `device`; what that device does not use (CUDA on a CPU) is null."""
    return {
        "os_version": platform.platform(),
        "python_version": platform.python_version(),
        "torch_version": metadata.version("torch"),
        "torchvision_version": metadata.version("torchvision"),
        "timm_version": metadata.version("timm"),
        **_accelerator(device),
        "requirements_checksum": requirements_checksum(),
    }


def requirements_checksum() -> str:
    """SHA-256 of the sorted lines `name==version` of what is installed: that runs, whatever a lock file says."""
    names = {(re.sub(r"[-_.]+", "-", found.name).lower(), found.version) for found in metadata.distributions()}
    return hashlib.sha256("".join(f"{name}=={version}\n" for name, version in sorted(names)).encode()).hexdigest()


def git_commit(repository: Path) -> str | None:
    """HEAD, with `-dirty` when a file differs from it or is untracked and not ignored; None outside of git."""
    head = _git(repository, "rev-parse", "--verify", "HEAD")
    if not head:
        return None
    return f"{head}-dirty" if _git(repository, "status", "--porcelain") else head


def _git(repository: Path, *arguments: str) -> str | None:
    # Without optional locks, `status` in parallel steps and beside the user's own git commands disturbs nobody.
    command = ["git", "--no-optional-locks", "-C", str(repository), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def _accelerator(device: Device) -> dict[str, Any]:
    unused: dict[str, Any] = dict.fromkeys(["driver_version", "cuda_version", "cudnn_version", "gpu_name"])
    match device:
        case "cuda":
            return _nvidia()
        case "mps":
            return {**unused, "gpu_name": _apple_chip(), "gpu_count": 1}
        case "cpu":
            return {**unused, "gpu_count": 0}


def _nvidia() -> dict[str, Any]:
    import torch

    return {
        "driver_version": _nvidia_driver(),
        "cuda_version": torch.version.cuda,
        "cudnn_version": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "gpu_name": torch.cuda.get_device_name(),
        "gpu_count": torch.cuda.device_count(),
    }


def _nvidia_driver() -> str | None:
    """The kernel driver's version from its /proc file, such as `580.95.05`."""
    if not _NVIDIA_DRIVER.exists():
        return None
    found = re.search(r"Kernel Module(?: for \S+)?\s+([0-9]+(?:\.[0-9]+)+)", _NVIDIA_DRIVER.read_text())
    return found[1] if found else None


def _apple_chip() -> str:
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _hash(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
