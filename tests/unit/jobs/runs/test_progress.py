"""Progress display of a run: a bar with loss, rates and speed on a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from jobs.runs.progress import Reporter, Silent
from stgcma.training.checkpoint import LoopState
from stgcma.training.engine import StepReport

START = LoopState(fingerprint="", data_digest="", epoch=0, step=0)
EPOCH_ROW = {
    "kind": "epoch",
    "step": 10,
    "epoch": 1.0,
    "metrics": {
        "val/accuracy": 0.71234,
        "train/epoch_loss": 1.5,
        "time/train_seconds": 12.3,
        "best/metric": 0.75,
        "best/epoch": 1.0,
    },
}


def reporter(terminal):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=160, highlight=False)
    return Reporter(epochs=4, console=console), stream


def step(index, loss=2.0):
    rates = {"adapters": 5e-5, "gates": 5e-5, "head": 5e-6}
    return StepReport(epoch=index // 10, step=index % 10, loss=loss, num_clips=2, learning_rates=rates)


def test_quiet_lines_without_a_terminal():
    shown, stream = reporter(terminal=False)
    shown.start(START, 10)
    for index in range(10):
        shown.step(step(index))
    shown.row(EPOCH_ROW)
    shown.close()
    assert stream.getvalue() == ("epoch   1/4  loss 1.5000  val accuracy 0.7123  best 0.7500 (epoch 1)  took 12 s\n")


def test_a_bar_on_a_terminal():
    shown, stream = reporter(terminal=True)
    shown.start(START, 10)
    for index in range(7):
        shown.step(step(index, loss=3.0))
    shown.row(EPOCH_ROW)
    shown.step(step(10))
    task = shown._progress.tasks[0]
    assert (task.completed, task.total, task.description) == (11, 40, "epoch 2/4")
    assert "loss 2.875" in task.fields["status"]
    assert "adapters 5.0e-05  gates 5.0e-05  head 5.0e-06" in task.fields["status"]
    assert "clips/s" in task.fields["status"]
    assert task.fields["status"].endswith("val accuracy 0.712, best 0.750")
    shown.close()
    assert "epoch   1/4" in stream.getvalue()


def test_a_resumed_run_says_where_it_continues():
    shown, stream = reporter(terminal=False)
    shown.start(LoopState(fingerprint="", data_digest="", epoch=2, step=3), 10)
    assert stream.getvalue() == "Continuing from the checkpoint at epoch 3, step 4.\n"


def test_rows_of_a_run_elsewhere_move_the_bar():
    shown, _ = reporter(terminal=True)
    shown.start(START, 10)
    metrics = {"train/loss": 1.25, "train/clips_per_second": 3.0, "lr/adapters": 1e-4}
    shown.row({"kind": "step", "step": 5, "epoch": 0.5, "metrics": metrics})
    task = shown._progress.tasks[0]
    assert task.completed == 5
    assert task.fields["status"].startswith("loss 1.250  lr adapters 1.0e-04  3.0 clips/s")
    shown.close()


@pytest.mark.parametrize("text", ["[bold]not markup[/bold]", "plain"])
def test_messages_are_printed_as_they_are(text):
    shown, stream = reporter(terminal=False)
    shown.message(text)
    assert stream.getvalue() == f"{text}\n"


def test_silent(capsys):
    shown = Silent()
    shown.start(START, 10)
    shown.step(step(0))
    shown.row(EPOCH_ROW)
    shown.message("x")
    shown.close()
    assert capsys.readouterr() == ("", "")
