"""Registered models: which version serves, and what readers see wherever the process that moves the aliases dies."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from platform_assets.stores.mlflow_database import load_mlflow
from platform_assets.stores.registry import ChampionMoved, RegisteredVersion, Registry, UnknownVersion

CRASHES = ("set_model_version_tag", "previous_champion", "champion", "delete_registered_model_alias")
"""The writes of one promotion, in their order."""


@pytest.fixture
def registry(mlflow_database: Path, tmp_path: Path) -> Registry:
    shutil.copy2(mlflow_database, tmp_path / "mlflow.db")
    return Registry(f"sqlite:///{tmp_path}/mlflow.db", None)


def versions(registry: Registry, *names: str) -> list[int]:
    return [registry.register("m", f"/outputs/{name}", "r" * 32, {"checkpoint_id": name}) for name in names]


def number(version: RegisteredVersion | None) -> int | None:
    return version and version.version


def aliases(registry: Registry) -> dict[str, int]:
    """As MLflow's own readers see them."""
    model = load_mlflow().MlflowClient(registry.tracking_uri).get_registered_model("m")
    return {alias: int(version) for alias, version in model.aliases.items()}


def test_register__same_folder_keeps_its_version(registry: Registry) -> None:
    run_id = "r" * 32
    first = registry.register("elpv.binary", "s3://outputs/a", run_id, {"config_hash": "c"})
    assert registry.register("elpv.binary", "s3://outputs/a", run_id, {"reason": "best val"}) == first
    assert registry.register("elpv.binary", "s3://outputs/b", run_id, {}) == first + 1
    registry.set_champion("elpv.binary", first, instead_of=None)
    champion = registry.champion("elpv.binary")
    assert champion is not None
    assert champion.tags == {"config_hash": "c", "reason": "best val"}
    assert (champion.folder_url, champion.run_id, champion.version) == ("s3://outputs/a", run_id, first)


def test_champion__none_for_an_unknown_model(registry: Registry) -> None:
    assert registry.champion("nothing") is None
    assert registry.previous_champion("nothing") is None
    with pytest.raises(UnknownVersion, match="register it first"):
        registry.set_champion("nothing", 1, instead_of=None)


def test_set_champion__the_one_before_stays_as_previous(registry: Registry) -> None:
    first, second = versions(registry, "a", "b")
    assert registry.champion("m") is None
    registry.set_champion("m", first, instead_of=None)
    assert registry.previous_champion("m") is None
    for _ in range(2):  # a retry must not make the champion its own predecessor
        registry.set_champion("m", second, instead_of=first)
    assert (number(registry.champion("m")), number(registry.previous_champion("m"))) == (second, first)
    registry.set_champion("m", first, instead_of=second)
    assert aliases(registry) == {"champion": first, "previous_champion": second}
    assert number(registry.previous_champion("m")) == second


def test_set_champion__unknown_version_is_refused_and_changes_nothing(registry: Registry) -> None:
    (first,) = versions(registry, "a")
    registry.set_champion("m", first, instead_of=None)
    with pytest.raises(UnknownVersion, match=r"version 7 is not registered, only \[1\]"):
        registry.set_champion("m", 7, instead_of=first)
    assert aliases(registry) == {"champion": first}


def test_set_champion__a_challenger_of_another_incumbent_is_refused(registry: Registry) -> None:
    """Somebody rolled back while the challenger was judged: it was compared with a model that serves no more."""
    first, second, third = versions(registry, "a", "b", "c")
    with pytest.raises(ChampionMoved, match="no version serves now, and version 1 was expected; judge again"):
        registry.set_champion("m", second, instead_of=first)
    registry.set_champion("m", first, instead_of=None)
    with pytest.raises(ChampionMoved, match="version 1 serves now, and version 2 was expected"):
        registry.set_champion("m", third, instead_of=second)
    with pytest.raises(ChampionMoved, match="version 1 serves now, and version None was expected"):
        registry.set_champion("m", third, instead_of=None)
    assert aliases(registry) == {"champion": first}


def test_challenger__is_under_judgement_until_it_serves_or_is_withdrawn(registry: Registry) -> None:
    first, second = versions(registry, "a", "b")
    registry.set_challenger("m", first)
    assert number(registry.challenger("m")) == first
    registry.set_champion("m", first, instead_of=None)
    assert aliases(registry) == {"champion": first}
    registry.set_challenger("m", second)
    registry.withdraw_challenger("m")
    registry.withdraw_challenger("m")
    assert aliases(registry) == {"champion": first}


def serving(registry: Registry) -> list[int]:
    """Version 2 serves, 1 served before it, 3 is under judgement."""
    made = versions(registry, "a", "b", "c")
    registry.set_champion("m", made[0], instead_of=None)
    registry.set_champion("m", made[1], instead_of=made[0])
    registry.set_challenger("m", made[2])
    return made


SEEN = {
    "set_model_version_tag": {"champion": 2, "previous_champion": 1, "challenger": 3},
    "previous_champion": {"champion": 2, "previous_champion": 1, "challenger": 3},
    "champion": {"champion": 2, "previous_champion": 2, "challenger": 3},
    "delete_registered_model_alias": {"champion": 3, "previous_champion": 2, "challenger": 3},
}


@pytest.mark.parametrize("at", CRASHES)
def test_set_champion__dies_at_any_write_and_one_whole_model_serves(
    registry: Registry, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(registry)
    with monkeypatch.context() as patch:
        die_before(patch, at)
        with pytest.raises(KeyboardInterrupt):
            registry.set_champion("m", 3, instead_of=2)
    assert aliases(registry) == SEEN[at]
    before = {2: 1, 3: 2}[SEEN[at]["champion"]]
    assert number(registry.previous_champion("m")) == before, "the way back leads to what served before"
    registry.set_champion("m", 3, instead_of=2)
    assert aliases(registry) == {"champion": 3, "previous_champion": 2}
    assert number(registry.previous_champion("m")) == 2


@pytest.mark.parametrize("at", ["champion", "delete_registered_model_alias"])
def test_withdraw_challenger__puts_right_what_a_crash_left(
    registry: Registry, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next judgement need not be of the same challenger."""
    serving(registry)
    with monkeypatch.context() as patch:
        die_before(patch, at)
        with pytest.raises(KeyboardInterrupt):
            registry.set_champion("m", 3, instead_of=2)
    registry.withdraw_challenger("m")
    after = SEEN[at]["champion"]
    assert aliases(registry) == {"champion": after, "previous_champion": after - 1}


def die_before(patch: pytest.MonkeyPatch, write: str) -> None:
    """MLflow's client ends the process, as Ctrl-C does, in place of this write: of a method, or of an alias."""
    client = load_mlflow().MlflowClient
    method = write if hasattr(client, write) else "set_registered_model_alias"
    plain = getattr(client, method)

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        if method == write or write in arguments:
            raise KeyboardInterrupt
        return plain(self, *arguments, **named)

    patch.setattr(client, method, call)


def test_set_champion__killed_between_the_aliases_the_old_champion_serves(registry: Registry) -> None:
    serving(registry)
    client = load_mlflow().MlflowClient
    plain = client.set_registered_model_alias

    def set_alias(self: Any, name: str, alias: str, version: str) -> None:
        if alias == "champion":
            os.kill(os.getpid(), signal.SIGKILL)
        plain(self, name, alias, version)

    def child() -> None:
        client.set_registered_model_alias = set_alias
        Registry(registry.tracking_uri, None).set_champion("m", 3, instead_of=2)

    killed = multiprocessing.get_context("fork").Process(target=child)
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert aliases(registry) == SEEN["champion"]
    registry.set_champion("m", 3, instead_of=2)
    assert aliases(registry) == {"champion": 3, "previous_champion": 2}
