"""The connection to one MLflow tracking server or SQLite file, and the locks that make steps of several calls one."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from platform_assets.stores.mlflow_database import create_database, load_mlflow, migrate_database

if TYPE_CHECKING:
    from mlflow import MlflowClient


class MlflowServer:
    """Safe between processes of one machine; needs no active run."""

    def __init__(self, tracking_uri: str, artifact_root: str | None, ui_url: str = "http://127.0.0.1:5000") -> None:
        self.tracking_uri = tracking_uri
        self.artifact_root = artifact_root
        self.ui_url = tracking_uri if tracking_uri.startswith("http") else ui_url

    def prepare(self) -> None:
        """Creates or migrates the SQLite file, once however many processes ask; other servers are their owner's."""
        if self._database is None:
            return
        with self._locked("prepare"):
            prepare = migrate_database if self._database.exists() else create_database
            prepare(self._database)

    @cached_property
    def _client(self) -> MlflowClient:
        self.prepare()
        return load_mlflow().MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)

    @property
    def _database(self) -> Path | None:
        path = self.tracking_uri.removeprefix("sqlite:///")
        return None if path == self.tracking_uri else Path(path).absolute()

    @contextmanager
    def _locked(self, what: str) -> Iterator[None]:
        # MLflow searches and creates in two steps; without the lock two processes create the same thing twice.
        folder = self._database.parent if self._database else Path(tempfile.gettempdir())
        name = hashlib.sha256(f"{self.tracking_uri} {what}".encode()).hexdigest()[:32]
        (folder / "kestrel-locks").mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "kestrel-locks" / f"{name}.lock"):
            yield
