"""Runs trials in one of three places: in this process, in a pool of processes or as Ray tasks.

All three take a ``Job`` and return a ``TrialStatus``. A trial that raises ends as ``failed`` with its message, and the
others continue. A worker process that dies fails only its own trial.
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
"""Time that a stopped worker has to finish its step and write a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One trial and all that a worker needs to run it."""

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
    """Published values of the row, which MLflow shows beside the run's own metrics."""


Train = Callable[[Job], list[str]]
"""Trains one job and returns its warnings. It must be importable by name, so that worker processes find it."""


def train_job(job: Job) -> list[str]:
    """Train a job with ``train_run`` and return its warnings."""
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
    """Run one trial and write its status.

    Args:
        job: The trial.
        train: Trains it.

    Returns:
        How the trial ended; ``stopped`` if another process is running it.

    Raises:
        KeyboardInterrupt: If the trial is interrupted. All other errors become the status ``failed``.
    """
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
        except Exception as error:  # the other trials continue, and the report shows this message
            message = str(error) if isinstance(error, StgcmaError) else traceback.format_exc(limit=-6).strip()
            status = replace(status, state="failed", message=message[-2000:])
        else:
            status = replace(status, state="done", notes=tuple(notes))
        write_status(folder, status)
        return status


class Executor(ABC):
    """A place where jobs run. ``submit`` starts a job; ``wait`` returns the statuses of jobs that have ended."""

    capacity: int = 1
    """Number of jobs that run at the same time."""
    on_stop: str = "each writes a checkpoint at its next step"
    """What happens to a running job on ``stop``, as a message for the user."""

    @abstractmethod
    def submit(self, job: Job) -> None: ...

    @abstractmethod
    def wait(self, timeout_seconds: float) -> list[TrialStatus]: ...

    @abstractmethod
    def stop(self) -> None:
        """End the running jobs as ``on_stop`` says."""

    @abstractmethod
    def close(self) -> None:
        """Release the processes. Running jobs end at once and keep only their last checkpoint."""


class InProcess(Executor):
    """Runs jobs one after another in this process, so only the first trial pays for the imports."""

    def __init__(self, train: Train) -> None:
        self.train = train
        self.finished: list[TrialStatus] = []

    def submit(self, job: Job) -> None:
        self.finished.append(execute(job, self.train))

    def wait(self, timeout_seconds: float) -> list[TrialStatus]:
        finished, self.finished = self.finished, []
        return finished

    def stop(self) -> None:
        """Does nothing: the interruption that leads here has already stopped the job."""

    def close(self) -> None:
        """Does nothing."""


class ProcessPool(Executor):
    """Runs jobs in long-lived worker processes that share this machine's cores.

    Each worker watches this process and ends with it, even if it is killed. Workers run in sessions of their own, so
    that Ctrl-C reaches them only through ``stop``.
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
    """Main loop of a pool worker: receive jobs and send statuses until the connection closes."""
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
    """End this worker when its driver ends. Otherwise it would keep training and hold the trial's lock."""
    wait([sentinel])
    os._exit(1)


def _lost(job: Job, exit_code: int | None) -> TrialStatus:
    """Write the status of a job whose worker died, for lack of memory or by a crash in native code."""
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
    """Runs each job as a Ray task without CPUs, which starts the trial's Ray Train workers.

    All jobs share one Ray session. A trial without room would wait inside Ray Train, so the resources of the cluster
    limit the number of jobs at a time.
    """

    on_stop = "each continues from its last checkpoint next time"

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
            logger.warning("The cluster has room for %d trials of %d workers at a time.", self.capacity, num_workers)
        self.execute: Any = ray.remote(num_cpus=0, max_retries=0)(execute)
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
    """Choose where trials run: Ray if they have workers, this process for one trial at a time, else a pool.

    Args:
        concurrency: Trials at the same time.
        num_workers: Ray Train workers per trial; 0: no Ray.
        train: Trains one job.
    """
    if num_workers > 0:
        return RayTasks(concurrency, num_workers, train)
    return InProcess(train) if concurrency == 1 else ProcessPool(concurrency, train)
