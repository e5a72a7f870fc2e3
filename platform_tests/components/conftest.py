"""Fixtures of the component tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from platform_tests.components.projects import Project, give_database, lasting_project, project, write_images
from platform_tests.components.scenes import write_scenes


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_database: Path) -> Iterator[Project]:
    """A project of its own, nothing materialized."""
    give_database(tmp_path / "project", mlflow_database)
    with project(tmp_path / "project", write_images(tmp_path / "images"), monkeypatch) as made:
        yield made


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Project]:
    """A project with everything materialized once, shared by the tests of a module that only look or repeat."""
    folder = tmp_path_factory.mktemp("finished")
    with lasting_project(folder, write_images(folder / "images"), mlflow_database) as made:
        made.materialize("group:photos")
        made.materialize("group:photos_first", partitions=("cnn__s0", "probe__s1"))
        yield made


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """24 pictures, nothing materialized; no tracking server, so that only the dataset can be made."""
    images = write_scenes(tmp_path / "images")
    with project(tmp_path / "project", images, monkeypatch) as made:
        yield made
