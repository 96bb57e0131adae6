"""MLflow: a copy of what the run folder holds. The only file that imports MLflow.

``metrics.jsonl`` is the truth. ``Forwarder`` ships it from a thread of the driver while the run goes on, and
``stgcma-jobs sync RUN`` ships what a dead server missed; both call ``Tracker.sync``, which sends only what the server
does not have yet. A server that is down costs a run nothing.

Everything that is logged (a test compares this table with a real run):

| kind | key | meaning |
|---|---|---|
| metric | `params/trainable`, `params/total` | parameters, exact |
| metric | `params/trainable_millions`, `params/total_millions` | the same as the paper prints them |
| metric | `params/role/<role>` | parameters by role, frozen ones included |
| metric | `paper/<key>` | published value of the row (sweeps): fractions, millions of parameters |
| metric | `sweep/row` | position of the row in its table, so that the list of runs sorts like it (sweeps) |
| metric | `train/loss` | mean training loss since the previous row, 20 rows an epoch |
| metric | `train/clips_per_second` | over all workers, since the previous row |
| metric | `train/epoch_loss` | mean training loss of the epoch |
| metric | `lr/<group>` | learning rate of adapters, gates, head |
| metric | `val/<metric>`, `test/<metric>` | selection split every epoch; test at the end in detail |
| metric | `test-averaged/<metric>` | averaged weights at the end, when `optim.average_epochs` is set |
| metric | `best/metric`, `best/epoch` | best selection metric so far and its epoch, from 1 |
| metric | `time/train_seconds`, `time/evaluate_seconds` | of one epoch |
| metric | `system/peak_memory_bytes` | of the first worker: GPU memory, else resident memory |
| param | `<field>` | every field of the run configuration by its dotted name |
| tag | `stgcma.run_id`, `stgcma.run_name`, `stgcma.fingerprint`, `stgcma.task` | identity of the run |
| tag | `stgcma.protocol` | `val`, or `paper` when the checkpoint is selected on test |
| tag | `stgcma.data_digest` | sha256 of the shards |
| tag | `stgcma.row` | row of the table (sweeps) |
| tag | `mlflow.<name>` | run name, user, source, git commit; parent run within a sweep |
| input | `<dataset>` | the shards: name, source, digest |
| artifact | `config.yaml`, `run.json`, `result.json` | as in the run folder |
| artifact | `checkpoints/best.safetensors`, `checkpoints/averaged.safetensors` | trained weights, at the end |
| artifact | `evaluation/<file>` | per-class tables, scores of every clip, pictures (confusion matrix, masks) |
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jobs.runs.folder import CONFIG, FACTS, FAILURE, RESULT, TRACKING, RunFolder
from pipelines.storage import Storage
from stgcma.errors import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

DISABLED = "none"
"""Tracking address that turns MLflow off."""

REQUEST_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""MLflow's own defaults retry for minutes (the forwarder retries later instead), report usage to its makers, and print.

A value set by the user wins."""

SERVER_SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Of the server that shows runs: without the seven background processes it would start for other purposes."""

ARTIFACTS_AT_END = (RESULT, "checkpoints/best.safetensors", "checkpoints/averaged.safetensors")
SQLITE = "sqlite:///"

TABLE_VIEW = "mlflow.sharedViewState.table"
"""Experiment tag under which MLflow keeps a saved view: a sweep's columns, order and grouping."""


class TrackingUnavailableError(ConfigError):
    """The tracking server cannot be reached or refused the request; nothing is lost, it can be sent later."""


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What one synchronisation sent."""

    tracking_uri: str
    run_id: str
    num_metrics: int
    """Values of (key, step) that the server did not have."""
    num_artifacts: int


def default_tracking_uri(output: str) -> str:
    """SQLite beside local run folders; for run folders in a bucket, in the working directory."""
    storage = Storage(output)
    folder = Path(storage.full_path()) if storage.is_local else Path.cwd()
    return f"{SQLITE}{folder / 'mlflow.db'}"


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What ``tracking.json`` knows of a run in one MLflow store."""

    run_id: str
    is_complete: bool
    """The store has everything of the complete run."""


def tracked_runs(folder: RunFolder) -> dict[str, TrackedRun]:
    """Tracking address -> what is known of the run there."""
    if not folder.exists(TRACKING):
        return {}
    return {uri: TrackedRun(**values) for uri, values in folder.read_json(TRACKING)["runs"].items()}


class Tracker:
    """One run's record in one MLflow store."""

    def __init__(self, folder: RunFolder, tracking_uri: str) -> None:
        self.folder, self.tracking_uri = folder, tracking_uri
        self.run_id = ""
        self._client: MlflowClient | None = None
        self._sent: set[tuple[str, int]] = set()
        self._status = ""

    def sync(self) -> SyncReport:
        """Send what is missing. Safe to repeat, and to run after a crash at any point.

        Raises:
            TrackingUnavailableError: With what could not be reached and how to send it later.
        """
        with explained(self.tracking_uri, _advice(self.folder.uri, self.tracking_uri)):
            client = self._client = self._client or open_client(self.tracking_uri)
            facts = self.folder.read_json(FACTS)
            if not self.run_id:
                self._attach(client, facts)
            num_metrics = self._send_metrics(client, facts)
            num_artifacts = self._send_artifacts(client)
            self._send_status(client)
        return SyncReport(
            tracking_uri=self.tracking_uri, run_id=self.run_id, num_metrics=num_metrics, num_artifacts=num_artifacts
        )

    def _attach(self, client: MlflowClient, facts: dict[str, Any]) -> None:
        """Find the run in the store or create it, and learn what it already holds."""
        experiment = experiment_id(client, self.tracking_uri, facts["experiment"])
        known = tracked_runs(self.folder)
        found = client.search_runs([experiment], f"tags.`stgcma.run_id` = '{facts['run_id']}'", max_results=1)
        if found:
            run_id = found[0].info.run_id
            for key in found[0].data.metrics:
                self._sent |= {(key, point.step) for point in client.get_metric_history(run_id, key)}
            self._status = found[0].info.status
        else:
            tags = {**facts["tags"], "mlflow.user": getpass.getuser(), "mlflow.source.type": "LOCAL"}
            run_id = client.create_run(experiment, run_name=facts["run_name"], tags=tags).info.run_id
        if self.tracking_uri not in known or known[self.tracking_uri].run_id != run_id:
            self._remember(TrackedRun(run_id=run_id, is_complete=False))
        self.run_id = run_id
        self._send_constants(client, facts)

    def _send_constants(self, client: MlflowClient, facts: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        params = [Param(key, str(value)) for key, value in facts["config"].items()]
        for start in range(0, len(params), 100):
            client.log_batch(self.run_id, params=params[start : start + 100])
        data = facts["data"]
        dataset = Dataset(
            name=data["dataset"], digest=data["digest"][:32], source_type="stgcma_shards", source=data["source"]
        )
        context = InputTag("mlflow.data.context", "training")
        client.log_inputs(self.run_id, [DatasetInput(dataset, [context])])

    def _send_metrics(self, client: MlflowClient, facts: dict[str, Any]) -> int:
        from mlflow.entities import Metric

        started = int(facts["sessions"][0]["started"] * 1000)
        values = {(key, 0): (float(value), started) for key, value in facts["parameter_metrics"].items()}
        for row in self.folder.rows():
            for key, value in row["metrics"].items():
                values[key, row["step"]] = (float(value), int(row["time"] * 1000))
        missing = [place for place in values if place not in self._sent]
        for start in range(0, len(missing), 500):
            part = missing[start : start + 500]
            client.log_batch(self.run_id, metrics=[Metric(key, *values[key, step], step) for key, step in part])
            self._sent.update(part)
        return len(missing)

    def _send_artifacts(self, client: MlflowClient) -> int:
        names = [CONFIG, FACTS]
        if self.folder.exists(RESULT):
            names += [name for name in ARTIFACTS_AT_END if self.folder.exists(name)]
            names += [f"evaluation/{name}" for name in self.folder.storage.list_files("evaluation", recursive=True)]
        stored = dict(_stored_artifacts(client, self.run_id))
        missing = [name for name in names if stored.get(name) != self.folder.storage.size(name)]
        for name in missing:
            with tempfile.TemporaryDirectory(prefix="stgcma-") as temporary:
                copy = Path(temporary) / Path(name).name
                if self.folder.storage.is_local:
                    copy.symlink_to(self.folder.storage.full_path(name))
                else:
                    copy.write_bytes(self.folder.read(name))
                client.log_artifact(self.run_id, str(copy), str(Path(name).parent) if "/" in name else None)
        return len(missing)

    def _send_status(self, client: MlflowClient) -> None:
        status = "RUNNING"
        if self.folder.exists(RESULT):
            status = "FINISHED"
        elif self.folder.exists(FAILURE):
            status = "KILLED" if self.folder.read_json(FAILURE)["interrupted"] else "FAILED"
        if status != self._status:
            if status == "RUNNING":
                client.update_run(self.run_id, status=status)
            else:
                client.set_terminated(self.run_id, status)
            self._status = status
        if status == "FINISHED" and not tracked_runs(self.folder)[self.tracking_uri].is_complete:
            self._remember(TrackedRun(run_id=self.run_id, is_complete=True))

    def _remember(self, tracked: TrackedRun) -> None:
        runs = {**tracked_runs(self.folder), self.tracking_uri: tracked}
        self.folder.write_json(TRACKING, {"runs": {uri: asdict(run) for uri, run in runs.items()}})


class Forwarder(threading.Thread):
    """Calls ``Tracker.sync`` every few seconds from a thread, and less often while the server does not answer."""

    def __init__(self, folder: RunFolder, tracking_uri: str, *, interval_seconds: float = 2.0) -> None:
        super().__init__(name="mlflow-forwarder", daemon=True)
        self.tracker = Tracker(folder, tracking_uri)
        self.interval_seconds = interval_seconds
        self.error: Exception | None = None
        """Why the latest attempt failed; None after a success."""
        self._stop_requested = threading.Event()

    def run(self) -> None:
        wait = self.interval_seconds
        is_last = False
        while not is_last:
            is_last = self._stop_requested.wait(wait)
            try:
                self.tracker.sync()
                self.error, wait = None, self.interval_seconds
            except Exception as error:  # whatever a tracking store does wrong, the run must not notice
                self.error, wait = error, min(2 * wait, 60.0)
                logger.debug("MLflow did not take the metrics", exc_info=error)

    def finish(self, timeout_seconds: float = 20.0) -> str | None:
        """Try a last time, wait at most so long, and return what the user should know, or None."""
        self._stop_requested.set()
        self.join(timeout_seconds)
        if self.is_alive():
            problem = f"MLflow at {self.tracker.tracking_uri} has not taken everything after {timeout_seconds:.0f} s."
        elif isinstance(self.error, TrackingUnavailableError):
            return str(self.error)
        elif self.error is not None:
            problem = f"MLflow at {self.tracker.tracking_uri}: {self.error!r}."
        else:
            return None
        return f"{problem}\n{_advice(self.tracker.folder.uri, self.tracker.tracking_uri)}"


def open_client(tracking_uri: str) -> MlflowClient:
    """A client with short time-outs. A new SQLite store is created under a lock, one process at a time."""
    for name, value in REQUEST_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not tracking_uri.startswith(SQLITE):
        return MlflowClient(tracking_uri)
    database = Path(tracking_uri.removeprefix(SQLITE))
    with Storage(str(database.parent)).lock(f"{database.stem}.lock", wait=True):
        client = MlflowClient(tracking_uri)
        client.get_experiment_by_name("Default")  # the first query creates or migrates the tables
    return client


def serve_ui(output: str, port: int) -> NoReturn:
    """Become MLflow's server on 127.0.0.1 over the store beside ``output``.

    This process is replaced, so that Ctrl-C and signals reach the server itself and leave nothing behind.

    Raises:
        ConfigError: If there is no store yet, or the port is taken.
    """
    uri = default_tracking_uri(output)
    database = Path(uri.removeprefix(SQLITE))
    if not database.is_file():
        raise ConfigError(
            f"No MLflow store at {database}: no run under {output} was tracked. Train one, or set --output."
        )
    if port and _is_taken(port):
        raise ConfigError(f"Port {port} on 127.0.0.1 is in use. Give another --port, or --port 0 for a free one.")
    port = port or _free_port()
    address = f"http://127.0.0.1:{port}"
    print(f"MLflow: {address}  (store {database}; Ctrl-C ends it)", flush=True)
    for experiment in open_client(uri).search_experiments():
        if TABLE_VIEW in experiment.tags:
            view = f"#/experiments/{experiment.experiment_id}/runs?viewStateShareKey={TABLE_VIEW.rpartition('.')[2]}"
            print(f"  table of {experiment.name}: {address}/{view}", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.execve(command[0], [*command, "--backend-store-uri", uri], {**os.environ, **SERVER_SETTINGS})


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sync_run(folder: RunFolder, tracking_uri: str) -> SyncReport:
    """Send everything a store has missed of one run (``stgcma-jobs sync``)."""
    return Tracker(folder, tracking_uri).sync()


def sync_known(folder: RunFolder) -> list[str]:
    """Send what is new in a run's folder to the stores that track it; returns what went wrong, one text a store."""
    problems = []
    for tracking_uri in tracked_runs(folder):
        try:
            sync_run(folder, tracking_uri)
        except TrackingUnavailableError as error:
            problems.append(str(error))
    return problems


def experiment_id(client: MlflowClient, tracking_uri: str, name: str) -> str:
    """The experiment of that name; created when there is none, with artifacts beside a SQLite store."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return experiment.experiment_id
    artifacts = None
    if tracking_uri.startswith(SQLITE):
        artifacts = (Path(tracking_uri.removeprefix(SQLITE)).parent / "mlflow-artifacts").as_uri()
    try:
        return client.create_experiment(name, artifact_location=artifacts)
    except MlflowException:
        experiment = client.get_experiment_by_name(name)  # another process was faster
        if experiment is None:
            raise
        return experiment.experiment_id


def _stored_artifacts(client: MlflowClient, run_id: str, path: str | None = None) -> Iterator[tuple[str, int]]:
    for info in client.list_artifacts(run_id, path):
        if info.is_dir:
            yield from _stored_artifacts(client, run_id, info.path)
        else:
            yield info.path, info.file_size


def _advice(run: str, tracking_uri: str) -> str:
    command = f"stgcma-jobs sync {run} --tracking {tracking_uri}"
    return f"The run is unaffected and its metrics are safe. Send them later:\n  {command}"


@contextlib.contextmanager
def explained(tracking_uri: str, advice: str) -> Iterator[None]:
    """MLflow's and the database's errors as ours, with what to do."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        cause = str(error).splitlines()[0][:300]
        raise TrackingUnavailableError(
            f"MLflow at {tracking_uri} did not answer as needed: {cause}\n{advice}"
        ) from error
