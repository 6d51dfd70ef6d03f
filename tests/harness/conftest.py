"""Fixtures of the service's tests."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Benchmarks of this process write no report at their end: it takes seconds."""
    monkeypatch.setattr("harness.pipeline.ending.write_report", lambda *_: False)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A fresh MLflow database, which takes seconds to make, to be copied."""
    from harness.tracking.store import client_of

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    client_of(f"sqlite:///{path}").get_experiment_by_name("none")
    return path


@pytest.fixture
def uri(empty_store, tmp_path) -> str:
    """Address of an empty store in the test's folder."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
