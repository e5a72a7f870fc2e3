"""What the environment says of threads."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from platform_assets.resources import resources
from platform_assets.settings import Settings


@pytest.mark.parametrize(
    ("named", "threads"),
    [
        ({}, 0),
        ({"OMP_NUM_THREADS": "4"}, 4),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OMP_NUM_THREADS": "many"}, 0),
        ({"OMP_NUM_THREADS": "4", "KESTREL_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "4", "KESTREL_THREADS": "0"}, 0),
    ],
)
def test_settings__threads_of_kestrel_before_those_of_openmp(
    monkeypatch: pytest.MonkeyPatch, named: dict[str, str], threads: int
) -> None:
    for name in ("OMP_NUM_THREADS", "KESTREL_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    assert Settings().threads == resources(Settings())["compute"].threads == threads


def test_settings__threads_are_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KESTREL_THREADS", "-1")
    with pytest.raises(ValidationError, match="threads"):
        Settings()
