"""Finds the run folders of a sweep's trials and reads and writes their states.

The folder of a trial is an ordinary run folder and is found by its fingerprint, not by its name. Therefore a row of
another table, a renamed row and a run of ``stgcma-jobs train`` with the same settings are one trial and train once.
``status.json`` says what the sweep did with the trial. Only ``result.json`` says that the run is complete.
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

State = Literal["waiting", "running", "done", "failed", "stopped", "refused"]
"""``stopped``: interrupted; the next sweep continues from the checkpoint. ``refused``: done, but its files contradict
each other; reports alone say so."""


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """State of one trial, as ``status.json`` holds it."""

    state: State
    row: str
    seed: int
    fingerprint: str
    attempts: int = 0
    message: str = ""
    """Why it failed, as the command would have printed it."""
    notes: tuple[str, ...] = field(default=())
    """Warnings of the run, such as a tracking server that did not answer."""


def find_runs(output: str) -> dict[str, str]:
    """Fingerprint -> name of the run folder in ``output``. A trial that failed at once has only a status."""
    storage = Storage(output)
    found: dict[str, str] = {}
    for name in storage.list_folders():
        _, dash, fingerprint = name.rpartition("-")
        if dash and (storage.exists(f"{name}/{CONFIG}") or storage.exists(f"{name}/{STATUS}")):
            found.setdefault(fingerprint, name)
    return found


def placed(trial: Trial, runs: dict[str, str]) -> RunConfig:
    """The trial's configuration, renamed after the run folder that already holds it, if there is one.

    Args:
        trial: The trial.
        runs: Fingerprint -> run folder, from ``find_runs``.
    """
    name = runs.get(trial.fingerprint)
    if name is None:
        return trial.config
    return replace(trial.config, name=name.removesuffix(f"-{trial.fingerprint}"))


def trial_folder(output: str, config: RunConfig) -> RunFolder:
    return RunFolder(f"{output.rstrip('/')}/{config.run_name}")


def read_status(folder: RunFolder) -> TrialStatus | None:
    """The status that a sweep wrote; None if no sweep has run it."""
    if not folder.exists(STATUS):
        return None
    values = folder.read_json(STATUS)
    return TrialStatus(**{**values, "notes": tuple(values["notes"])})


def write_status(folder: RunFolder, status: TrialStatus) -> None:
    """Replace ``status.json`` atomically."""
    folder.write_json(STATUS, asdict(status))


def trial_states(ablation: Ablation, output: str) -> dict[tuple[str, int], TrialStatus]:
    """The state of every trial: (row, seed) -> status. A trial with ``result.json`` is done."""
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
                # A killed process leaves the status "running": only the lock says whether a trial runs.
                status = replace(status, state="stopped", attempts=recorded.attempts if recorded else 0)
        states[trial.row, trial.seed] = status
    return states


def trial_lock(folder: RunFolder) -> AbstractContextManager[bool]:
    """Lock a trial. The context is False if another process on this machine has locked it."""
    return folder.storage.lock(LOCK)
