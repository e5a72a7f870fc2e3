"""Fixtures for tests of every folder."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from platform_assets.stores.runs import Runs
from platform_tests.s3_server import S3Server, s3_server

# Workers that each use all cores wait for each other: with one thread each all tests take a tenth less time (2026-11).
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# An example that takes long on a busy machine has not failed; a test that hangs is ended by pytest-timeout.
settings.register_profile("kestrel", deadline=None)
settings.load_profile("kestrel")

# A shell lets what it starts in the background ignore SIGINT; dagster gives SIGTERM the same handler, and the tests send both.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes seconds, so projects start with a copy."""
    # The parent is shared by the workers of one run: whoever comes first makes it, under the lock of `prepare`.
    alone = tmp_path_factory.getbasetemp()
    path = (alone.parent if "PYTEST_XDIST_WORKER" in os.environ else alone) / "mlflow" / "mlflow.db"
    path.parent.mkdir(exist_ok=True)
    Runs(f"sqlite:///{path}", artifact_root=None).prepare()
    return path


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for all tests of a process; each test makes a bucket of its own name."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server
