"""The record of a task: its facts as plain values, without torch. ``stgcma.tasks.TASKS`` lists the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stgcma.config import Branch
from stgcma.errors import ConfigError

Capability = Literal["stage_maps", "plain_visual"]

CAPABILITIES: dict[str, str] = {
    "stage_maps": "maps of visual tokens at several resolutions",
    "plain_visual": "a path for frames through the frozen backbone alone",
}
"""Capability in ``Backbone.provides`` -> its description in messages."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that a task reports on a split, and a column of its tables. Higher is better."""

    name: str
    """Key of ``Metrics.compute()``."""
    title: str = ""
    """Heading of the column. Empty: ``name`` with ``-`` for ``_`` and a space for ``/``."""
    clip_score: str = ""
    """Name of the score in ``Task.per_clip`` whose mean is this metric. Intervals resample this score over clips. Empty
    if the metric is not such a mean."""

    @property
    def heading(self) -> str:
        """Heading of the column in tables."""
        return self.title or self.name.replace("_", "-").replace("/", " ")


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """All facts about one task."""

    name: str
    implementation: str
    """``module:Class`` of the ``stgcma.tasks.base.Task`` with head, loss, metrics and reader. It is imported on use."""
    annotation: str
    """``ShardMetadata.annotation`` of the shards that the task reads: ``events``, ``masks`` or ``questions``."""
    num_segments: int
    metrics: tuple[Metric, ...]
    """Metrics of every split, without values per class, in the order of the columns of a table."""
    selection_metric: str
    """Name of the metric that selects the checkpoint."""
    class_metric: str = ""
    """Pattern of the keys in ``Metrics.compute()`` for values per class: ``accuracy/class_{index}`` with the position
    of the class among the class names of the shards, or ``category/{name}/miou`` with its name. Empty: there are
    none."""
    fbank: str = "ave"
    """Cut of the sound into segments: a key of ``BackboneSpec.fbanks``."""
    requires: frozenset[Capability] = frozenset()
    """Capabilities that the backbone must provide."""
    branches: tuple[Branch, ...] = ()
    """Branches that must run. Empty: one branch is enough."""
    unit: Literal["clips", "videos", "questions"] = "clips"
    """What an epoch counts. ``clips``: rows of the split. ``videos``: videos with a question in the split.
    ``questions``: questions of the split; the scores are then stored as ``<video>/<question id>``."""
    predicts_class_names: bool = False
    """Whether ``model.num_classes`` must equal the number of class names in the shards."""
    gallery: str = ""
    """``module:Class`` that draws the best and worst clips; ``jobs/runs/gallery.py`` imports it. Empty: none."""

    def __post_init__(self) -> None:
        if self.selection_metric not in self.metric_names:
            raise ConfigError(
                f"Task {self.name!r} selects by {self.selection_metric!r}, which is not among its metrics "
                f"({', '.join(self.metric_names)}). Add it to metrics, or name one of them."
            )

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(metric.name for metric in self.metrics)

    def metric(self, name: str) -> Metric:
        """The metric with this name.

        Raises:
            ConfigError: If the task does not report it.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise ConfigError(f"Task {self.name!r} does not report {name!r}; it reports: {', '.join(self.metric_names)}.")

    def split_by_class(
        self, values: Mapping[str, float], class_names: tuple[str, ...]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Split the result of ``Metrics.compute()`` into metrics of the whole split and values of ``class_metric``.

        Returns:
            Name -> value, and class name -> value.
        """
        before, _, rest = self.class_metric.partition("{")
        placeholder, _, after = rest.partition("}")
        metrics, classes = {}, {}
        for key, value in values.items():
            label = key[len(before) : len(key) - len(after)]
            if not placeholder or not label or key != before + label + after:
                metrics[key] = value
            elif placeholder == "name":
                classes[label] = value
            else:
                index = int(label)
                classes[class_names[index] if index < len(class_names) else f"class {index}"] = value
        return metrics, classes
