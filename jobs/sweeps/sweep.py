"""Executing an ablation: run what is missing, skip what is done, isolate what fails.

``<output>/sweeps/<name>/sweep.json`` holds the resolved table, so that a report can be made from the run folders alone;
``report.md`` and ``report.html`` lie beside it. A killed sweep loses nothing: started again, it runs the missing trials
and continues a half-done one from its checkpoint.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from jobs.runs.configfile import find_file
from jobs.runs.folder import RunFolder
from jobs.runs.shards import require_same_shards, select_shards, shards_read
from jobs.sweeps.board import Board
from jobs.sweeps.executors import Executor, Job, Train, open_executor, train_job
from jobs.sweeps.tracking import SweepTracking
from jobs.tables.ablation import Ablation, ablation_from_mapping, ablation_to_mapping, load_ablation
from jobs.tables.report import Report, collect
from jobs.tables.report_files import write_reports
from jobs.tables.report_formats import to_markdown
from jobs.tables.trials import TrialStatus, find_runs, placed, trial_folder, trial_lock, trial_states
from pipelines.storage import Storage
from stgcma.errors import ConfigError, RunFailedError

Check = Callable[[list[Job], list[Job]], None]
"""(waiting jobs, finished jobs) -> raises where a trial could not work."""

SWEEPS = "sweeps"
RECORD = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """How a sweep ended."""

    name: str
    folder: str
    """Where record and reports lie."""
    report: Report
    """Of the whole table, rows that were not asked for included."""
    statuses: tuple[TrialStatus, ...]
    num_done_before: int
    """Trials that were not run again, being done."""
    warnings: tuple[str, ...]

    def count(self, state: str) -> int:
        return sum(status.state == state for status in self.statuses)

    @property
    def summary(self) -> str:
        """``12 trials: 9 done (3 before), 1 failed, 2 stopped``."""
        parts = []
        for state in ("done", "failed", "stopped", "waiting"):
            if self.count(state):
                before = f" ({self.num_done_before} before)" if state == "done" and self.num_done_before else ""
                parts.append(f"{self.count(state)} {state}{before}")
        return f"{len(self.statuses)} trials: {', '.join(parts)}"

    def raise_if_failed(self) -> None:
        """
        Raises:
            RunFailedError: If a trial failed, with the messages of all.
        """
        failed = [status for status in self.statuses if status.state == "failed"]
        if failed:
            lines = [f"  {s.row} seed {s.seed}: {s.message.splitlines()[-1] if s.message else '?'}" for s in failed]
            raise RunFailedError(
                f"{len(failed)} of {len(self.statuses)} trials failed; --retry-failed runs them again.\n"
                + "\n".join(lines)
            )


def check_shards(waiting: list[Job], done: list[Job]) -> None:
    """One look at the shards of all trials, instead of the same failure in every one; those that are done must have
    been trained on them."""
    for config in {shards_read(job.config): job.config for job in waiting}.values():
        select_shards(config)
    for job in done:
        require_same_shards(trial_folder(job.output, job.config), job.config)


def run_sweep(
    ablation: Ablation,
    *,
    output: str = "data/runs",
    num_workers: int = 0,
    concurrency: int = 1,
    device: str = "auto",
    tracking: str | None = None,
    only: tuple[str, ...] = (),
    retry_failed: bool = False,
    board: Board | None = None,
    train: Train = train_job,
    check: Check = check_shards,
) -> SweepResult:
    """Run the trials that are missing.

    Args:
        ablation: The table.
        output: Directory or ``s3://`` URI of the run folders, shared by all tables.
        num_workers: Ray Train workers of one trial; 0 trains without Ray.
        concurrency: Trials at a time.
        device: ``auto``, ``cpu`` or ``cuda``.
        tracking: MLflow URI; None: SQLite in ``output``; ``none``: no MLflow.
        only: Rows to run; empty: all.
        retry_failed: Run failed trials again instead of leaving them.
        board: Shows progress; one for this terminal when None.
        train: Trains one job (tests replace it).
        check: Looks at the jobs before anything starts (tests replace it).

    Raises:
        ConfigError, ShardMismatchError: Before anything starts, when no trial could work.
        KeyboardInterrupt: After running trials have written a checkpoint.
    """
    chosen = ablation.only(only)
    with _sweep_lock(output, ablation.name):
        sweep_id = record(ablation, output)
        states = trial_states(chosen, output)
        link = SweepTracking(ablation.name, ablation.metrics, output, tracking, sweep_id)
        runs = find_runs(output)
        jobs = [
            Job(
                config=placed(trial, runs),
                row=trial.row,
                seed=trial.seed,
                output=output,
                num_workers=num_workers,
                device=device,
                tracking=tracking,
                experiment=ablation.name,
                constants=_constants(ablation, trial.row),
            )
            for trial in chosen.trials
        ]
        runnable = ("waiting", "stopped", "failed") if retry_failed else ("waiting", "stopped")
        num_done_before = sum(status.state == "done" for status in states.values())
        waiting = [job for job in jobs if states[job.row, job.seed].state in runnable]
        check(waiting, [job for job in jobs if states[job.row, job.seed].state == "done"])
        tags = link.open() if waiting else {}
        waiting = [replace(job, tags={**tags, "stgcma.row": job.row}) for job in waiting]
        board = board or Board(ablation.title, jobs, [states[job.row, job.seed] for job in jobs])
        try:
            with _interruptible(), board:
                executor = open_executor(min(concurrency, len(waiting)), num_workers, train) if waiting else None
                for status in _run_all(waiting, executor, board):
                    states[status.row, status.seed] = status
        except KeyboardInterrupt:
            link.close(states.values(), note=to_markdown(collect(ablation, output)))
            raise
        report = collect(ablation, output)
        write_reports(report, sweep_folder(output, ablation.name))
        link.close(states.values(), note=to_markdown(report))
    return SweepResult(
        name=ablation.name,
        folder=sweep_folder(output, ablation.name),
        report=report,
        statuses=tuple(states.values()),
        num_done_before=num_done_before,
        warnings=tuple(dict.fromkeys([*link.warnings, *(note for s in states.values() for note in s.notes)])),
    )


def _run_all(waiting: list[Job], executor: Executor | None, board: Board) -> Iterator[TrialStatus]:
    """Keep ``capacity`` jobs running until all have ended; on an interruption stop them with a checkpoint."""
    if executor is None:
        return
    queue, num_running = list(waiting), 0
    try:
        while queue or num_running:
            while queue and num_running < executor.capacity:
                job = queue.pop(0)
                board.started(job)
                executor.submit(job)
                num_running += 1
            for status in executor.wait(0.5):
                num_running -= 1
                board.finished(status)
                yield status
    except KeyboardInterrupt:
        board.message(f"Stopping the running trials: {executor.on_stop}. Press Ctrl-C again to stop at once.")
        executor.stop()
        raise
    finally:
        executor.close()


def sweep_folder(output: str, name: str) -> str:
    return f"{output.rstrip('/')}/{SWEEPS}/{name}"


def record(ablation: Ablation, output: str) -> str:
    """Write the resolved table; returns the sweep's id, which stays the same as the table grows."""
    folder = RunFolder(sweep_folder(output, ablation.name))
    sweep_id = folder.read_json(RECORD)["sweep_id"] if folder.exists(RECORD) else uuid.uuid4().hex
    folder.write_json(RECORD, {"sweep_id": sweep_id, "ablation": ablation_to_mapping(ablation)})
    return sweep_id


def recorded_sweeps(output: str) -> list[str]:
    """Names of the sweeps that ran into ``output``."""
    storage = Storage(f"{output.rstrip('/')}/{SWEEPS}")
    return [name for name in storage.list_folders() if storage.exists(f"{name}/{RECORD}")]


def read_sweep(output: str, name: str) -> Ablation:
    """The table of a recorded sweep.

    Raises:
        ConfigError: If there is none of that name, with those that exist.
    """
    known = recorded_sweeps(output)
    if name not in known:
        raise ConfigError(f"No sweep {name!r} in {output}; there are: {', '.join(known) or 'none'}.")
    return ablation_from_mapping(RunFolder(sweep_folder(output, name)).read_json(RECORD)["ablation"])


def find_table(table: str | None, output: str, overrides: Iterable[str] = ()) -> Ablation:
    """An ablation by file, by the name of a sweep that ran into ``output``, or the only one there.

    Raises:
        ConfigError: If nothing or more than one thing is meant.
    """
    is_file = table is not None and (table.endswith((".yaml", ".yml")) or find_file(table).is_file())
    if table is not None and is_file and table not in recorded_sweeps(output):
        ablation = load_ablation(table, overrides)
        ran = read_sweep(output, ablation.name) if ablation.name in recorded_sweeps(output) else ablation
        return load_ablation(table, overrides, shards=ran.shards)  # where that sweep found them
    if overrides:
        raise ConfigError("--set goes with an ablation file; a sweep that ran keeps the settings it ran with.")
    if table is None:
        known = recorded_sweeps(output)
        if len(known) != 1:
            listed = f"there are: {', '.join(known)}" if known else "no sweep ran there yet"
            raise ConfigError(f"report needs an ablation file or the name of a sweep in {output}; {listed}.")
        table = known[0]
    return read_sweep(output, table)


def ran_otherwise(ablation: Ablation, output: str) -> str | None:
    """What to tell who asks for a table file whose sweep ran into ``output`` with other ``--set`` settings."""
    if ablation.name not in recorded_sweeps(output):
        return None
    ran = read_sweep(output, ablation.name)
    if {trial.fingerprint for trial in ran.trials} & {trial.fingerprint for trial in ablation.trials}:
        return None
    settings = " ".join(f"--set {text}" for text in ran.overrides) or "other settings"
    return (
        f"The sweep {ablation.name!r} that ran in {output} had {settings}: "
        f"stgcma-jobs report {ablation.name} --runs {output} shows it. Below is {ablation.path} as it stands."
    )


def _constants(ablation: Ablation, row_name: str) -> dict[str, float]:
    """Published values on the scale of our own metrics (fractions, millions), and the row's place in the table."""
    place, row = next((place, row) for place, row in enumerate(ablation.rows, start=1) if row.name == row_name)
    paper = {f"paper/{key}": value / 100 if key.startswith("test/") else value for key, value in row.paper.items()}
    return {**paper, "sweep/row": float(place)}


@contextlib.contextmanager
def _sweep_lock(output: str, name: str) -> Iterator[None]:
    """One driver per sweep and output on this machine."""
    folder = RunFolder(sweep_folder(output, name))
    with trial_lock(folder) as is_ours:
        if not is_ours:
            raise ConfigError(f"The sweep {name!r} is running in {output} already. Wait for it, or stop it first.")
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends a sweep like Ctrl-C: trials stop at a step, with a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
