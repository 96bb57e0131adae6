"""MLflow stores for the tests of whole runs and sweeps."""

from __future__ import annotations

import shutil

import pytest

from jobs.runs.tracking import SQLITE, open_client


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A migrated SQLite file; creating one takes seconds, copying it none."""
    database = tmp_path_factory.mktemp("template") / "mlflow.db"
    open_client(f"{SQLITE}{database}")
    return database


@pytest.fixture
def store(empty_store, tmp_path):
    """Address of an empty store."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"{SQLITE}{tmp_path / 'mlflow.db'}"
