"""Registered models in MLflow and the aliases that say which version serves. Whether one may is the gate's to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from platform_assets.stores.mlflow_server import MlflowServer

CHALLENGER = "challenger"
CHAMPION = "champion"
PREVIOUS_CHAMPION = "previous_champion"

_REPLACES = "replaces"  # tag of a version: the one that served before it


class UnknownVersion(ValueError):
    """A version that is not registered."""


class ChampionMoved(ValueError):
    """Another version serves than the one that the challenger was compared with."""


class RegisteredVersion(BaseModel):
    """One registered version and the run folder that holds its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int
    folder_url: str
    run_id: str
    tags: dict[str, str]


class Registry(MlflowServer):
    """MLflow writes one alias at a time, so what serves hangs on `champion` alone: whatever a crash leaves undone around
    that one write, readers of it see the old champion or the new one, and the next call puts the other aliases right."""

    def register(self, name: str, folder_url: str, run_id: str, tags: Mapping[str, str]) -> int:
        """Registers a run folder as the next version of a model; the same folder and run keep the version they have."""
        with self._locked(f"model {name}"):
            if self._model(name) is None:
                self._client.create_registered_model(name)
            for known in self._client.search_model_versions(f"name='{name}'"):
                if (known.source, known.run_id) == (folder_url, run_id):
                    self.tag(name, int(known.version), tags)
                    return int(known.version)
            created = self._client.create_model_version(name, source=folder_url, run_id=run_id, tags=dict(tags))
            return int(created.version)

    def tag(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        for tag, value in tags.items():
            self._client.set_model_version_tag(name, str(version), tag, value)

    def set_challenger(self, name: str, version: int) -> None:
        """Gives a version the alias `challenger`: it is under judgement. Raises UnknownVersion."""
        with self._locked(f"model {name}"):
            self._require_known(name, version)
            self._client.set_registered_model_alias(name, CHALLENGER, str(version))

    def withdraw_challenger(self, name: str) -> None:
        """Takes the alias `challenger` away: the judgement is over. Also ends what a crash left half done."""
        with self._locked(f"model {name}"):
            if CHALLENGER in self._aliases(name):
                self._client.delete_registered_model_alias(name, CHALLENGER)
            self._settle(name)

    def set_champion(self, name: str, version: int, *, instead_of: int | None) -> None:
        """Moves the alias `champion` to `version`; the one that had it becomes `previous_champion`.

        The order, and what a reader sees when the next step does not come: the tag `replaces` on the new version (no
        alias has moved); `previous_champion` (it names the old champion, which still serves); `champion` (the new one
        serves, and `challenger` names it too); `challenger` goes.

        Raises UnknownVersion, and ChampionMoved when neither `version` nor `instead_of` (None: no version) serves now.
        """
        with self._locked(f"model {name}"):
            self._require_known(name, version)
            current = self._aliases(name).get(CHAMPION)
            if current not in (version, instead_of):
                serves = "no version serves" if current is None else f"version {current} serves"
                raise ChampionMoved(f"{name}: {serves} now, and version {instead_of} was expected; judge again")
            if current is not None and current != version:
                self._client.set_model_version_tag(name, str(version), _REPLACES, str(current))
                self._client.set_registered_model_alias(name, PREVIOUS_CHAMPION, str(current))
            if current != version:
                self._client.set_registered_model_alias(name, CHAMPION, str(version))
            self._settle(name)

    def champion(self, name: str) -> RegisteredVersion | None:
        """The version in service, None before the first."""
        return self._version(name, self._aliases(name).get(CHAMPION))

    def challenger(self, name: str) -> RegisteredVersion | None:
        """The version under judgement, or held until a person approves it."""
        return self._version(name, self._aliases(name).get(CHALLENGER))

    def previous_champion(self, name: str) -> RegisteredVersion | None:
        """The version to go back to, None before the second."""
        champion = self.champion(name)
        if champion is None:
            return None
        replaced = champion.tags.get(_REPLACES) or self._aliases(name).get(PREVIOUS_CHAMPION)
        return None if replaced is None or int(replaced) == champion.version else self._version(name, int(replaced))

    def _settle(self, name: str) -> None:
        """The other aliases as they follow from `champion`."""
        aliases = self._aliases(name)
        champion = self._version(name, aliases.get(CHAMPION))
        if champion is None:
            return
        replaced = champion.tags.get(_REPLACES)
        if replaced is not None and aliases.get(PREVIOUS_CHAMPION) != int(replaced):
            self._client.set_registered_model_alias(name, PREVIOUS_CHAMPION, replaced)
        if aliases.get(CHALLENGER) == champion.version:
            self._client.delete_registered_model_alias(name, CHALLENGER)

    def _require_known(self, name: str, version: int) -> None:
        known = sorted(int(found.version) for found in self._client.search_model_versions(f"name='{name}'"))
        if version not in known:
            raise UnknownVersion(f"{name}: version {version} is not registered, only {known}; register it first")

    def _aliases(self, name: str) -> dict[str, int]:
        model = self._model(name)
        return {alias: int(version) for alias, version in model.aliases.items()} if model else {}

    def _version(self, name: str, version: int | None) -> RegisteredVersion | None:
        if version is None:
            return None
        found = self._client.get_model_version(name, str(version))
        return RegisteredVersion(
            name=name, version=version, folder_url=found.source, run_id=found.run_id, tags=dict(found.tags)
        )

    def _model(self, name: str) -> Any:
        found = self._client.search_registered_models(f"name='{name}'")
        return found[0] if found else None
