"""Executing one trial, and the three places where trials run: this process, a pool of processes, Ray tasks.

All three take the same ``Job`` and give the same ``TrialStatus``. A trial that raises ends as ``failed`` with its
message and the others go on; a worker process that dies takes only its own trial with it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from jobs.runs.config import RunConfig
from jobs.tables.trials import TrialStatus, read_status, trial_folder, trial_lock, write_status
from stgcma.errors import RunLockedError, StgcmaError

logger = logging.getLogger(__name__)

STOP_SECONDS = 60.0
"""How long a stopped worker may take to finish its step and write a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One trial with everything a worker needs to run it."""

    config: RunConfig
    row: str
    seed: int
    output: str
    num_workers: int
    device: str
    tracking: str | None
    experiment: str
    tags: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    """Published values of the row, logged beside the run's own."""


Train = Callable[[Job], list[str]]
"""Trains one job to its end and returns what the run had to say; importable by name, so that workers find it."""


def train_job(job: Job) -> list[str]:
    """The real thing: ``train_run`` with its messages kept."""
    from jobs.runs.progress import Collecting
    from jobs.runs.session import train_run

    reporter = Collecting()
    train_run(
        job.config,
        output=job.output,
        num_workers=job.num_workers,
        device=job.device,
        tracking=job.tracking,
        reporter=reporter,
        tags=job.tags,
        experiment=job.experiment,
        constants=job.constants,
    )
    return reporter.warnings


def execute(job: Job, train: Train = train_job) -> TrialStatus:
    """Run one trial and record how it went; only an interruption is raised."""
    folder = trial_folder(job.output, job.config)
    fingerprint = job.config.run_name.rpartition("-")[2]
    with trial_lock(folder) as is_ours:
        before = read_status(folder)
        status = TrialStatus(
            state="running",
            row=job.row,
            seed=job.seed,
            fingerprint=fingerprint,
            attempts=1 + (before.attempts if before else 0),
        )
        if not is_ours:
            return replace(status, state="stopped", message="another process is running this trial")
        write_status(folder, status)
        try:
            notes = train(job)
        except KeyboardInterrupt:
            write_status(folder, replace(status, state="stopped"))
            raise
        except RunLockedError as error:
            status = replace(status, state="stopped", message=str(error))
        except Exception as error:  # isolated: the other trials go on, and the table says why this one did not
            message = str(error) if isinstance(error, StgcmaError) else traceback.format_exc(limit=-6).strip()
            status = replace(status, state="failed", message=message[-2000:])
        else:
            status = replace(status, state="done", notes=tuple(notes))
        write_status(folder, status)
        return status


class Executor(ABC):
    """Where jobs run. ``submit`` starts one, ``wait`` returns those that have ended."""

    capacity: int = 1
    """Jobs at a time."""
    on_stop: str = "each writes a checkpoint at its next step"
    """What ``stop`` means for a running job."""

    @abstractmethod
    def submit(self, job: Job) -> None: ...

    @abstractmethod
    def wait(self, timeout_seconds: float) -> list[TrialStatus]: ...

    @abstractmethod
    def stop(self) -> None:
        """End running jobs; ``on_stop`` says what becomes of them."""

    @abstractmethod
    def close(self) -> None:
        """Release processes; running jobs are lost up to their last checkpoint."""


class InProcess(Executor):
    """One after another in this process: no start-up cost from the second trial on."""

    def __init__(self, train: Train) -> None:
        self.train = train
        self.finished: list[TrialStatus] = []

    def submit(self, job: Job) -> None:
        self.finished.append(execute(job, self.train))

    def wait(self, timeout_seconds: float) -> list[TrialStatus]:
        finished, self.finished = self.finished, []
        return finished

    def stop(self) -> None:
        """The interruption that asks for it has stopped the job already."""

    def close(self) -> None:
        """Nothing to release."""


class ProcessPool(Executor):
    """Long-lived worker processes that share this machine's cores; a trial starts warm from each worker's second on.

    Workers end with this process however it ends: each watches its parent. They are in sessions of their own, so that
    Ctrl-C reaches them only through ``stop``.
    """

    def __init__(self, num_processes: int, train: Train) -> None:
        self.capacity, self.train = num_processes, train
        self.threads = max(1, (os.cpu_count() or 1) // num_processes)
        self.context = multiprocessing.get_context("spawn")
        self.idle: list[tuple[Any, Connection]] = []
        self.busy: list[tuple[Any, Connection, Job]] = []

    def submit(self, job: Job) -> None:
        process, connection = self.idle.pop() if self.idle else self._start()
        connection.send(job)
        self.busy.append((process, connection, job))

    def wait(self, timeout_seconds: float) -> list[TrialStatus]:
        ready = wait([handle for p, c, _ in self.busy for handle in (c, p.sentinel)], timeout_seconds)
        finished, busy = [], []
        for process, connection, job in self.busy:
            if connection not in ready and process.sentinel not in ready:
                busy.append((process, connection, job))
                continue
            try:
                finished.append(connection.recv())
                self.idle.append((process, connection))
            except EOFError:
                process.join()
                finished.append(_lost(job, process.exitcode))
        self.busy = busy
        return finished

    def stop(self) -> None:
        for process, _, _ in self.busy:
            process.terminate()
        for process, _, _ in self.busy:
            process.join(STOP_SECONDS)

    def close(self) -> None:
        for process, connection in self.idle:
            connection.close()
            process.join(5)
        for process in [p for p, *_ in self.idle] + [p for p, *_ in self.busy]:
            if process.is_alive():
                process.kill()
                process.join()
        self.idle, self.busy = [], []

    def _start(self) -> tuple[Any, Connection]:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.train))
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        try:
            process.start()
        finally:
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = before
        theirs.close()
        return process, ours


def _serve(connection: Connection, train: Train) -> None:
    """Body of a pool worker: jobs in, statuses out, until the connection closes."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    while True:
        try:
            job = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            connection.send(execute(job, train))
        except KeyboardInterrupt:
            return


def _die_with(sentinel: int) -> None:
    """A worker without a driver would train for nobody and hold the trial's lock."""
    wait([sentinel])
    os._exit(1)


def _lost(job: Job, exit_code: int | None) -> TrialStatus:
    """A worker died under a job: killed for memory, or a crash in native code."""
    how = f"exit code {exit_code}"
    if exit_code is not None and exit_code < 0:
        how = f"signal {signal.Signals(-exit_code).name}"
    folder = trial_folder(job.output, job.config)
    recorded = read_status(folder)
    status = TrialStatus(
        state="failed",
        row=job.row,
        seed=job.seed,
        fingerprint=job.config.run_name.rpartition("-")[2],
        attempts=recorded.attempts if recorded else 1,
        message=f"The worker process ended with {how}. Memory may have run out: lower --concurrency.",
    )
    write_status(folder, status)
    return status


class RayTasks(Executor):
    """Zero-CPU Ray tasks, each of which starts its trial's Ray Train workers. One Ray session for the whole sweep.

    A trial that cannot be placed would wait inside Ray Train, so the concurrency is limited to what the cluster holds.
    """

    on_stop = "each goes on from its last checkpoint next time"

    def __init__(self, concurrency: int, num_workers: int, train: Train) -> None:
        import ray

        from jobs.runs.workers import start_ray

        self.ray = ray
        self.started_here = not ray.is_initialized()
        if self.started_here:
            start_ray(num_workers)
        resources = ray.cluster_resources()
        per_kind = "GPU" if resources.get("GPU", 0) >= num_workers else "CPU"
        self.capacity = max(1, min(concurrency, int(resources.get(per_kind, 0)) // num_workers))
        if self.capacity < concurrency:
            logger.warning("The cluster holds %d trials of %d workers at a time.", self.capacity, num_workers)
        self.execute = ray.remote(num_cpus=0, max_retries=0)(execute)
        self.train = train
        self.running: dict[Any, Job] = {}

    def submit(self, job: Job) -> None:
        self.running[self.execute.remote(job, self.train)] = job

    def wait(self, timeout_seconds: float) -> list[TrialStatus]:
        ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=timeout_seconds)
        finished = []
        for reference in ready:
            job = self.running.pop(reference)
            try:
                finished.append(self.ray.get(reference))
            except self.ray.exceptions.RayError as error:
                finished.append(replace(_lost(job, None), message=f"Ray lost the trial: {error}"))
        return finished

    def stop(self) -> None:
        for reference in self.running:
            self.ray.cancel(reference)
        if self.running:
            self.ray.wait(list(self.running), num_returns=len(self.running), timeout=STOP_SECONDS)

    def close(self) -> None:
        if self.started_here:
            self.ray.shutdown()


def open_executor(concurrency: int, num_workers: int, train: Train) -> Executor:
    """The place that fits: Ray for trials with workers, this process for one trial at a time, else a pool."""
    if num_workers > 0:
        return RayTasks(concurrency, num_workers, train)
    return InProcess(train) if concurrency == 1 else ProcessPool(concurrency, train)
