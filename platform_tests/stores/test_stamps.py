"""Environment stamps: every one fits the schema, the hash is of the environment alone, an edited one is caught."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from platform_assets.stores import stamps
from platform_assets.stores.stamps import (
    InvalidStamp,
    check_stamp,
    environment_facts,
    environment_stamp,
    git_commit,
    requirements_checksum,
    stamp_schema,
)

# The list in the design, in its order.
FIELDS = """run_id config_hash git_commit os_version python_version torch_version torchvision_version timm_version
driver_version cuda_version cudnn_version gpu_name gpu_count fp16 seed requirements_checksum env_hash
tiny_train_subset_path tiny_infer_subset_path""".split()  # noqa: SIM905


def stamp(repository: Path, **changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "run_id": "0b7c",
        "config_hash": "c" * 64,
        "seed": 0,
        "device": "cpu",
        "fp16": False,
        "tiny_train_subset_path": None,
        "tiny_infer_subset_path": "data/tiny/elpv",
        "repository": repository,
    }
    return environment_stamp(**{**plain, **changes})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "train.py").write_text("1")
    (tmp_path / ".gitignore").write_text("data/\n")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-m", "first")
    return tmp_path


def test_stamp_schema__is_a_schema_and_requires_exactly_the_fields_of_the_design() -> None:
    Draft202012Validator.check_schema(stamp_schema())
    assert stamp_schema()["required"] == FIELDS
    assert list(stamp_schema()["properties"]) == FIELDS
    assert stamp_schema()["additionalProperties"] is False


def test_environment_stamp__has_every_field_and_fits(tmp_path: Path) -> None:
    found = stamp(tmp_path)
    assert set(found) == set(FIELDS)
    check_stamp(found)


def test_environment_stamp__nothing_of_a_gpu_on_a_cpu(tmp_path: Path) -> None:
    found = stamp(tmp_path)
    assert found["gpu_count"] == 0
    assert {found[name] for name in ("driver_version", "cuda_version", "cudnn_version", "gpu_name")} == {None}


def test_environment_stamp__env_hash_ignores_the_run_and_sees_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stamp(tmp_path)
    assert stamp(tmp_path, run_id="other", seed=7, config_hash="d" * 64, fp16=True)["env_hash"] == first["env_hash"]
    monkeypatch.setattr(stamps.platform, "platform", lambda: "Linux-7.0-riscv64")
    assert stamp(tmp_path)["env_hash"] != first["env_hash"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"config_hash": "abc"}, "config_hash"),
        ({"seed": -1}, "seed"),
        ({"run_id": ""}, "run_id"),
        ({"fp16": 1}, "fp16"),
    ],
)
def test_environment_stamp__ill_formed_value_is_named(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidStamp, match=rf"\$\.{field}: "):
        stamp(tmp_path, **changes)


def test_check_stamp__missing_and_unknown_fields_are_named(tmp_path: Path) -> None:
    found = stamp(tmp_path)
    with pytest.raises(InvalidStamp, match="'hostname' was unexpected"):
        check_stamp({**found, "hostname": "build-7"})
    del found["timm_version"]
    with pytest.raises(InvalidStamp, match="'timm_version' is a required property"):
        check_stamp(found)


@pytest.mark.parametrize("field", ["os_version", "torch_version", "gpu_count", "requirements_checksum"])
def test_check_stamp__edited_fact_is_caught(tmp_path: Path, field: str) -> None:
    edited = {"os_version": "Plan 9", "torch_version": "3.0", "gpu_count": 8, "requirements_checksum": "0" * 64}
    with pytest.raises(InvalidStamp, match="env_hash"):
        check_stamp({**stamp(tmp_path), field: edited[field]})


def test_environment_facts__are_what_the_hash_covers() -> None:
    assert set(environment_facts("cpu")) == set(stamps.HASHED_FIELDS)


def test_requirements_checksum__is_stable() -> None:
    assert requirements_checksum() == requirements_checksum()


def test_requirements_checksum__sees_another_installed_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = requirements_checksum()
    monkeypatch.syspath_prepend(tmp_path)
    checksums = []
    for version in ("1.0", "1.1"):
        info = tmp_path / "plumage-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: Plumage\nVersion: {version}\n")
        checksums.append(requirements_checksum())
    assert len({before, *checksums}) == 3


def test_git_commit__clean_dirty_and_untracked(repository: Path) -> None:
    head = git_commit(repository)
    assert head is not None
    assert len(head) == 40
    (repository / "data").mkdir()
    (repository / "data" / "ignored").write_text("x")
    assert git_commit(repository) == head
    (repository / "new.yaml").write_text("x")
    assert git_commit(repository) == f"{head}-dirty"
    (repository / "new.yaml").unlink()
    (repository / "train.py").write_text("2")
    assert git_commit(repository) == f"{head}-dirty"


def test_git_commit__none_outside_of_git_and_before_the_first_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    assert git_commit(tmp_path / "missing") is None
    subprocess.run(["git", "init", str(tmp_path)], check=True, capture_output=True)
    assert git_commit(tmp_path) is None


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024", "550.54.14"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22)",
            "580.95.05",
        ),
        ("NVRM version: unknown", None),
    ],
)
def test_nvidia_driver__both_forms_of_the_proc_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, version: str | None
) -> None:
    (tmp_path / "version").write_text(f"{line}\nGCC version:  gcc version 12.3.0\n")
    monkeypatch.setattr(stamps, "_NVIDIA_DRIVER", tmp_path / "version")
    assert stamps._nvidia_driver() == version
