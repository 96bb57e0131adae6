"""Progress display of a sweep on stderr: a live table on a terminal, else one line per finished trial.

It reads the ``metrics.jsonl`` of the running trials, so it works wherever they run.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table

from jobs.runs.folder import RunFolder
from jobs.sweeps.executors import Job
from jobs.tables.trials import TrialStatus, trial_folder

STYLES = {"waiting": "dim", "running": "cyan", "done": "green", "failed": "red", "stopped": "yellow"}

OTHER_LINES = 8
"""Terminal lines that do not show trials: title, header, rules and summary."""


@dataclass
class _Line:
    """One trial on the board."""

    job: Job
    status: TrialStatus
    folder: RunFolder
    started: float = 0.0
    first_epoch: float | None = None
    """Epoch at which this sweep took the trial up, to estimate the time left from its speed since then."""
    epoch: float = 0.0
    metric: str = ""
    polled: float = field(default=0.0)

    def poll(self, now: float) -> None:
        """Read the latest rows of a running trial, at most every 0.5 s on a disk and every 5 s in a bucket."""
        if self.status.state != "running" or now - self.polled < (0.5 if self.folder.storage.is_local else 5.0):
            return
        self.polled = now
        self.read()
        if self.first_epoch is None:
            self.first_epoch = self.epoch

    def read(self) -> None:
        rows = self.folder.rows()
        if rows:
            self.epoch = rows[-1]["epoch"]
        selected = [row["metrics"] for row in rows if "best/metric" in row["metrics"]]
        if selected:
            self.metric = f"{selected[-1]['best/metric']:.4f}"

    def seconds_left(self, now: float) -> float | None:
        done = self.epoch - (self.first_epoch or 0.0)
        if self.status.state != "running" or done <= 0:
            return None
        return (self.job.config.optim.epochs - self.epoch) * (now - self.started) / done


class Board:
    """Shows the trials of one sweep. A context manager.

    Args:
        title: Title of the table.
        jobs: The trials.
        states: Their statuses, in the same order.
        console: Where to print; None: stderr.
    """

    def __init__(
        self, title: str, jobs: list[Job], states: list[TrialStatus], *, console: Console | None = None
    ) -> None:
        self.title = title
        self.console = console or Console(stderr=True, highlight=False)
        self.lines: dict[tuple[str, int], _Line] = {}
        for job, status in zip(jobs, states, strict=True):
            line = _Line(job, status, trial_folder(job.output, job.config))
            if status.state in ("done", "stopped"):
                line.read()
            self.lines[job.row, job.seed] = line
        self._began = time.monotonic()
        self._finished_here = 0
        self._live: Live | None = None

    def __enter__(self) -> Board:
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self.render, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.update(self.render(everything=True))
            self._live.stop()
            self._live = None

    def message(self, text: str) -> None:
        """Print a line above the table."""
        self.console.print(text, markup=False, soft_wrap=True)

    def started(self, job: Job) -> None:
        line = self.lines[job.row, job.seed]
        line.status = TrialStatus(state="running", row=job.row, seed=job.seed, fingerprint=line.status.fingerprint)
        line.started = time.monotonic()

    def finished(self, status: TrialStatus) -> None:
        line = self.lines[status.row, status.seed]
        line.status = status
        line.read()
        self._finished_here += 1
        if self._live is None:
            best = f"best {line.metric}" if line.metric else ""
            outcome = status.message.splitlines()[-1] if status.message else best
            words = [self._count(), f"{status.row} seed {status.seed}: {status.state}", outcome]
            self.message("  ".join([*filter(None, words), f"{time.monotonic() - line.started:.0f} s"]))

    def render(self, *, everything: bool = False) -> Table:
        """The current table. If the terminal is too low for it, finished and waiting trials are hidden first.

        Args:
            everything: Show all trials, however low the terminal is.
        """
        now = time.monotonic()
        table = Table(title=self.title, caption=self._caption(now), title_justify="left", caption_justify="left")
        for name in ("run", "seed", "state", "epoch", "best", "time left"):
            table.add_column(name, justify="left" if name in ("run", "state") else "right", no_wrap=True)
        lines = list(self.lines.values())
        for line in lines:
            line.poll(now)
        room = self.console.height - OTHER_LINES
        hidden: Counter[str] = Counter()
        if self.console.is_terminal and not everything and len(lines) > room:
            by_need = sorted(
                lines, key=lambda line: ("running", "failed", "stopped", "waiting", "done").index(line.status.state)
            )
            kept = {id(line) for line in by_need[: max(1, room - 1)]}
            hidden = Counter(line.status.state for line in lines if id(line) not in kept)
            lines = [line for line in lines if id(line) in kept]
        for line in lines:
            table.add_row(*self._cells(line, now), style=STYLES[line.status.state])
        if hidden:
            table.add_row(f"... and {', '.join(f'{n} {state}' for state, n in hidden.items())}", style="dim")
        return table

    def _cells(self, line: _Line, now: float) -> tuple[str, ...]:
        left = line.seconds_left(now)
        epoch = f"{line.epoch:.1f}/{line.job.config.optim.epochs}" if line.epoch else ""
        state: str = line.status.state
        if state == "failed" and line.status.message:
            state = f"failed: {line.status.message.splitlines()[-1][:60]}"
        return (
            line.job.row,
            str(line.job.seed),
            state,
            epoch,
            line.metric,
            "" if left is None else format_seconds(left),
        )

    def _count(self) -> str:
        states = Counter(line.status.state for line in self.lines.values())
        return f"[{states['done'] + states['failed']}/{len(self.lines)}]"

    def _caption(self, now: float) -> str:
        states = Counter(line.status.state for line in self.lines.values())
        parts = [
            f"{states[state]} {state}" for state in ("done", "running", "failed", "stopped", "waiting") if states[state]
        ]
        caption = f"{', '.join(parts)}; {format_seconds(now - self._began)} so far"
        remaining = states["waiting"] + states["running"] + states["stopped"]
        if self._finished_here and remaining and self._live is not None:
            caption += f", about {format_seconds((now - self._began) / self._finished_here * remaining)} left"
        return caption


def format_seconds(seconds: float) -> str:
    """``75`` -> ``1:15``, ``4000`` -> ``1:06:40``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
