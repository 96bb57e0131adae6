"""The copy of a run in MLflow: complete, without duplicates, sent later if the server was down."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from jobs.runs import tracking
from jobs.runs.folder import FAILURE, METRICS, RESULT, TRACKING, RunFolder
from jobs.runs.progress import Silent
from jobs.runs.session import train_run
from jobs.runs.tracking import (
    SQLITE,
    Forwarder,
    TrackedRun,
    TrackingUnavailableError,
    default_tracking_uri,
    open_client,
    sync_run,
    tracked_runs,
)
from stgcma.errors import ConfigError
from tests.unit.jobs.helpers import tiny_config, tiny_shards

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete run that was trained without MLflow."""
    root = tmp_path_factory.mktemp("untracked")
    config = tiny_config(tiny_shards(root / "shards"), optim__average_epochs=[1, 2])
    options = {
        "tracking": "none",
        "device": "cpu",
        "reporter": Silent(),
        "tags": {"mlflow.parentRunId": "f" * 32, "stgcma.row": "x"},
    }
    options["constants"] = {"paper/test/accuracy": 0.833, "sweep/row": 2.0}
    return RunFolder(train_run(config, output=str(root / "runs"), **options).run)


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished.uri, tmp_path / "run")
    return RunFolder(str(tmp_path / "run"))


def logged(uri, run_id):
    client = open_client(uri)
    data = client.get_run(run_id)
    history = {key: client.get_metric_history(run_id, key) for key in data.data.metrics}
    artifacts = dict(tracking._stored_artifacts(client, run_id))
    return data, history, artifacts


def documented(kind):
    """Patterns of the table in the module's docstring: ``lr/<group>`` -> a regular expression."""
    patterns = []
    for line in tracking.__doc__.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if cells[0].strip() == kind:
            names = re.findall(r"`([^`]+)`", cells[1])
            patterns += [re.sub(r"<\w+>", ".+", re.escape(name)) for name in names]
    assert patterns, kind
    return patterns


def assert_same(keys, patterns):
    undocumented = [key for key in keys if not any(re.fullmatch(p, key) for p in patterns)]
    missing = [p for p in patterns if not any(re.fullmatch(p, key) for key in keys)]
    assert not undocumented
    assert not missing


def test_the_docstring_is_the_table_of_everything_logged(run, store):
    report = sync_run(run, store)
    data, history, artifacts = logged(store, report.run_id)
    assert_same(history, documented("metric"))
    assert_same(data.data.params, documented("param"))
    assert set(data.data.params) == set(run.read_json("run.json")["config"])
    assert_same(data.data.tags, documented("tag"))
    assert_same(artifacts, documented("artifact"))
    assert_same([item.dataset.name for item in data.inputs.dataset_inputs], documented("input"))


def test_values_are_those_of_the_run_folder(run, store):
    report = sync_run(run, store)
    data, history, artifacts = logged(store, report.run_id)
    for row in run.rows():
        for key, value in row["metrics"].items():
            assert (value, row["step"]) in [(point.value, point.step) for point in history[key]], key
    assert report.num_metrics == sum(len(points) for points in history.values())
    facts = run.read_json("run.json")
    assert history["params/trainable"][0].value == facts["parameters"]["trainable"]
    (dataset,) = [item.dataset for item in data.inputs.dataset_inputs]
    assert (dataset.name, dataset.digest) == ("ave", facts["data"]["digest"][:32])
    assert data.data.tags["mlflow.source.git.commit"] == facts["sessions"][0]["git_commit"]
    assert data.data.tags["mlflow.parentRunId"] == "f" * 32
    assert data.info.status == "FINISHED"
    assert data.info.run_name == facts["run_name"]
    assert {"evaluation/test/confusion.png", "checkpoints/best.safetensors", "config.yaml"} <= artifacts.keys()
    assert tracked_runs(run) == {store: TrackedRun(run_id=report.run_id, is_complete=True)}


def test_a_second_sync_sends_nothing(run, store):
    first = sync_run(run, store)
    assert first.num_metrics > 0
    assert first.num_artifacts == 11
    second = sync_run(run, store)
    assert (second.run_id, second.num_metrics, second.num_artifacts) == (first.run_id, 0, 0)


def test_repeated_rows_are_sent_once(run, store):
    rows = run.rows()
    for row in rows[2:5]:  # an epoch that was repeated after a crash
        run.append_row(row)
    _, history, _ = logged(store, sync_run(run, store).run_id)
    for key, points in history.items():
        assert len({point.step for point in points}) == len(points), key


def test_a_complete_run_that_mlflow_has_in_part_is_sent_again(finished, tmp_path):
    """If a session was killed after its result and before its last send, the same command completes MLflow's copy."""
    config = tiny_config(f"{finished.uri.rpartition('/runs/')[0]}/shards", optim__epochs=1)
    result = train_run(config, output=str(tmp_path), device="cpu")
    folder = RunFolder(result.run)
    ((uri, tracked),) = tracked_runs(folder).items()
    client = open_client(uri)
    client.update_run(tracked.run_id, status="RUNNING")
    folder.write_json(TRACKING, {"runs": {uri: {"run_id": tracked.run_id, "is_complete": False}}})
    assert train_run(config, output=str(tmp_path), tracking=uri, device="cpu").was_complete
    assert client.get_run(tracked.run_id).info.status == "FINISHED"
    assert tracked_runs(folder)[uri].is_complete


def test_the_run_is_found_again_when_its_id_was_lost(run, store):
    first = sync_run(run, store)
    run.delete(TRACKING)
    second = sync_run(run, store)
    assert (second.run_id, second.num_metrics) == (first.run_id, 0)
    assert tracked_runs(run) == {store: TrackedRun(run_id=first.run_id, is_complete=True)}


def test_a_row_that_arrives_later_is_added(run, store):
    lines = run.read(METRICS).splitlines(keepends=True)
    run.write(METRICS, b"".join(lines[:3]))
    result = run.read(RESULT)
    run.delete(RESULT)
    early = sync_run(run, store)
    data, _, artifacts = logged(store, early.run_id)
    assert data.info.status == "RUNNING"
    assert set(artifacts) == {"config.yaml", "run.json"}
    run.write_json(FAILURE, {"interrupted": True, "message": ""})
    sync_run(run, store)
    assert logged(store, early.run_id)[0].info.status == "KILLED"
    run.write_json(FAILURE, {"interrupted": False, "message": "loss is nan"})
    sync_run(run, store)
    assert logged(store, early.run_id)[0].info.status == "FAILED"
    run.write(METRICS, b"".join(lines))
    run.write(RESULT, result)
    late = sync_run(run, store)
    data, history, _ = logged(store, late.run_id)
    assert late.run_id == early.run_id
    assert data.info.status == "FINISHED"
    assert [point.step for point in history["train/loss"]] == [1, 2, 3, 4, 5, 6]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_message_for_a_dead_server_says_how_to_send_the_run_later(run):
    with pytest.raises(TrackingUnavailableError, match=r"cannot be used[^$]*stgcma-jobs sync .*run --tracking http"):
        sync_run(run, f"http://127.0.0.1:{free_port()}")


def test_requests_are_retried_once_unless_the_user_decides_otherwise(monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    open_client("http://127.0.0.1:1")
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"


class Messages(Silent):
    def __init__(self):
        super().__init__()
        self.seen = []

    def message(self, text):
        self.seen.append(text)


def test_training_with_a_dead_server_is_unaffected_and_replayed(finished, store, tmp_path):
    config = tiny_config(finished.read_json("run.json")["config"]["data.shards"], optim__average_epochs=[1, 2])
    reporter = Messages()
    dead = f"http://127.0.0.1:{free_port()}"
    result = train_run(config, output=str(tmp_path / "runs"), tracking=dead, device="cpu", reporter=reporter)
    assert result.metrics == json.loads(finished.read(RESULT))["metrics"]
    assert "stgcma-jobs sync" in reporter.seen[-1]
    folder = RunFolder(result.run)
    report = sync_run(folder, store)
    assert report.num_metrics == len({(k, row["step"]) for row in folder.rows() for k in row["metrics"]}) + len(
        folder.read_json("run.json")["parameter_metrics"]
    )
    assert logged(store, report.run_id)[0].info.status == "FINISHED"


def test_the_forwarder_follows_a_run_and_survives_errors(run, store, monkeypatch):
    forwarder = Forwarder(run, store, interval_seconds=0.05)
    calls = []

    def fail_twice(self):
        calls.append(self)
        if len(calls) <= 2:
            raise OSError("disk on fire")
        return original(self)

    original = tracking.Tracker.sync
    monkeypatch.setattr(tracking.Tracker, "sync", fail_twice)
    forwarder.start()
    deadline = time.monotonic() + 60
    while not run.exists(TRACKING) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert forwarder.finish(60) is None
    assert len(calls) >= 4
    (tracked,) = tracked_runs(run).values()
    assert logged(store, tracked.run_id)[0].info.status == "FINISHED"


def test_the_forwarder_does_not_wait_for_a_server_that_hangs(run, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(tracking.Tracker, "sync", lambda self: released.wait())
    forwarder = Forwarder(run, "http://127.0.0.1:1", interval_seconds=0.01)
    forwarder.start()
    problem = forwarder.finish(timeout_seconds=0.1)
    assert forwarder.is_alive()
    assert "has not taken everything after" in problem
    assert "stgcma-jobs sync" in problem
    released.set()
    forwarder.join()


@pytest.mark.slow
def test_a_real_server(run, empty_store, tmp_path, capsys):
    """The same with a real MLflow server on the loopback interface, including artifacts."""
    shutil.copy(empty_store, tmp_path / "server.db")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"{SQLITE}{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts"), "--serve-artifacts"]
    with open(tmp_path / "server.log", "w") as log:
        environment = {**os.environ, **tracking.SERVER_SETTINGS}
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path, env=environment)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        first = sync_run(run, f"http://127.0.0.1:{port}")
        second = sync_run(run, f"http://127.0.0.1:{port}")
        assert first.num_metrics > 0
        assert (second.run_id, second.num_metrics, second.num_artifacts) == (first.run_id, 0, 0)
        assert capsys.readouterr().out == ""  # stdout is reserved for --json
        data, history, artifacts = logged(f"http://127.0.0.1:{port}", first.run_id)
        assert data.info.status == "FINISHED"
        assert_same(history, documented("metric"))
        assert_same(artifacts, documented("artifact"))
    finally:
        server.terminate()
        server.wait(30)


def wait_for(url, server):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail("no MLflow server after five minutes")


@pytest.mark.slow
def test_ui_prints_its_address_and_answers_there(empty_store, tmp_path):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    command = [sys.executable, "-m", "jobs.cli", "ui", "--output", str(tmp_path), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line).group()
        wait_for(address, process)
    finally:
        process.terminate()
        process.wait(30)


def test_ui_without_a_store(tmp_path):
    with pytest.raises(ConfigError, match=r"No run in .* has been tracked"):
        tracking.serve_ui(str(tmp_path), 0)


def test_ui_on_a_port_in_use(tmp_path, empty_store):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match=r"Port \d+ on 127.0.0.1 is in use. Give another --port"):
            tracking.serve_ui(str(tmp_path), other.getsockname()[1])


def test_the_default_tracking_uri(tmp_path):
    assert default_tracking_uri(str(tmp_path)) == f"{SQLITE}{tmp_path}/mlflow.db"
