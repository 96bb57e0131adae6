"""Collects the numbers of a table: for each row the published values, our estimates over seeds, and missing trials.

All numbers come from the run folders; no model runs. Times are left out, so two sweeps with the same trained weights
give the same report. The layout is in ``report_formats.py``.
"""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jobs.runs.config import RunConfig
from jobs.runs.evaluation import read_per_clip
from jobs.runs.folder import BEST, RESULT, RunFolder
from jobs.runs.plan import selection_split
from jobs.tables.ablation import Ablation, PublishedMethod, Row, Trial, published_methods
from jobs.tables.intervals import Interval, bootstrap_difference, bootstrap_over_clips
from jobs.tables.trials import TrialStatus, find_runs, trial_states
from stgcma.errors import CheckpointError
from stgcma.tasks import task_spec
from stgcma.tasks.spec import TaskSpec
from stgcma.training.trained_model import decode_model

T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % quantiles of Student's t for 1 to 10 degrees of freedom."""

PER_CLIP = "evaluation/test/per_clip.safetensors"

_SUM_TOLERANCE = 1e-6
"""Scores per clip are float32; a single segment of a million would show."""
_EVALUATE_AGAIN = "Delete result.json and train the run again: its weights are evaluated anew, without training."

SEEDS_AND_CLIPS = "bootstrap over seeds and clips"
SEEDS = "Student's t over seeds"
ONE_SEED_CLIPS = "bootstrap over clips, one seed"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One of our numbers: a mean with its interval, as fractions or differences of fractions."""

    mean: float
    low: float | None
    high: float | None
    num_seeds: int
    method: str
    """How the interval was computed; empty if there is none."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """What the report reads of one finished trial."""

    seed: int
    fingerprint: str
    run_name: str
    metrics: dict[str, float]
    best_epoch: int
    curve: tuple[tuple[float, float], ...]
    """(epoch, selection metric) of every epoch."""
    gates: dict[str, tuple[float, ...]]
    """``audio_to_visual``, ``visual_to_audio`` -> value of each block, from the input up; empty without gates."""
    protocol: str
    data_digest: str
    trainable: int
    total: int
    clip_ids: tuple[str, ...]
    clip_scores: dict[str, np.ndarray]
    """Score -> ``[num_clips, K]``."""


@dataclass(frozen=True, kw_only=True)
class RowReport:
    """One row of the table."""

    row: Row
    trials: tuple[TrialRecord, ...]
    estimates: dict[str, Estimate]
    missing: tuple[TrialStatus, ...]

    @property
    def trainable(self) -> int | None:
        return self.trials[0].trainable if self.trials else None

    @property
    def total(self) -> int | None:
        return self.trials[0].total if self.trials else None

    def difference(self, metric: str) -> float | None:
        """Our value minus the published one, as a fraction; None if either is missing."""
        if metric not in self.estimates or metric not in self.row.paper:
            return None
        return self.estimates[metric].mean - self.row.paper[metric] / 100


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A row compared with the reference row, over the seeds that both have."""

    row: Row
    reference: Row
    estimate: Estimate
    """The difference of the row from the reference."""

    @property
    def verdict(self) -> str:
        """``higher`` or ``lower`` if the interval excludes zero."""
        low, high = self.estimate.low, self.estimate.high
        if low is None or high is None:
            return "one seed, no interval"
        return "higher" if low > 0 else "lower" if high < 0 else "not separated"


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole table."""

    ablation: Ablation
    rows: tuple[RowReport, ...]
    comparisons: tuple[Comparison, ...]
    published: tuple[PublishedMethod, ...]
    """Other methods in the table."""
    reference_points: tuple[PublishedMethod, ...]
    """Other methods in the plot."""
    fill_command: str
    """Command that runs the missing trials; empty if there are none."""

    @property
    def headline(self) -> str:
        return self.ablation.metrics[0]

    def heading(self, metric: str) -> str:
        """Heading of a metric: ``test/audio_visual/counting`` -> ``audio-visual counting``."""
        return self.ablation.task.metric(metric.partition("/")[2]).heading

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(sorted({trial.data_digest for row in self.rows for trial in row.trials}))

    @property
    def protocols(self) -> tuple[str, ...]:
        return tuple(sorted({trial.protocol for row in self.rows for trial in row.trials}))

    @property
    def interval_methods(self) -> tuple[str, ...]:
        estimates = [estimate for row in self.rows for estimate in row.estimates.values()]
        return tuple(sorted({estimate.method for estimate in estimates if estimate.method}))


def collect(ablation: Ablation, output: str) -> Report:
    """Read all trials of a table.

    Args:
        ablation: The table.
        output: Folder of the runs, a directory or an ``s3://`` URI.
    """
    runs = find_runs(output)
    states = trial_states(ablation, output)
    rows = []
    for row in ablation.rows:
        trials, missing = [], []
        for trial in ablation.trials:
            if trial.row != row.name:
                continue
            status = states[trial.row, trial.seed]
            if status.state == "done":
                folder = RunFolder(f"{output.rstrip('/')}/{runs[trial.fingerprint]}")
                try:
                    trials.append(_read_trial(folder, trial, ablation.task))
                except CheckpointError as error:
                    missing.append(replace(status, state="refused", message=str(error)))
            else:
                missing.append(status)
        estimates = {
            metric: estimate
            for metric in _shown_metrics(ablation, trials)
            if (estimate := _estimate(ablation.task, metric, trials)) is not None
        }
        rows.append(RowReport(row=row, trials=tuple(trials), estimates=estimates, missing=tuple(missing)))
    published = published_methods()
    return Report(
        ablation=ablation,
        rows=tuple(rows),
        comparisons=tuple(_compare(ablation, rows)),
        published=published.get(ablation.published or "", ()),
        reference_points=published.get(ablation.plot_with or "", ()),
        fill_command=_fill_command(ablation, rows, output),
    )


def _shown_metrics(ablation: Ablation, trials: Sequence[TrialRecord]) -> list[str]:
    """The metrics of the table, and those of averaged weights if a trial has them."""
    averaged = [metric.replace("test/", "test-averaged/", 1) for metric in ablation.metrics]
    return [*ablation.metrics, *(metric for metric in averaged if any(metric in trial.metrics for trial in trials))]


def _read_trial(folder: RunFolder, trial: Trial, task: TaskSpec) -> TrialRecord:
    """
    Raises:
        CheckpointError: If the files of the run are damaged or contradict each other.
    """
    result = folder.read_json(RESULT)
    ids, scores = _read_clip_scores(folder)
    try:
        record = TrialRecord(
            seed=trial.seed,
            fingerprint=trial.fingerprint,
            run_name=result["run_name"],
            metrics=result["metrics"],
            best_epoch=result["best_epoch"],
            curve=_read_curve(folder, trial.config),
            gates=_read_gates(folder),
            protocol=result["protocol"],
            data_digest=result["data_digest"],
            trainable=result["parameters"]["trainable"],
            total=result["parameters"]["total"],
            clip_ids=ids,
            clip_scores=scores,
        )
    except KeyError as error:
        raise CheckpointError(f"{folder.uri}/{RESULT} is damaged: it has no {error}. {_EVALUATE_AGAIN}") from None
    if result["fingerprint"] != trial.fingerprint:
        raise CheckpointError(
            f"{folder.uri}/{RESULT} is the result of another run, {result['run_name']}. {_EVALUATE_AGAIN}"
        )
    for metric in task.metrics:
        stated, score = record.metrics.get(f"test/{metric.name}"), scores.get(metric.clip_score)
        if stated is not None and score is not None and not abs(score.mean() - stated) <= _SUM_TOLERANCE:
            raise CheckpointError(
                f"{folder.uri}: {RESULT} says test/{metric.name} {stated:.6f}, the scores of its clips in "
                f"{PER_CLIP} give {score.mean():.6f}. {_EVALUATE_AGAIN}"
            )
    return record


def _read_clip_scores(folder: RunFolder) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    if not folder.exists(PER_CLIP):
        return (), {}
    ids, scores = read_per_clip(folder, "test")
    return ids, {name: value.double().reshape(len(ids), -1).numpy() for name, value in scores.items()}


def _read_curve(folder: RunFolder, config: RunConfig) -> tuple[tuple[float, float], ...]:
    """The selection metric of each epoch. If an epoch ran again after a crash, its last row counts."""
    metric = f"{selection_split(config)}/{task_spec(config.task).selection_metric}"
    points = {row["epoch"]: row["metrics"][metric] for row in folder.rows() if row["kind"] == "epoch"}
    return tuple(sorted(points.items()))


def _read_gates(folder: RunFolder) -> dict[str, tuple[float, ...]]:
    """The gates of the selected weights, in the order of the blocks."""
    if not folder.exists(BEST):
        return {}
    found: dict[str, list[tuple[tuple[int, ...], float]]] = {}
    tensors, _ = decode_model(folder.read(BEST), f"{folder.uri}/{BEST}")
    for name, value in tensors.items():
        prefix, _, direction = name.rpartition(".gates.")
        if prefix:
            place = tuple(int(part) for part in prefix.split(".") if part.isdigit())
            found.setdefault(direction, []).append((place, float(value.reshape(-1)[0])))
    return {direction: tuple(value for _, value in sorted(values)) for direction, values in sorted(found.items())}


def _estimate(task: TaskSpec, metric: str, trials: Sequence[TrialRecord]) -> Estimate | None:
    """Mean over seeds with a 95 % interval, over seeds and clips if the trials stored scores per clip."""
    values = [trial.metrics[metric] for trial in trials if metric in trial.metrics]
    if not values:
        return None
    stacked = _stacked(task, metric, trials)
    if stacked is not None:
        method = SEEDS_AND_CLIPS if len(trials) > 1 else ONE_SEED_CLIPS
        interval = bootstrap_over_clips(stacked, clips=_clips(task, trials[0]))
        return _from_interval(interval, len(trials), method)
    return _over_seeds(values)


def _stacked(task: TaskSpec, metric: str, trials: Sequence[TrialRecord]) -> np.ndarray | None:
    """The scores ``[num_seeds, num_rows, K]`` of all trials, if they scored the same rows (clips or questions).

    None for a metric that is not a mean of scores, and for averaged weights, whose scores are not read.
    """
    split, _, name = metric.partition("/")
    score = task.metric(name).clip_score
    if split != "test" or not score or not trials or any(score not in trial.clip_scores for trial in trials):
        return None
    if len({trial.clip_ids for trial in trials}) > 1:
        return None
    return np.stack([trial.clip_scores[score] for trial in trials])


def _clips(task: TaskSpec, trial: TrialRecord) -> tuple[str, ...]:
    """The clip of each scored row. The row of a question is named ``<video>/<question id>``."""
    if task.unit != "questions":
        return trial.clip_ids
    return tuple(name.rpartition("/")[0] for name in trial.clip_ids)


def _from_interval(interval: Interval, num_seeds: int, method: str) -> Estimate:
    return Estimate(mean=interval.mean, low=interval.low, high=interval.high, num_seeds=num_seeds, method=method)


def _over_seeds(values: Sequence[float]) -> Estimate:
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Estimate(mean=mean, low=None, high=None, num_seeds=count, method="")
    quantile = T_QUANTILES[count - 2] if count - 2 < len(T_QUANTILES) else 1.96
    half = quantile * statistics.stdev(values) / math.sqrt(count)
    return Estimate(mean=mean, low=mean - half, high=mean + half, num_seeds=count, method=SEEDS)


def _compare(ablation: Ablation, rows: Iterable[RowReport]) -> Iterable[Comparison]:
    """Compare each row with the reference row by the main metric, over the seeds and data that both have."""
    by_name = {row.row.name: row for row in rows}
    reference, metric = by_name.get(ablation.compare_with), ablation.metrics[0]
    for row in by_name.values():
        if reference is None or row is reference:
            continue
        ours = {trial.seed: trial for trial in row.trials}
        theirs = {trial.seed: trial for trial in reference.trials}
        shared = [
            seed
            for seed in ablation.seeds
            if seed in ours and seed in theirs and ours[seed].data_digest == theirs[seed].data_digest
        ]
        if shared:
            left, right = [ours[seed] for seed in shared], [theirs[seed] for seed in shared]
            estimate = _paired(ablation.task, metric, left, right)
            yield Comparison(row=row.row, reference=reference.row, estimate=estimate)


def _paired(task: TaskSpec, metric: str, ours: Sequence[TrialRecord], theirs: Sequence[TrialRecord]) -> Estimate:
    left, right = _stacked(task, metric, ours), _stacked(task, metric, theirs)
    if left is not None and right is not None and ours[0].clip_ids == theirs[0].clip_ids:
        method = SEEDS_AND_CLIPS if len(ours) > 1 else ONE_SEED_CLIPS
        return _from_interval(bootstrap_difference(left, right, clips=_clips(task, ours[0])), len(ours), method)
    return _over_seeds([a.metrics[metric] - b.metrics[metric] for a, b in zip(ours, theirs, strict=True)])


def _fill_command(ablation: Ablation, rows: Iterable[RowReport], output: str) -> str:
    incomplete = [row for row in rows if any(status.state != "refused" for status in row.missing)]
    if not incomplete:
        return ""
    words = ["stgcma-jobs", "sweep", ablation.path]
    for override in ablation.overrides:
        words += ["--set", override]
    if ablation.shards is not None:
        words += ["--shards", ablation.shards]
    words += ["--output", output]
    if len(incomplete) < len(ablation.rows):
        words += [word for row in incomplete for word in ("--only", row.row.name)]
    if any(status.state == "failed" for row in incomplete for status in row.missing):
        words.append("--retry-failed")
    return shlex.join(words)


def as_json(report: Report) -> dict[str, Any]:
    """Plain values for ``--json``, one entry per row; metrics in percent."""

    def plain(estimate: Estimate) -> dict[str, Any]:
        values = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
        percent = {key: None if value is None else 100 * value for key, value in values.items()}
        return {**percent, "num_seeds": estimate.num_seeds, "interval": estimate.method}

    return {
        "name": report.ablation.name,
        "title": report.ablation.title,
        "data_digests": list(report.digests),
        "protocols": list(report.protocols),
        "rows": [
            {
                "row": row.row.name,
                "title": row.row.title,
                "section": row.row.section,
                "published": row.row.paper,
                "ours": {metric: plain(estimate) for metric, estimate in row.estimates.items()},
                "trainable": row.trainable,
                "total": row.total,
                "runs": {trial.seed: trial.run_name for trial in row.trials},
                "missing": {status.seed: status.message or status.state for status in row.missing},
                "note": row.row.note,
            }
            for row in report.rows
        ],
        "comparisons": [
            {
                "row": item.row.name,
                "with": item.reference.name,
                "metric": report.headline,
                "difference": plain(item.estimate),
                "verdict": item.verdict,
            }
            for item in report.comparisons
        ],
        "fill_command": report.fill_command,
    }
