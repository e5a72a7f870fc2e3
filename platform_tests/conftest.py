"""Fixtures for tests of every folder."""

from pathlib import Path

import pytest

from platform_assets.stores.runs import Runs


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes seconds, so projects start with a copy."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Runs(f"sqlite:///{path}", artifact_root=None).prepare()
    return path
