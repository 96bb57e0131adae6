"""The trials of a sweep as they lie on disk: which run folder belongs to which configuration, and how it went.

A trial's folder is an ordinary run folder, found by its fingerprint whatever it is called: the row of another table, a
renamed row and a run of ``stgcma-jobs train`` with the same settings are the same trial and are trained once.
``status.json`` beside the run's own files says what the sweep did; ``result.json`` alone says that a run is complete.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from jobs.runs.config import RunConfig
from jobs.runs.folder import CONFIG, RESULT, RunFolder
from jobs.tables.ablation import Ablation, Trial
from pipelines.storage import Storage

STATUS = "status.json"
LOCK = "trial.lock"

State = Literal["waiting", "running", "done", "failed", "stopped"]
"""``stopped``: interrupted, goes on from its checkpoint next time."""


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """What the sweep did with one trial, as ``status.json`` holds it."""

    state: State
    row: str
    seed: int
    fingerprint: str
    attempts: int = 0
    message: str = ""
    """Why it failed, for the person who started it."""
    notes: tuple[str, ...] = field(default=())
    """What the run said besides, such as a tracking server that did not answer."""


def find_runs(output: str) -> dict[str, str]:
    """Fingerprint -> name of the run folder under ``output``; a trial that failed at once has a status alone."""
    storage = Storage(output)
    found: dict[str, str] = {}
    for name in storage.list_folders():
        _, dash, fingerprint = name.rpartition("-")
        if dash and (storage.exists(f"{name}/{CONFIG}") or storage.exists(f"{name}/{STATUS}")):
            found.setdefault(fingerprint, name)
    return found


def placed(trial: Trial, runs: dict[str, str]) -> RunConfig:
    """The trial's configuration under the name of the run folder that holds it already, if one does."""
    name = runs.get(trial.fingerprint)
    if name is None:
        return trial.config
    return replace(trial.config, name=name.removesuffix(f"-{trial.fingerprint}"))


def trial_folder(output: str, config: RunConfig) -> RunFolder:
    return RunFolder(f"{output.rstrip('/')}/{config.run_name}")


def read_status(folder: RunFolder) -> TrialStatus | None:
    """The status a sweep left; None when no sweep has touched the run."""
    if not folder.exists(STATUS):
        return None
    values = folder.read_json(STATUS)
    return TrialStatus(**{**values, "notes": tuple(values["notes"])})


def write_status(folder: RunFolder, status: TrialStatus) -> None:
    """Replace ``status.json`` at once."""
    folder.write_json(STATUS, asdict(status))


def trial_states(ablation: Ablation, output: str) -> dict[tuple[str, int], TrialStatus]:
    """(row, seed) -> where every trial stands. ``result.json`` decides what is done."""
    runs = find_runs(output)
    states = {}
    for trial in ablation.trials:
        status = TrialStatus(state="waiting", row=trial.row, seed=trial.seed, fingerprint=trial.fingerprint)
        if trial.fingerprint in runs:
            folder = RunFolder(f"{output.rstrip('/')}/{runs[trial.fingerprint]}")
            recorded = read_status(folder)
            if folder.exists(RESULT):
                status = replace(status, state="done", notes=recorded.notes if recorded else ())
            elif recorded is not None and recorded.state == "failed":
                status = replace(recorded, row=trial.row, seed=trial.seed)
            else:
                # A status of "running" is left by a killed process: the lock, not the file, says who runs.
                status = replace(status, state="stopped", attempts=recorded.attempts if recorded else 0)
        states[trial.row, trial.seed] = status
    return states


def trial_lock(folder: RunFolder) -> AbstractContextManager[bool]:
    """Hold a trial; the context is False when another process on this machine holds it."""
    return folder.storage.lock(LOCK)
