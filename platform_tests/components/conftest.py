"""Fixtures of the component tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from platform_tests.components.projects import Project, project, write_images


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_database: Path) -> Iterator[Project]:
    """A project of its own, nothing materialized."""
    _give(mlflow_database, tmp_path / "project")
    with project(tmp_path / "project", write_images(tmp_path / "images"), monkeypatch) as made:
        yield made


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Project]:
    """A project with everything materialized once, shared by the tests of a module that only look or repeat."""
    folder = tmp_path_factory.mktemp("finished")
    _give(mlflow_database, folder / "project")
    with (
        pytest.MonkeyPatch.context() as patch,
        project(folder / "project", write_images(folder / "images"), patch) as made,
    ):
        made.materialize("group:photos")
        made.materialize("group:photos_first", partitions=("cnn__s0", "probe__s1"))
        yield made


def _give(database: Path, project: Path) -> None:
    (project / "data/mlflow").mkdir(parents=True)
    shutil.copy(database, project / "data/mlflow/mlflow.db")
