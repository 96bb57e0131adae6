"""The demo's first act: audio-visual events in a synthetic AVE."""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np

from jobs.demo.act import Act
from jobs.demo.events_pictures import accuracy_picture, clips_picture
from jobs.demo.table import verdict
from jobs.tables.report import Report
from pipelines.synthetic.ave_clips import make_clip, make_plan
from pipelines.synthetic.ceilings import compute_ceilings
from pipelines.synthetic.configs import SyntheticConfig
from pipelines.synthetic.scenes import NUM_SECONDS, SyntheticTask

TASKS: dict[str, str] = {
    "t1": "a second is an event when a shape is seen and its own timbre is heard",
    "t3": "as in t1, but the pitch must also fit the size on screen; impostors sound like the other size",
    "t4": "two objects are on screen, and the pitch says which one sounds",
}
REFERENCE, LINEAR, NONLINEAR, FROZEN = "stg-cma", "no-interaction", "no-interaction-gelu", "head-only"
"""Rows of ``jobs/ablations/demo.yaml`` that pictures and conclusions use."""
NUM_PICTURE_CLIPS = 4


def events_act(task: str = "t4", num_clips: int = 400) -> Act:
    """The act on one task of the synthetic AVE.

    Args:
        task: A key of ``TASKS``.
        num_clips: Training clips. Validation gets a fifth of this number, test three eighths.

    Raises:
        ConfigError: If the task is unknown or there are too few clips.
    """
    config = SyntheticConfig(
        task=cast(SyntheticTask, task),
        num_train=num_clips,
        num_val=max(1, num_clips // 5),
        num_test=max(1, 3 * num_clips // 8),
    )
    return Act(
        name=task,
        dataset="ave",
        synthetic=config,
        fbank="demo",
        ablation="demo.yaml",
        columns={"test/accuracy": "accuracy %"},
        task=f"Synthetic AVE, task {task}: {TASKS[task]}.",
        measured="Test accuracy over {scores} seconds of {clips} clips",
        scores_per_clip=NUM_SECONDS,
        equal_in_every_row="data, steps and choice of learning rate",
        baselines=lambda: {"chance (most frequent class)": chance_accuracy(config)},
        closing=partial(closing, config.task),
        pictures=partial(pictures, config),
    )


def chance_accuracy(config: SyntheticConfig) -> float:
    """Test accuracy of always answering the most frequent class of the training clips."""
    train, test = (
        np.array([make_plan(config, split, index).labels for index in range(config.split_sizes[split])])
        for split in ("train", "test")
    )
    return float((test == np.bincount(train.ravel()).argmax()).mean())


def closing(task: SyntheticTask, report: Report) -> list[str]:
    """Paragraphs below the table: what perfect observers reach, and what the intervals show and do not show."""
    found = compute_ceilings(task)
    if found.additive_limit == 1:
        why = "The sum of the modalities decides this task, so it needs no interaction."
    else:
        why = "The task needs a product of the modalities, which linear heads on separate branches cannot form."
    adapting = verdict(report, FROZEN, "adapting the frozen backbone")
    interaction = verdict(report, LINEAR, "interaction")
    head = verdict(report, NONLINEAR, "interaction over a non-linear head")
    return [
        f"Perfect observers of a single second: eyes alone {100 * found.visual:.1f}, ears alone "
        f"{100 * found.audio:.1f}, the sum of both {100 * found.additive:.1f} (at most "
        f"{100 * found.additive_limit:.1f}), both together 100.",
        f"Shows: {adapting}; {interaction}; {head}. {why}",
        "Does not show: anything about real clips. The shapes are drawn, and there is one training set of one size and "
        "one tiny backbone. The published head is linear, so the fair comparison for interaction is the row with GELU.",
    ]


def pictures(config: SyntheticConfig, report: Report, runs: str) -> dict[str, bytes]:
    """``accuracy.png``: the table as bars. ``clips.png``: the first test clips with the answers of three rows."""
    ceilings, rows = compute_ceilings(config.task), {row.row.name: row for row in report.rows}
    marks = {
        "chance": chance_accuracy(config),
        "ears": ceilings.audio,
        "eyes": ceilings.visual,
        "sum": ceilings.additive,
    }
    answers: dict[str, dict[str, np.ndarray]] = {}
    for row in (rows[name] for name in (REFERENCE, LINEAR, NONLINEAR)):
        trial = row.trials[0]
        video_ids = (clip_id.rpartition(":")[0] for clip_id in trial.clip_ids)
        answers[row.row.title] = dict(zip(video_ids, trial.clip_scores["predicted"].astype(int), strict=True))
    clips = [make_clip(config, "test", index) for index in range(min(NUM_PICTURE_CLIPS, config.num_test))]
    return {"accuracy.png": accuracy_picture(report, marks), "clips.png": clips_picture(clips, answers)}
