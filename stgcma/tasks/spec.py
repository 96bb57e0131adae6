"""What a task is, as plain values: everything that can be known of it without torch.

The tasks themselves are listed in ``stgcma.tasks.TASKS``.
"""

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
"""What a backbone may provide beyond features (``Backbone.provides``), as messages call it."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number a task reports on a split, which is one column of a table. Higher is better."""

    name: str
    """Key of ``Metrics.compute()``."""
    title: str = ""
    """What tables call it; empty: its name, with ``-`` for ``_`` and a blank for ``/``."""
    clip_score: str = ""
    """The score of ``Task.per_clip`` that the metric is the mean of; intervals over clips are drawn from it. Empty
    where the metric is not such a mean."""

    @property
    def heading(self) -> str:
        return self.title or self.name.replace("_", "-").replace("/", " ")


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """All facts about one task."""

    name: str
    implementation: str
    """``module:Class`` of its ``stgcma.tasks.base.Task``: head, loss, metrics and reader; imported on use."""
    annotation: str
    """``ShardMetadata.annotation`` of the shards that it reads: ``events``, ``masks`` or ``questions``."""
    num_segments: int
    metrics: tuple[Metric, ...]
    """What it reports on every split, besides values per class, in the order of a table's columns."""
    selection_metric: str
    """The metric that selects the checkpoint."""
    class_metric: str = ""
    """How ``Metrics.compute()`` names the value of one class: ``accuracy/class_{index}`` by the number of the class
    among the shards' class names, ``category/{name}/miou`` by its name. Empty: nothing is reported per class."""
    fbank: str = "ave"
    """How sound is cut into segments: a key of ``BackboneSpec.fbanks``."""
    requires: frozenset[Capability] = frozenset()
    """What the backbone must provide."""
    branches: tuple[Branch, ...] = ()
    """Branches that must run; empty: either will do."""
    unit: Literal["clips", "videos", "questions"] = "clips"
    """What an epoch counts. ``clips``: rows of the split. ``videos``: videos that have a question in the split.
    ``questions``: the questions, which the task answers; its scores are stored as ``<video>/<question id>``."""
    predicts_class_names: bool = False
    """Whether ``model.num_classes`` must be the number of class names in the shards."""
    gallery: str = ""
    """``module:Class`` that draws its best and worst clips; ``jobs/runs/gallery.py`` imports it. Empty: none."""

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
        """The metric of that name.

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
        """``Metrics.compute()`` -> values of the whole split, and ``class_metric`` by class name."""
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
