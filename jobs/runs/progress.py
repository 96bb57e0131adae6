"""Progress display of a run on stderr: a bar on a terminal, and one line per epoch."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from stgcma.training.checkpoint import LoopState
from stgcma.training.engine import StepReport


class Reporter:
    """Shows the progress of a run. Every run reports rows; only runs in this process report single steps.

    Args:
        epochs: Epochs of the run.
        console: Where to print; None: stderr.
    """

    def __init__(self, epochs: int, *, console: Console | None = None) -> None:
        self.epochs = epochs
        self.console = console or Console(stderr=True, highlight=False)
        self.steps_per_epoch = 0
        self._progress: Progress | None = None
        self._recent: deque[tuple[float, int]] = deque(maxlen=50)
        self._losses: deque[float] = deque(maxlen=50)
        self._selection = ""

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def start(self, state: LoopState, steps_per_epoch: int) -> None:
        """Take note that the run starts or continues at ``state``."""
        self.steps_per_epoch = steps_per_epoch
        done = state.epoch * steps_per_epoch + state.step
        if state.epoch >= self.epochs:
            self.message("All epochs are done. Only the evaluation is left.")
        elif done:
            self.message(f"Continuing from the checkpoint at epoch {state.epoch + 1}, step {state.step + 1}.")
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[status]}"),
            )
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._progress.start()
            self._progress.add_task(
                self._description(done), total=self.epochs * steps_per_epoch, completed=done, status=""
            )

    def step(self, report: StepReport) -> None:
        """Show an optimiser step of a run in this process."""
        self._recent.append((time.monotonic(), report.num_clips))
        self._losses.append(report.loss)
        if self._progress is None:
            return
        seconds = self._recent[-1][0] - self._recent[0][0]
        rate = sum(clips for _, clips in list(self._recent)[1:]) / seconds if seconds > 0 else 0.0
        done = report.epoch * self.steps_per_epoch + report.step + 1
        self._update(done, sum(self._losses) / len(self._losses), report.learning_rates, rate)

    def row(self, row: dict[str, Any]) -> None:
        """Show a recorded row: print a line for an epoch, move the bar for a step of a run in other processes."""
        metrics = row["metrics"]
        if row["kind"] == "epoch":
            split, name, value = _selected(metrics)
            self._selection = f"{split} {name} {value:.3f}, best {metrics['best/metric']:.3f}"
            rate = metrics["time/train_seconds"]
            self.message(
                f"epoch {round(row['epoch']):>3}/{self.epochs}  loss {metrics['train/epoch_loss']:.4f}  "
                f"{split} {name} {value:.4f}  best {metrics['best/metric']:.4f} "
                f"(epoch {metrics['best/epoch']:.0f})  took {rate:.0f} s"
            )
        elif row["kind"] == "step" and self._progress is not None and not self._recent:
            rates = {key.removeprefix("lr/"): rate for key, rate in metrics.items() if key.startswith("lr/")}
            self._update(row["step"], metrics["train/loss"], rates, metrics["train/clips_per_second"])

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _description(self, done: int) -> str:
        epoch = min(done // max(self.steps_per_epoch, 1) + 1, self.epochs)
        return f"epoch {epoch}/{self.epochs}"

    def _update(self, done: int, loss: float, rates: dict[str, float], clips_per_second: float) -> None:
        assert self._progress is not None
        shown = "  ".join(f"{group} {rate:.1e}" for group, rate in rates.items())
        status = f"loss {loss:.3f}  lr {shown}  {clips_per_second:.1f} clips/s  {self._selection}"
        self._progress.update(
            self._progress.task_ids[0], completed=done, description=self._description(done - 1), status=status
        )


class Silent(Reporter):
    """Shows nothing, for callers that show their own progress."""

    def __init__(self) -> None:
        super().__init__(epochs=0, console=Console(file=sys.stderr, quiet=True))


class Collecting(Silent):
    """Shows nothing and keeps messages from after the end of a run, such as a tracking server that did not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self._is_over = False

    def message(self, text: str) -> None:
        if self._is_over:
            self.warnings.append(text)

    def close(self) -> None:
        self._is_over = True


def _selected(metrics: dict[str, float]) -> tuple[str, str, float]:
    """Split, name and value of the selection metric, which is the first ``val/`` or ``test/`` entry of an epoch row."""
    key = next(key for key in metrics if key.startswith(("val/", "test/")))
    split, _, name = key.partition("/")
    return split, name, metrics[key]
