"""Runs the training loop in this process or on Ray Train workers.

Ray Train starts the workers, joins them in a process group and restarts them after a crash; each start resumes from the
run folder. Checkpoints do not go through ``ray.train.report``, because Ray registers them only at its next poll: a
checkpoint reported shortly before a crash would be lost.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from jobs.runs.config import RunConfig, to_mapping
from jobs.runs.configfile import build
from jobs.runs.folder import FACTS, FAILURE, LAST, RunFolder
from jobs.runs.plan import RunPlan, resolve
from jobs.runs.progress import Reporter
from jobs.runs.training_loop import Listener, TrainingLoop
from pipelines.signals import kept_signal_handlers
from stgcma.errors import RunFailedError, StgcmaError
from stgcma.training import distributed
from stgcma.training.checkpoint import LoopState, decode

logger = logging.getLogger(__name__)

RAY_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
}
"""Ray notices a lost worker within 0.5 s, and a busy laptop has 300 s to start the workers."""

OBJECT_STORE_BYTES = 128 << 20
"""Size of the object store of a Ray started here. Only small objects pass through it."""

MAX_FAILURES = 3
"""Number of times that lost workers are replaced before the run fails."""


def run_here(plan: RunPlan, folder: RunFolder, *, device: torch.device, reporter: Reporter) -> None:
    """Train in this process. The first Ctrl-C or SIGTERM stops training after a step and writes a checkpoint.

    Args:
        plan: The resolved run.
        folder: Its folder.
        device: Where to compute.
        reporter: Shows progress.

    Raises:
        Interrupted: After the stop.
        RunFailedError: If training fails.
    """
    with _stop_signal(reporter) as stop_requested:
        listener = Listener(
            on_start=reporter.start, on_step=reporter.step, on_row=reporter.row, stop_requested=stop_requested
        )
        TrainingLoop(plan, folder, device=device, listener=listener).run()


def run_on_ray(config: RunConfig, folder: RunFolder, *, num_workers: int, device: str, reporter: Reporter) -> None:
    """Train on Ray Train workers, which are restarted from the last checkpoint up to ``MAX_FAILURES`` times.

    Args:
        config: The run.
        folder: Its folder.
        num_workers: Number of workers.
        device: ``auto``, ``cpu`` or ``cuda``.
        reporter: Shows progress.

    Raises:
        RunFailedError: If training fails on the workers; gives their reason.
        KeyboardInterrupt: On Ctrl-C, after the workers have ended.
    """
    _set_ray_environment()
    import ray
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    started_here = not ray.is_initialized()
    if started_here:
        start_ray(num_workers)
    try:
        use_gpu = device == "cuda" or (device == "auto" and ray.cluster_resources().get("GPU", 0) >= num_workers)
        attempt = f"{config.run_name}-{time.time_ns()}"
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"config": to_mapping(config), "folder": folder.uri, "directory": os.getcwd()},
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
            run_config=RayRunConfig(
                name=attempt, storage_path=_ray_storage(folder), failure_config=FailureConfig(max_failures=MAX_FAILURES)
            ),
        )
        with _watch_rows(folder, reporter), kept_signal_handlers():
            trainer.fit()
    except SystemExit:
        raise KeyboardInterrupt from None  # Ray Train exits after Ctrl-C
    except TrainingFailedError as error:
        raise RunFailedError(_reason(error, folder)) from error
    finally:
        if started_here:
            ray.shutdown()
    if folder.exists(FAILURE):
        raise RunFailedError(folder.read_json(FAILURE)["message"])


def _worker(arguments: dict[str, Any]) -> None:
    """Run the training loop in a Ray Train worker."""
    import ray.train
    from ray.train.torch import get_device

    if os.path.isdir(arguments["directory"]):
        os.chdir(arguments["directory"])  # relative paths start at the working directory of the command
    config = build(RunConfig, arguments["config"], "the run configuration")
    folder = RunFolder(arguments["folder"])
    listener = Listener(on_epoch=lambda metrics: ray.train.report(dict(metrics)))
    try:
        plan = resolve(config, rank=distributed.rank(), world_size=distributed.world_size())
        TrainingLoop(plan, folder, device=get_device(), listener=listener).run()
    except RunFailedError as error:
        # All workers raise it, and it would happen again: end the run instead of restarting it.
        if distributed.rank() == 0:
            folder.write_json(FAILURE, {"interrupted": False, "message": str(error)})


def _set_ray_environment() -> None:
    os.environ.update({name: os.environ.get(name, value) for name, value in RAY_ENVIRONMENT.items()})


def start_ray(num_workers: int) -> None:
    """Join the cluster at ``RAY_ADDRESS`` or, if that is not set, start Ray here with at least a CPU per worker."""
    _set_ray_environment()
    import ray

    options: dict[str, Any] = {
        "log_to_driver": logger.isEnabledFor(logging.DEBUG),
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": {name: os.environ[name] for name in RAY_ENVIRONMENT}},
    }
    if "RAY_ADDRESS" not in os.environ:
        options |= {
            "address": "local",
            "num_cpus": max(num_workers, os.cpu_count() or 1),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    with kept_signal_handlers():
        ray.init(**options)


def _ray_storage(folder: RunFolder) -> str:
    """Folder for Ray Train's own small state, in the run folder."""
    if folder.storage.is_local:
        return folder.storage.full_path("ray")
    return f"{folder.uri}/ray"


def _reason(error: Exception, folder: RunFolder) -> str:
    """The error of the first worker, without Ray's traceback."""
    failures = getattr(error, "worker_failures", None) or {}
    cause: BaseException = next(iter(failures.values()), error)
    cause = getattr(cause, "cause", None) or cause
    words = str(cause) if isinstance(cause, StgcmaError) else f"{type(cause).__name__}: {str(cause).strip()[-800:]}"
    advice = f"Run the same command to continue from the last checkpoint in {folder.uri}."
    return f"The workers failed {MAX_FAILURES + 1} times. {words}\n{advice}"


@contextmanager
def _stop_signal(reporter: Reporter) -> Iterator[Callable[[], bool]]:
    """A flag that the first SIGINT or SIGTERM sets. A second signal interrupts at once."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return

    def handle(number: int, frame: Any) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()
        reporter.message("Stopping after this step with a checkpoint. Press Ctrl-C again to stop at once.")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _watch_rows(folder: RunFolder, reporter: Reporter) -> Iterator[None]:
    """Show the rows that other processes record, by reading them from the run folder."""
    finished = threading.Event()
    interval = 0.5 if folder.storage.is_local else 5.0
    seen = len(folder.rows())
    if folder.exists(LAST):
        _, state = decode(folder.read(LAST), f"{folder.uri}/{LAST}")
    else:
        state = LoopState(fingerprint="", data_digest="", epoch=0, step=0)
    reporter.start(state, folder.read_json(FACTS)["steps_per_epoch"])

    def watch() -> None:
        nonlocal seen
        is_last = False
        while not is_last:
            is_last = finished.wait(interval)
            rows = folder.rows()
            for row in rows[seen:]:
                reporter.row(row)
            seen = len(rows)

    thread = threading.Thread(target=watch, name="row-watcher", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join(2 * interval + 5)
