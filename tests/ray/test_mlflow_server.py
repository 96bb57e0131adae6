"""The tracking server of ``infra/compose.yaml`` on loopback: its command line with PostgreSQL and an S3 bucket.

The server stores artifacts in the bucket; the client does not have the keys.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from jobs.runs.folder import METRICS, RunFolder
from jobs.runs.progress import Silent
from jobs.runs.session import train_run
from jobs.runs.tracking import open_client, sync_run
from tests.ray.services import ROOT, free_port, has_postgresql, http_status, postgresql, s3_server, service
from tests.unit.infra.compose_model import read_compose
from tests.unit.jobs.helpers import tiny_config, tiny_shards

pytestmark = pytest.mark.ray

AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")


@dataclass(frozen=True)
class Stack:
    """A tracking server with its database and object store; ``start`` runs it."""

    address: str
    start: Callable[[], AbstractContextManager]
    object_store: dict[str, str]

    def objects(self) -> dict[str, int]:
        """Key -> size in bytes of the objects in the artifact bucket, read without the tracking server."""
        key, secret, endpoint, region = (self.object_store[name] for name in AWS)
        client = boto3.client(
            "s3", endpoint_url=endpoint, region_name=region, aws_access_key_id=key, aws_secret_access_key=secret
        )
        return {item["Key"]: item["Size"] for item in client.list_objects_v2(Bucket="mlflow").get("Contents", [])}


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Iterator[str]:
    if has_postgresql():
        with postgresql() as address:
            yield address
    else:
        warnings.warn("PostgreSQL is not installed: the tracking server is tested on SQLite", stacklevel=1)
        yield f"sqlite:///{tmp_path_factory.mktemp('database') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def stack(database) -> Iterator[Stack]:
    """The ``mlflow`` service of the Compose file with addresses on this machine."""
    secrets = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "RAY_AUTH_TOKEN")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    changed = {
        "--host=0.0.0.0": "--host=127.0.0.1",
        "--port=5000": f"--port={port}",
        "--workers=2": "--workers=1",
        "--backend-store-uri": f"--backend-store-uri={database}",
    }
    composed = read_compose(dict.fromkeys(secrets, "unused")).services["mlflow"]
    words = []
    for word in composed.words:
        replaced = changed.get(word) or changed.get(word.split("=")[0], word)
        words.append(replaced.replace(":5000", f":{port}"))
    command = [sys.executable, "-m", *words]
    with s3_server() as object_store, pytest.MonkeyPatch.context() as patch:
        for name in (*AWS, "AWS_PROFILE", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        script = [sys.executable, str(ROOT / "infra" / "create_buckets.py"), "mlflow"]
        subprocess.run(script, env={**os.environ, **object_store}, check=True, timeout=120)

        def start() -> AbstractContextManager:
            is_ready = lambda: http_status(f"{address}/health") == 200  # noqa: E731
            settings = {name: value for name, value in composed.environment.items() if name.startswith("MLFLOW_SERVER")}
            return service(command, {**settings, **object_store}, is_ready=is_ready, what="the MLflow server")

        yield Stack(address=address, start=start, object_store=object_store)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return tiny_shards(tmp_path_factory.mktemp("tracked") / "shards")


def train(shards: str, output: Path, stack: Stack, **overrides) -> RunFolder:
    config = tiny_config(shards, **overrides)
    result = train_run(config, output=str(output), device="cpu", tracking=stack.address, reporter=Silent())
    return RunFolder(result.run)


def assert_complete(stack: Stack, folder: RunFolder, tmp_path: Path) -> None:
    """Check that the server has all parameters and metric values of the run folder, and all artifacts byte for byte."""
    client = open_client(stack.address)
    facts = folder.read_json("run.json")
    experiment = client.get_experiment_by_name(facts["experiment"])
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`stgcma.run_id` = '{facts['run_id']}'")
    assert run.info.status == "FINISHED"
    assert run.data.params == {key: str(value) for key, value in facts["config"].items()}
    assert run.data.tags["stgcma.data_digest"] == facts["data"]["digest"]
    assert run.inputs.dataset_inputs[0].dataset.digest == facts["data"]["digest"][:32]

    recorded = {(key, row["step"]): value for row in folder.rows() for key, value in row["metrics"].items()}
    stored = {
        (key, point.step): point.value
        for key in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, key)
    }
    assert recorded.items() <= stored.items()
    assert {key for key, _ in stored.keys() - recorded.keys()} == set(facts["parameter_metrics"])

    assert run.info.artifact_uri.startswith("mlflow-artifacts:"), "clients must use the server, not the bucket"
    downloaded = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
    names = sorted(path.relative_to(downloaded).as_posix() for path in downloaded.rglob("*") if path.is_file())
    assert {"config.yaml", "result.json", "checkpoints/best.safetensors", "evaluation/test/confusion.png"} <= set(names)
    for name in names:
        assert (downloaded / name).read_bytes() == folder.read(name)
    below = f"artifacts/{experiment.experiment_id}/{run.info.run_id}/artifacts/"
    assert sorted(key.removeprefix(below) for key in stack.objects() if key.startswith(below)) == names


def assert_hosts(stack: Stack) -> None:
    """Check that the server answers to its service name and to loopback, but not to another name."""
    port = stack.address.rpartition(":")[2]
    for host, status in ((f"mlflow:{port}", 200), (f"127.0.0.1:{port}", 200), ("elsewhere.example", 403)):
        path = "api/2.0/mlflow/experiments/get?experiment_id=0"
        assert http_status(f"{stack.address}/{path}", {"Host": host}) == status, host


@pytest.mark.timeout(1500)  # the server starts twice, each time with half a minute of imports on a busy machine
def test_a_run_is_sent_during_training_and_one_that_missed_the_server_is_sent_later(stack, shards, tmp_path):
    with stack.start():
        folder = train(shards, tmp_path / "runs", stack)
        assert_complete(stack, folder, tmp_path / "first")
        again = sync_run(folder, stack.address)
        assert (again.num_metrics, again.num_artifacts) == (0, 0)
        assert_hosts(stack)

    assert http_status(f"{stack.address}/health") is None, "the server is stopped"
    missed = train(shards, tmp_path / "runs", stack, optim__seed=1)
    assert missed.exists(METRICS)

    with stack.start():
        report = sync_run(missed, stack.address)
        assert report.num_metrics > 10
        assert_complete(stack, missed, tmp_path / "second")
