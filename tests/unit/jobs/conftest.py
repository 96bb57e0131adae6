"""MLflow stores for the tests of whole runs and sweeps."""

from __future__ import annotations

import shutil

import pytest

from jobs.runs.tracking import SQLITE, open_client


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An empty MLflow database. Creating one takes seconds, so it is created once and copied."""
    database = tmp_path_factory.mktemp("template") / "mlflow.db"
    open_client(f"{SQLITE}{database}")
    return database


@pytest.fixture
def store(empty_store, tmp_path):
    """Tracking URI of an empty store."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"{SQLITE}{tmp_path / 'mlflow.db'}"
