"""What the demo must know about one of its acts: the data, the models, the table and the pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jobs.preparation.synthesis import AnyConfig
from jobs.tables.report import Report


@dataclass(frozen=True, kw_only=True)
class Act:
    """One synthetic data set, the models compared on it, and how the result is shown.

    Metrics and baselines are fractions. ``report`` in a signature below is that of the finished sweep.
    """

    name: str
    """Folder below the demo's output, and ``demo-<name>`` is the sweep's name."""
    dataset: str
    """Layout in which the clips are written and read, a key of ``pipelines.datasets.DATASETS``."""
    synthetic: AnyConfig
    """Size, seed and task of the synthetic set."""
    fbank: str
    """Filter bank that the shards store."""
    ablation: str
    """File in ``jobs/ablations`` that lists the rows of the table; its first metric is the headline."""
    columns: Mapping[str, str]
    """Metric -> heading; one column each, and the first one also has an interval."""
    task: str
    """What is seen and heard, and what the model must find."""
    measured: str
    """What the headline is a mean of; may contain ``{clips}`` and ``{scores}``."""
    scores_per_clip: int
    """Seconds or frames of a clip that are scored."""
    equal_in_every_row: str
    """What the rows have in common."""
    baselines: Callable[[], Mapping[str, float]]
    """() -> title -> headline on test without any training; these are the last lines of the table."""
    closing: Callable[[Report], list[str]]
    """(report) -> paragraphs below the table: what the numbers show and what they do not show."""
    pictures: Callable[[Report, str], dict[str, bytes]]
    """(report, folder of the run folders) -> file name -> PNG."""
