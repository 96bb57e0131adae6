"""Copies the record of a run from its folder to MLflow.

``Forwarder`` sends new rows of ``metrics.jsonl`` from a thread of the driver while the run is trained. After that,
``stgcma-jobs sync RUN`` sends what a server missed. Both call ``Tracker.sync``, which sends only what the server does
not have. A server that does not answer never delays or stops a run.

Everything that is logged (a test compares this table with a real run):

| kind | key | meaning |
|---|---|---|
| metric | `params/trainable`, `params/total` | exact numbers of parameters |
| metric | `params/trainable_millions`, `params/total_millions` | the same in millions, as the paper prints them |
| metric | `params/role/<role>` | parameters by role, including frozen ones |
| metric | `paper/<key>` | published value of the row: fractions, millions of parameters (sweeps) |
| metric | `sweep/row` | position of the row in its table, to sort runs (sweeps) |
| metric | `train/loss` | mean training loss since the previous row, 20 rows per epoch |
| metric | `train/clips_per_second` | clips per second over all workers since the previous row |
| metric | `train/epoch_loss` | mean training loss of the epoch |
| metric | `lr/<group>` | learning rate of adapters, gates, head |
| metric | `val/<metric>`, `test/<metric>` | selection split after every epoch; test at the end in detail |
| metric | `test-averaged/<metric>` | averaged weights at the end, if `optim.average_epochs` is set |
| metric | `best/metric`, `best/epoch` | best selection metric so far and its epoch, counted from 1 |
| metric | `time/train_seconds`, `time/evaluate_seconds` | seconds of one epoch |
| metric | `system/peak_memory_bytes` | bytes of the first worker: GPU memory, else resident memory |
| param | `<field>` | each field of the run configuration by its dotted name |
| tag | `stgcma.run_id`, `stgcma.run_name`, `stgcma.fingerprint`, `stgcma.task` | identity of the run |
| tag | `stgcma.protocol` | `val`, or `paper` if the checkpoint is selected on test |
| tag | `stgcma.data_digest` | sha256 of the shards |
| tag | `stgcma.row` | row of the table (sweeps) |
| tag | `mlflow.<name>` | run name, user, source, git commit; parent run (sweeps) |
| input | `<dataset>` | the shards: name, source, digest |
| artifact | `config.yaml`, `run.json`, `result.json` | as in the run folder |
| artifact | `checkpoints/best.safetensors`, `checkpoints/averaged.safetensors` | trained weights, at the end |
| artifact | `evaluation/<file>` | metrics by class, scores of each clip, pictures (confusion matrix, masks) |
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
"""Tracking URI that turns MLflow off."""

REQUEST_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Environment variables for MLflow, unless the user set them. By default it retries for minutes, reports usage to its
makers and prints; here the forwarder retries later."""

SERVER_SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Environment variables for the MLflow server, which would otherwise start seven unneeded background processes."""

ARTIFACTS_AT_END = (RESULT, "checkpoints/best.safetensors", "checkpoints/averaged.safetensors")
SQLITE = "sqlite:///"

TABLE_VIEW = "mlflow.sharedViewState.table"
"""Experiment tag in which MLflow keeps a saved view: the columns, order and grouping of a sweep."""


class TrackingUnavailableError(ConfigError):
    """The tracking server cannot be reached or refused a request. Nothing is lost; ``sync`` can send it later."""


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What one call of ``Tracker.sync`` sent."""

    tracking_uri: str
    run_id: str
    num_metrics: int
    """Number of metric values that the server did not have."""
    num_artifacts: int


def default_tracking_uri(output: str) -> str:
    """SQLite in ``output``, or in the working directory if ``output`` is a bucket."""
    storage = Storage(output)
    folder = Path(storage.full_path()) if storage.is_local else Path.cwd()
    return f"{SQLITE}{folder / 'mlflow.db'}"


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """State of a run in one MLflow store, from ``tracking.json``."""

    run_id: str
    is_complete: bool
    """Whether the run is complete and the store has all of it."""


def tracked_runs(folder: RunFolder) -> dict[str, TrackedRun]:
    """Tracking URI -> state of the run there."""
    if not folder.exists(TRACKING):
        return {}
    return {uri: TrackedRun(**values) for uri, values in folder.read_json(TRACKING)["runs"].items()}


class Tracker:
    """Keeps the copy of one run in one MLflow store up to date."""

    def __init__(self, folder: RunFolder, tracking_uri: str) -> None:
        self.folder, self.tracking_uri = folder, tracking_uri
        self.run_id = ""
        self._client: MlflowClient | None = None
        self._sent: set[tuple[str, int]] = set()
        self._status = ""

    def sync(self) -> SyncReport:
        """Send what the store does not have. It can be repeated at any time, also after a crash.

        Raises:
            TrackingUnavailableError: If the store does not answer; says how to send the run later.
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
        """Find or create the run in the store, and read which metrics it has."""
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
    """Calls ``Tracker.sync`` every few seconds in a thread, and less often while the server does not answer."""

    def __init__(self, folder: RunFolder, tracking_uri: str, *, interval_seconds: float = 2.0) -> None:
        super().__init__(name="mlflow-forwarder", daemon=True)
        self.tracker = Tracker(folder, tracking_uri)
        self.interval_seconds = interval_seconds
        self.error: Exception | None = None
        """Error of the latest attempt; None if it succeeded."""
        self._stop_requested = threading.Event()

    def run(self) -> None:
        wait = self.interval_seconds
        is_last = False
        while not is_last:
            is_last = self._stop_requested.wait(wait)
            try:
                self.tracker.sync()
                self.error, wait = None, self.interval_seconds
            except Exception as error:  # no error of a tracking store may stop the run
                self.error, wait = error, min(2 * wait, 60.0)
                logger.debug("MLflow did not take the metrics", exc_info=error)

    def finish(self, timeout_seconds: float = 20.0) -> str | None:
        """Stop after a last attempt.

        Args:
            timeout_seconds: How long to wait for it.

        Returns:
            A message for the user if something could not be sent, else None.
        """
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
    """An MLflow client with short time-outs. A lock lets only one process at a time create a SQLite store."""
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
    """Replace this process by an MLflow server on 127.0.0.1 that shows the runs in ``output``.

    As the process is replaced, Ctrl-C and other signals reach the server itself.

    Args:
        output: Folder of the runs.
        port: Port; 0 picks a free one.

    Raises:
        ConfigError: If there is no store yet or the port is in use.
    """
    uri = default_tracking_uri(output)
    database = Path(uri.removeprefix(SQLITE))
    if not database.is_file():
        raise ConfigError(
            f"No run in {output} has been tracked: {database} does not exist. Train a run first or set --output."
        )
    if port and _is_taken(port):
        raise ConfigError(f"Port {port} on 127.0.0.1 is in use. Give another --port, or --port 0 for a free one.")
    port = port or _free_port()
    address = f"http://127.0.0.1:{port}"
    print(f"MLflow: {address}  (store {database}; Ctrl-C stops it)", flush=True)
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
    """Send everything of a run that a store does not have (``stgcma-jobs sync``).

    Raises:
        TrackingUnavailableError: If the store does not answer.
    """
    return Tracker(folder, tracking_uri).sync()


def sync_known(folder: RunFolder) -> list[str]:
    """Send what is new in a run's folder to all stores that track it. Returns a message for each store that failed."""
    problems = []
    for tracking_uri in tracked_runs(folder):
        try:
            sync_run(folder, tracking_uri)
        except TrackingUnavailableError as error:
            problems.append(str(error))
    return problems


def experiment_id(client: MlflowClient, tracking_uri: str, name: str) -> str:
    """Id of the experiment with that name, which is created if needed. A SQLite store has its artifacts beside it."""
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
            yield info.path, info.file_size or 0


def _advice(run: str, tracking_uri: str) -> str:
    command = f"stgcma-jobs sync {run} --tracking {tracking_uri}"
    return f"The run is unaffected and its metrics are safe. Send them later with:\n  {command}"


@contextlib.contextmanager
def explained(tracking_uri: str, advice: str) -> Iterator[None]:
    """Turn errors of MLflow and of its database into ``TrackingUnavailableError`` with advice."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        cause = str(error).splitlines()[0][:300]
        raise TrackingUnavailableError(f"MLflow at {tracking_uri} cannot be used: {cause}\n{advice}") from error
