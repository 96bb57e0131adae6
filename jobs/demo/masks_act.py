"""The demo's second act: masks of the sounding objects, in a synthetic AVSBench-MS3."""

from __future__ import annotations

from pathlib import PurePath

from jobs.demo.act import Act
from jobs.demo.table import verdict
from jobs.runs.evaluation import evaluate_run
from jobs.runs.folder import RunFolder
from jobs.tables.report import Report
from pipelines.synthetic.avs_clips import NUM_SECONDS
from pipelines.synthetic.avs_layout import blind_scores
from pipelines.synthetic.configs import SyntheticAVSConfig

REFERENCE, FROZEN = "stg-cma", "frozen"
"""Rows of ``jobs/ablations/demo_masks.yaml`` that pictures and conclusions use."""


def masks_act(num_clips: int = 400) -> Act:
    """The act on the synthetic AVSBench-MS3.

    Args:
        num_clips: Training clips. Validation gets an eighth of this number, test three eighths.

    Raises:
        ConfigError: If there are too few clips.
    """
    config = SyntheticAVSConfig(
        layout="ms3", num_train=num_clips, num_val=max(1, num_clips // 8), num_test=max(1, 3 * num_clips // 8)
    )
    return Act(
        name="masks",
        dataset="avs-ms3",
        synthetic=config,
        fbank="demo",
        ablation="demo_masks.yaml",
        columns={"test/miou": "mIoU %", "test/fscore": "F %"},
        task="Synthetic AVSBench-MS3: the model must mask the sounding objects. A small and a big object are on "
        "screen, and one of them, both or neither sound. Small objects sound high, big ones low; sizes, places and "
        "sources change every second.",
        measured="mIoU and F-score over {scores} frames of {clips} test clips",
        scores_per_clip=NUM_SECONDS,
        equal_in_every_row="data, steps and learning rates",
        baselines=lambda: {f"without listening: {name}": value for name, value in blind_scores(config, "test").items()},
        closing=closing,
        pictures=pictures,
    )


def closing(report: Report) -> list[str]:
    """Paragraphs below the table: what the intervals show and do not show."""
    adapting = verdict(report, FROZEN, "adapting the frozen backbone")
    return [
        f"Shows: {adapting}, against the same decoder on the plain backbone. That decoder hears too, but its attention "
        "(TPAVI) sums the sound of all seconds of a clip.",
        "Does not show: anything about larger backbones or about real clips, whose sources seldom change every second.",
    ]


def pictures(report: Report, runs: str) -> dict[str, bytes]:
    """``masks_best.png`` and ``masks_worst.png``: the best and worst test clips of the reference row's first seed, and
    below them the frozen backbone's masks."""
    names = {row.row.name: row.trials[0].run_name for row in report.rows}
    folder = RunFolder(f"{runs}/{names[REFERENCE]}")
    result = evaluate_run(folder.uri, baseline=f"{runs}/{names[FROZEN]}", device="cpu")
    return {PurePath(file).name: folder.read(file) for file in result.files if file.endswith(".png")}
