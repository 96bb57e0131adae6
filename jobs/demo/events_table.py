"""The table the demo ends with: accuracies, intervals, paired differences, and what they do and do not show."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jobs.runs.evaluation import read_per_clip
from jobs.runs.folder import FACTS, RunFolder
from jobs.tables.ablation import Ablation
from jobs.tables.intervals import Interval, bootstrap_difference, bootstrap_over_clips
from jobs.tables.trials import find_runs
from pipelines.synthetic.ave_clips import SyntheticConfig, make_plan
from pipelines.synthetic.ceilings import Ceilings, compute_ceilings
from stgcma.errors import RunFailedError

TASK_TITLES = {
    "t1": "a second is an event when a shape is seen and its own timbre is heard",
    "t3": "as t1, and the pitch must fit the size on screen; impostors sound like the other size",
    "t4": "two objects are on screen, and the pitch says which one sounds",
}
REFERENCE, LINEAR, NONLINEAR, FROZEN = "stg-cma", "no-interaction", "no-interaction-gelu", "head-only"
"""Rows of ``jobs/ablations/demo.yaml`` that the closing lines compare."""
CHANCE = "chance (most frequent class)"


@dataclass(frozen=True, kw_only=True)
class DemoRow:
    """One line of the table."""

    name: str
    title: str
    trainable: int
    accuracy: Interval
    """On test, over seeds and clips; fractions."""
    per_seed: tuple[float, ...]
    difference: Interval | None
    """This row minus the reference row, paired by clip and seed; None for the reference itself."""


@dataclass(frozen=True, kw_only=True)
class DemoTable:
    """Everything that is printed about the results."""

    task: str
    num_clips: int
    num_segments: int
    seeds: tuple[int, ...]
    rows: tuple[DemoRow, ...]
    chance: float
    """Test accuracy of always answering the most frequent class of the training split."""
    ceilings: Ceilings

    def row(self, name: str) -> DemoRow:
        return next(row for row in self.rows if row.name == name)


def collect_table(ablation: Ablation, runs: str, config: SyntheticConfig) -> DemoTable:
    """Read the finished trials of the demo's ablation from their run folders.

    Args:
        ablation: The demo's table.
        runs: Folder of the run folders.
        config: The synthetic set they were trained on.

    Raises:
        RunFailedError: If a trial has not finished.
    """
    folders = find_runs(runs)
    correct: dict[str, np.ndarray] = {}
    trainable: dict[str, int] = {}
    clip_ids: tuple[str, ...] | None = None
    for row in ablation.rows:
        scores = []
        for trial in (trial for trial in ablation.trials if trial.row == row.name):
            name = folders.get(trial.fingerprint)
            folder = RunFolder(f"{runs}/{name}")
            if name is None or not folder.exists("evaluation/test/per_clip.safetensors"):
                raise RunFailedError(
                    f"The table needs every trial, but {row.name} seed {trial.seed} has not finished in {runs}. "
                    "Start the same command again: it runs what is missing."
                )
            ids, values = read_per_clip(folder, "test")
            assert clip_ids in (None, ids), "one dataset, one order of clips"
            clip_ids = ids
            scores.append(values["correct"].numpy())
            trainable[row.name] = folder.read_json(FACTS)["parameters"]["trainable"]
        correct[row.name] = np.stack(scores)
    rows = tuple(
        DemoRow(
            name=row.name,
            title=row.title,
            trainable=trainable[row.name],
            accuracy=bootstrap_over_clips(correct[row.name]),
            per_seed=tuple(correct[row.name].mean(axis=(1, 2)).tolist()),
            difference=None
            if row.name == ablation.compare_with
            else bootstrap_difference(correct[row.name], correct[ablation.compare_with]),
        )
        for row in ablation.rows
    )
    _, num_clips, num_segments = correct[ablation.compare_with].shape
    return DemoTable(
        task=config.task,
        num_clips=num_clips,
        num_segments=num_segments,
        seeds=ablation.seeds,
        rows=rows,
        chance=chance_accuracy(config),
        ceilings=compute_ceilings(config.task),
    )


def chance_accuracy(config: SyntheticConfig) -> float:
    """Always the class that is most frequent in training, on test."""
    train, test = (
        np.array([make_plan(config, split, index).labels for index in range(config.split_sizes[split])])
        for split in ("train", "test")
    )
    return float((test == np.bincount(train.ravel()).argmax()).mean())


def format_table(table: DemoTable) -> str:
    """The table and its reading, percentages."""
    seconds = table.num_clips * table.num_segments
    width = max(len(title) for title in (*(row.title for row in table.rows), CHANCE))
    against = f"against {table.row(REFERENCE).title}, paired"
    lines = [
        f"Synthetic AVE, task {table.task}: {TASK_TITLES[table.task]}.",
        f"Test accuracy over {seconds:,} seconds of {table.num_clips} clips, mean of {_count(table.seeds, 'seed')}; "
        "checkpoints selected on val,",
        "the same data, steps and choice of learning rate in every row; 95 % bootstrap intervals over clips and seeds.",
        "",
        f"{'':{width}}  {'trainable':>9}  {'accuracy %':>10}  {'interval':>13}  {against}",
    ]
    for row in table.rows:
        low, high = 100 * row.accuracy.low, 100 * row.accuracy.high
        lines.append(
            f"{row.title:{width}}  {row.trainable:9,}  {100 * row.accuracy.mean:10.1f}  {low:5.1f} - {high:5.1f}"
            + ("" if row.difference is None else f"  {format_difference(row.difference)}")
        )
    lines.append(f"{CHANCE:{width}}  {0:9,}  {100 * table.chance:10.1f}")
    found = table.ceilings
    lines += [
        "",
        "Perfect observers of a single second: "
        f"eyes alone {100 * found.visual:.1f}, ears alone {100 * found.audio:.1f}, a sum of what both say "
        f"{100 * found.additive:.1f} (at the very most {100 * found.additive_limit:.1f}), both together 100.",
        *reading(table),
    ]
    return "\n".join(lines)


def reading(table: DemoTable) -> list[str]:
    """What these numbers show and what they do not, from the intervals alone."""
    adapting = _verdict(table, FROZEN, "adapting the frozen backbone")
    interaction = _verdict(table, LINEAR, "interaction")
    head = _verdict(table, NONLINEAR, "interaction over a non-linear head")
    if table.ceilings.additive_limit == 1:
        why = "A sum of the modalities decides this task, so interaction is not needed here."
    else:
        why = "The task needs a product of the modalities, which linear heads on separate branches cannot form."
    return [
        f"Shows: {adapting}; {interaction}; {head}. {why}",
        "Does not show: anything about real clips. Drawn shapes, one training set of one size, one tiny backbone; the "
        "published head is linear, so the row with GELU is the fair rival of interaction.",
    ]


def _verdict(table: DemoTable, rival: str, subject: str) -> str:
    difference = table.row(rival).difference
    assert difference is not None
    gain = format_difference(Interval(-difference.mean, -difference.high, -difference.low))
    if not difference.excludes_zero:
        return f"{subject} makes no clear difference, {gain}"
    return f"{subject} {'helps' if difference.mean < 0 else 'hurts'}, {gain}"


def format_difference(difference: Interval) -> str:
    """``-32.1 (-35.0 to -29.2)`` percentage points."""
    mean, low, high = (round(100 * value, 1) + 0.0 for value in (difference.mean, difference.low, difference.high))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def as_json(table: DemoTable) -> dict[str, Any]:
    """Plain values, fractions."""
    return asdict(table)


def _count(items: tuple, noun: str) -> str:
    return f"{len(items)} {noun}{'s' if len(items) != 1 else ''}"
