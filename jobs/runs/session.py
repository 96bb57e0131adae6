"""``train_run``: checks a run, then trains it or continues it and records the session.

The run folder is ``<output>/<name>-<fingerprint>``; ``jobs/runs/folder.py`` lists its files. Equivalent settings share
one folder, so the same command continues an interrupted run and returns at once from a finished one.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.runs.config import RunConfig, fingerprint, flatten, to_mapping
from jobs.runs.configfile import dump_run_config
from jobs.runs.folder import CONFIG, FACTS, FAILURE, LOCK, RESULT, RunFolder
from jobs.runs.plan import RunPlan, resolve
from jobs.runs.progress import Reporter
from jobs.runs.shards import require_digest, require_same_shards
from jobs.runs.tracking import DISABLED, Forwarder, default_tracking_uri, sync_known, tracked_runs
from jobs.runs.workers import run_here, run_on_ray
from stgcma.errors import RunLockedError
from stgcma.training.engine import resolve_device

IMAGE_COMMIT = "STGCMA_GIT_COMMIT"
"""Environment variable with the commit of the image, set by ``infra/Dockerfile``."""

LIBRARIES = ("torch", "timm", "open_clip_torch", "ray", "mlflow")
"""Packages whose versions every session records."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Result of a complete run, as ``result.json`` holds it."""

    run: str
    """Path or URI of the run folder."""
    run_name: str
    fingerprint: str
    protocol: str
    metrics: dict[str, float]
    """``val/<metric>`` of the selected epoch and ``test/<metric>`` of its weights, as fractions in [0, 1]."""
    parameters: dict[str, Any]
    """Counts: ``trainable``, ``total`` and ``by_role``."""
    data_digest: str
    git_commit: str
    best_epoch: int
    epochs_run: int
    stopped_early: bool
    num_averaged_epochs: int
    elapsed_seconds: float
    """Wall-clock time of all sessions together."""
    was_complete: bool = False
    """Whether the run was complete before, so that nothing was trained."""


def train_run(
    config: RunConfig,
    *,
    output: str = "data/runs",
    num_workers: int = 0,
    device: str = "auto",
    tracking: str | None = None,
    reporter: Reporter | None = None,
    tags: Mapping[str, str] | None = None,
    experiment: str | None = None,
    constants: Mapping[str, float] | None = None,
) -> RunResult:
    """Train a run, from its last checkpoint if it has one.

    Args:
        config: The run.
        output: Folder of the runs, a directory or an ``s3://`` URI.
        num_workers: Ray Train workers; 0 trains in this process without Ray. One worker gives the same result as this
            process. Several workers share each batch, so that dropout and batch norm see its parts.
        device: ``auto``, ``cpu`` or ``cuda``.
        tracking: MLflow tracking URI; None: SQLite beside the run folders; ``none``: no MLflow.
        reporter: Progress display; None: one on stderr.
        tags: Additional MLflow tags, such as the parent run of a sweep.
        experiment: MLflow experiment; None: the name of the dataset.
        constants: Additional metrics of the whole run, such as the published values of its row.

    Raises:
        ConfigError, ShardMismatchError: Before training, if the run cannot be trained, or its folder belongs to a run
            on other shards.
        RunLockedError: If another process is training the run.
        CheckpointError: If the checkpoint is damaged.
        RunFailedError: If training fails.
    """
    reporter = reporter or Reporter(config.optim.epochs)
    folder = RunFolder(f"{output.rstrip('/')}/{config.run_name}")
    if folder.exists(RESULT):
        require_same_shards(folder, config)
        if not all(run.is_complete for run in tracked_runs(folder).values()):
            for problem in sync_known(folder):  # the last session was killed before it had sent everything
                reporter.message(problem)
        return read_result(folder, was_complete=True)
    plan = resolve(config, world_size=max(1, num_workers))
    _ = plan.parameters  # builds the model on the meta device, so that invalid models fail here
    with _only_session(folder):
        _open_session(
            folder,
            plan,
            num_workers=num_workers,
            device=device,
            tags=tags or {},
            experiment=experiment,
            constants=constants or {},
        )
        reporter.message(
            f"{folder.uri}: {plan.parameters.trainable:,} of {plan.parameters.total:,} parameters, "
            f"{plan.num_clips['train']} clips, {plan.steps_per_epoch} steps per epoch"
            + ("" if config.optim.protocol == "val" else "; protocol paper: the checkpoint is selected on test")
        )
        uri = default_tracking_uri(output) if tracking is None else tracking
        forwarder = None if uri == DISABLED else Forwarder(folder, uri)
        if forwarder:
            forwarder.start()
        try:
            if num_workers == 0:
                run_here(plan, folder, device=resolve_device(device), reporter=reporter)
            else:
                run_on_ray(config, folder, num_workers=num_workers, device=device, reporter=reporter)
        except BaseException as error:
            folder.write_json(FAILURE, {"interrupted": not isinstance(error, Exception), "message": str(error)})
            raise
        finally:
            reporter.close()
            unsent = forwarder.finish() if forwarder else None
            if unsent:
                reporter.message(unsent)
    return read_result(folder)


@contextmanager
def _only_session(folder: RunFolder) -> Iterator[None]:
    """Lock the run folder.

    Raises:
        RunLockedError: If another process on this machine is training the run.
    """
    with folder.storage.lock(LOCK) as is_ours:
        if not is_ours:
            raise RunLockedError(
                f"Another process is training {folder.uri}. Wait for it or give this run another name."
            )
        yield


def read_result(folder: RunFolder, *, was_complete: bool = False) -> RunResult:
    """Read the result of a complete run from its folder.

    Raises:
        CheckpointError: If there is no result.
    """
    return RunResult(run=folder.uri, was_complete=was_complete, **folder.read_json(RESULT))


def _open_session(
    folder: RunFolder,
    plan: RunPlan,
    *,
    num_workers: int,
    device: str,
    tags: Mapping[str, str],
    experiment: str | None,
    constants: Mapping[str, float],
) -> None:
    """Write the configuration and facts of a new run, or add a session to the facts of an interrupted one."""
    session = {
        "started": time.time(),
        "num_workers": num_workers,
        "device": device,
        "git_commit": git_commit(),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    if folder.exists(FACTS):
        require_digest(folder, plan.manifest.digest, plan.source)
        facts = folder.read_json(FACTS)
        facts["sessions"].append(session)
        facts["tags"].update(tags)
    else:
        facts = _constant_facts(plan, session, tags, experiment, constants)
    folder.delete(FAILURE)
    folder.write(CONFIG, dump_run_config(plan.config).encode())
    folder.write_json(FACTS, facts)


def _constant_facts(
    plan: RunPlan,
    session: dict[str, Any],
    tags: Mapping[str, str],
    experiment: str | None,
    constants: Mapping[str, float],
) -> dict[str, Any]:
    config, run_id, count = plan.config, uuid.uuid4().hex, plan.parameters
    return {
        "run_id": run_id,
        "run_name": config.run_name,
        "experiment": experiment or config.data.dataset,
        "config": flatten(to_mapping(config)),
        "parameters": asdict(count),
        "parameter_metrics": {
            "params/trainable": count.trainable,
            "params/total": count.total,
            "params/trainable_millions": count.trainable / 1e6,
            "params/total_millions": count.total / 1e6,
            **{f"params/role/{role}": number for role, number in count.by_role.items()},
            **constants,
        },
        "data": {
            "dataset": config.data.dataset,
            "source": plan.source,
            "digest": plan.manifest.digest,
            "num_clips": plan.num_clips,
            "class_names": list(plan.manifest.class_names),
        },
        "steps_per_epoch": plan.steps_per_epoch,
        "sessions": [session],
        "tags": {
            "stgcma.run_id": run_id,
            "stgcma.run_name": config.run_name,
            "stgcma.fingerprint": fingerprint(config),
            "stgcma.task": config.task,
            "stgcma.protocol": config.optim.protocol,
            "stgcma.data_digest": plan.manifest.digest,
            "mlflow.source.name": f"stgcma-jobs train {config.name}",
            "mlflow.source.git.commit": session["git_commit"],
            **tags,
        },
    }


def git_commit() -> str:
    """Commit of this source tree, with ``-dirty`` if it has changes.

    The image holds no repository and gives the commit it was built from. Otherwise ``unknown``.
    """
    here = Path(__file__).resolve().parent
    commit = _git(here, "rev-parse", "HEAD")
    if commit is None:
        return os.environ.get(IMAGE_COMMIT, "unknown")
    return f"{commit}-dirty" if _git(here, "status", "--porcelain", "--untracked-files=no") else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
