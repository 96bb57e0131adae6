"""Makes reports of the demo's acts with given numbers."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.demo.act import Act
from jobs.demo.runner import load_comparison
from jobs.tables.report import SEEDS_AND_CLIPS, Comparison, Estimate, Report, RowReport, TrialRecord

Interval = tuple[float, float, float]
"""(mean, low, high)."""

REFERENCE_MEAN = 0.7


def estimate(mean: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(mean=mean, low=low, high=high, num_seeds=1, method=SEEDS_AND_CLIPS)


def make_report(act: Act, differences: Mapping[str, Interval], *, num_clips: int = 20) -> Report:
    """A report with the reference row at 70 % +- 2 points and rows with the given differences from it."""
    ablation = load_comparison(act, "shards", (0,), ())
    by_name = {row.name: row for row in ablation.rows}
    trial = TrialRecord(
        seed=0,
        fingerprint="0" * 10,
        run_name="run",
        metrics={},
        best_epoch=1,
        curve=(),
        gates={},
        protocol="val",
        data_digest="d" * 64,
        trainable=1234,
        total=5678,
        clip_ids=tuple(f"clip{index}" for index in range(num_clips)),
        clip_scores={},
    )
    rows, comparisons = [], []
    for name, difference in {ablation.compare_with: (0.0, 0.0, 0.0), **differences}.items():
        mean = REFERENCE_MEAN + difference[0]
        found = {metric: estimate(mean, mean - 0.02, mean + 0.02) for metric in ablation.metrics}
        rows.append(RowReport(row=by_name[name], trials=(trial,), estimates=found, missing=()))
        if name in differences:
            reference = by_name[ablation.compare_with]
            comparisons.append(Comparison(row=by_name[name], reference=reference, estimate=estimate(*difference)))
    return Report(
        ablation=ablation,
        rows=tuple(rows),
        comparisons=tuple(comparisons),
        published=(),
        reference_points=(),
        fill_command="",
    )
