"""Runs the trials of an ablation: skips finished ones, continues interrupted ones, isolates failures.

``<output>/sweeps/<name>/sweep.json`` holds the resolved table, so a report needs only the run folders. The folder also
holds ``report.md`` and ``report.html``. A killed sweep loses nothing: the next start runs the missing trials and
continues the interrupted ones from their checkpoints.
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
"""(waiting jobs, finished jobs) -> None. Raises if a trial could not run."""

SWEEPS = "sweeps"
RECORD = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """Result of a sweep."""

    name: str
    folder: str
    """Folder of the record and the reports."""
    report: Report
    """Report of the whole table, including rows that ``only`` left out."""
    statuses: tuple[TrialStatus, ...]
    num_done_before: int
    """Number of trials that had finished before this sweep."""
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
        """Raise if a trial failed.

        Raises:
            RunFailedError: With the messages of all failed trials.
        """
        failed = [status for status in self.statuses if status.state == "failed"]
        if failed:
            lines = [f"  {s.row} seed {s.seed}: {s.message.splitlines()[-1] if s.message else '?'}" for s in failed]
            raise RunFailedError(
                f"{len(failed)} of {len(self.statuses)} trials failed. Run them again with --retry-failed.\n"
                + "\n".join(lines)
            )


def check_shards(waiting: list[Job], done: list[Job]) -> None:
    """Check the shards of all trials before any starts.

    Raises:
        ShardMismatchError: If the shards of a waiting trial are missing or do not fit it.
        ConfigError: If a finished trial was trained on other shards.
    """
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
    """Run the missing trials of a table and write its report.

    Args:
        ablation: The table.
        output: Folder of the runs, a directory or an ``s3://`` URI. All tables can share it.
        num_workers: Ray Train workers per trial; 0 trains without Ray.
        concurrency: Trials to run at the same time.
        device: ``auto``, ``cpu`` or ``cuda``.
        tracking: MLflow URI; None: SQLite in ``output``; ``none``: no MLflow.
        only: Rows to run; empty: all.
        retry_failed: Run failed trials again.
        board: Progress display; None: one on stderr.
        train: Trains one job. Tests replace it.
        check: Checks the jobs before any starts. Tests replace it.

    Raises:
        ConfigError, ShardMismatchError: Before any trial starts, if the trials cannot run.
        KeyboardInterrupt: If interrupted; the running trials have written checkpoints by then.
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
    """Keep ``capacity`` jobs running until all have ended. On an interruption, stop them as the executor does."""
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
    """Folder of a sweep's record and reports."""
    return f"{output.rstrip('/')}/{SWEEPS}/{name}"


def record(ablation: Ablation, output: str) -> str:
    """Write ``sweep.json``. Returns the sweep's id, which stays the same when the table changes."""
    folder = RunFolder(sweep_folder(output, ablation.name))
    sweep_id = folder.read_json(RECORD)["sweep_id"] if folder.exists(RECORD) else uuid.uuid4().hex
    folder.write_json(RECORD, {"sweep_id": sweep_id, "ablation": ablation_to_mapping(ablation)})
    return sweep_id


def recorded_sweeps(output: str) -> list[str]:
    """Names of the sweeps in ``output``."""
    storage = Storage(f"{output.rstrip('/')}/{SWEEPS}")
    return [name for name in storage.list_folders() if storage.exists(f"{name}/{RECORD}")]


def read_sweep(output: str, name: str) -> Ablation:
    """The table of a recorded sweep.

    Raises:
        ConfigError: If there is no sweep of that name; lists the sweeps that exist.
    """
    known = recorded_sweeps(output)
    if name not in known:
        raise ConfigError(
            f"{output} has no sweep {name!r}. Its sweeps: {', '.join(known) or 'none'}. Run the sweep first, or give "
            "an ablation file."
        )
    return ablation_from_mapping(RunFolder(sweep_folder(output, name)).read_json(RECORD)["ablation"])


def find_table(table: str | None, output: str, overrides: Iterable[str] = ()) -> Ablation:
    """Find an ablation.

    Args:
        table: An ablation file, the name of a sweep in ``output``, or None for the only sweep there.
        output: Folder of the runs.
        overrides: ``--set`` texts; only for a file.

    Raises:
        ConfigError: If there is no such table, if ``table`` is None and there is not exactly one sweep, or if overrides
            are given for a sweep.
    """
    is_file = table is not None and (table.endswith((".yaml", ".yml")) or find_file(table).is_file())
    if table is not None and is_file and table not in recorded_sweeps(output):
        ablation = load_ablation(table, overrides)
        ran = read_sweep(output, ablation.name) if ablation.name in recorded_sweeps(output) else ablation
        return load_ablation(table, overrides, shards=ran.shards)
    if overrides:
        raise ConfigError("--set needs an ablation file; the settings of a recorded sweep are fixed.")
    if table is None:
        known = recorded_sweeps(output)
        if len(known) != 1:
            listed = f"has the sweeps {', '.join(known)}" if known else "has no sweeps"
            raise ConfigError(f"report needs an ablation file or the name of a sweep; {output} {listed}.")
        table = known[0]
    return read_sweep(output, table)


def ran_otherwise(ablation: Ablation, output: str) -> str | None:
    """A hint if the sweep of this table in ``output`` ran with other ``--set`` settings; None if it did not."""
    if ablation.name not in recorded_sweeps(output):
        return None
    ran = read_sweep(output, ablation.name)
    if {trial.fingerprint for trial in ran.trials} & {trial.fingerprint for trial in ablation.trials}:
        return None
    settings = " ".join(f"--set {text}" for text in ran.overrides) or "other settings"
    return (
        f"The sweep {ablation.name!r} in {output} ran with {settings}. To see it, run: stgcma-jobs report "
        f"{ablation.name} --runs {output}. The report below shows {ablation.path} without these settings."
    )


def _constants(ablation: Ablation, row_name: str) -> dict[str, float]:
    """The published values of a row (metrics as fractions, parameters in millions) and its place in the table."""
    place, row = next((place, row) for place, row in enumerate(ablation.rows, start=1) if row.name == row_name)
    paper = {f"paper/{key}": value / 100 if key.startswith("test/") else value for key, value in row.paper.items()}
    return {**paper, "sweep/row": float(place)}


@contextlib.contextmanager
def _sweep_lock(output: str, name: str) -> Iterator[None]:
    """Allow one process on this machine to run the sweep in ``output``."""
    folder = RunFolder(sweep_folder(output, name))
    with trial_lock(folder) as is_ours:
        if not is_ours:
            raise ConfigError(f"The sweep {name!r} is already running in {output}. Wait for it or stop it first.")
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM stop the sweep as Ctrl-C does: running trials stop after a step and write a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
