"""What `kestrel doctor` says of a machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from platform_assets.cli import main
from platform_assets.vision.machine import survey
from platform_assets.vision.machine.survey import EXTRAS, inspect_machine


def test_inspect_machine__names_every_choice_and_its_reason(tmp_path: Path) -> None:
    found = {finding.subject: finding for finding in inspect_machine(tmp_path / "data", "cpu")}
    assert found["device"].chosen == "cpu"
    assert int(found["loading threads"].chosen) >= 0
    assert "0: " in found["loading threads"].why
    assert 1 <= int(found["computing threads"].chosen) <= torch.get_num_threads()
    hardware = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    assert found["bfloat16"].chosen == ("in hardware" if hardware else "refused")
    assert found["embedding on a CPU"].chosen.endswith("torch")
    assert all(finding.why or "extra" in name for name, finding in found.items())


def test_inspect_machine__an_extra_that_is_missing_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXTRAS, "birds", "no-such-distribution")
    found = {finding.subject: finding for finding in inspect_machine(tmp_path, "cpu")}
    assert found["extra birds"].chosen == "not installed"
    assert "kestrel-vision[birds]" in found["extra birds"].why


def test_inspect_machine__a_full_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free_gb = shutil.disk_usage(tmp_path).free / 1e9
    monkeypatch.setattr(survey, "LOW_DISK_GB", free_gb * 2)
    found = {finding.subject: finding for finding in inspect_machine(tmp_path, "cpu")}
    assert (found["results"].state, found["system"].state) == ("problem", "good")


def test_doctor__prints_a_line_a_choice_and_fails_on_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KESTREL_DEVICE", "cpu")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "  device " in result.output
    assert "(asked for by name)" in result.output
    monkeypatch.setattr(survey, "LOW_DISK_GB", 1e9)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "! results" in result.output
