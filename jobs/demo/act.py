"""``Act``, the description of one part of the demo: its data, models, table and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jobs.preparation.synthesis import AnyConfig
from jobs.tables.report import Report


@dataclass(frozen=True, kw_only=True)
class Act:
    """One synthetic data set, the models that are compared on it, and the display of the result.

    Metrics and baselines are fractions. ``report`` in the signatures below is the report of the finished sweep.
    """

    name: str
    """Name of the act's folder in the demo's output. The sweep is named ``demo-<name>``."""
    dataset: str
    """Dataset whose layout the clips have, a key of ``pipelines.datasets.DATASETS``."""
    synthetic: AnyConfig
    """Size, seed and task of the synthetic set."""
    fbank: str
    """Filter bank that is stored in the shards."""
    ablation: str
    """File in ``jobs/ablations`` with the rows of the table. Its first metric is the main one."""
    columns: Mapping[str, str]
    """Metric -> heading of its column. The first column also has an interval."""
    task: str
    """Sentences above the table: what the clips show and what the model must find."""
    measured: str
    """What the main metric measures; may contain ``{clips}`` and ``{scores}``."""
    scores_per_clip: int
    """Number of scored seconds or frames per clip."""
    equal_in_every_row: str
    """What the rows have in common."""
    baselines: Callable[[], Mapping[str, float]]
    """() -> {title: main metric on test without any training}, the last lines of the table."""
    closing: Callable[[Report], list[str]]
    """(report) -> paragraphs below the table, which say what the numbers show and do not show."""
    pictures: Callable[[Report, str], dict[str, bytes]]
    """(report, folder of the runs) -> {file name: PNG bytes}."""
