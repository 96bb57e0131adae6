"""``Gallery``, the base class for pictures of the best and worst clips. The record of a task names its gallery."""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod

from stgcma.backbone_spec import BackboneSpec
from stgcma.data.batch import AVBatch
from stgcma.tasks.base import Outputs
from stgcma.tasks.spec import TaskSpec


class Gallery(ABC):
    """Sees the batches of an evaluation and keeps the few clips to draw.

    Args:
        backbone: Backbone of the evaluated model, which knows how frames are normalised.
        only: Ids of the clips to keep, instead of the best and worst: the clips of another run's gallery, for which
            this run is the baseline.
    """

    def __init__(self, backbone: BackboneSpec, only: frozenset[str] = frozenset()) -> None:
        self.backbone = backbone
        self.only = only

    @abstractmethod
    def add(self, batch: AVBatch, outputs: Outputs) -> None:
        """Take one batch and its outputs. ``evaluate`` calls it as ``on_batch``."""

    @property
    @abstractmethod
    def clip_ids(self) -> frozenset[str]:
        """The clips to draw."""

    @abstractmethod
    def pictures(
        self, *, title: str, baseline: Gallery | None = None, baseline_name: str = "baseline"
    ) -> dict[str, bytes]:
        """Draw the clips.

        Args:
            title: Title of each picture.
            baseline: A gallery of the same class, made with ``only=self.clip_ids``.
            baseline_name: Name of the baseline in the pictures.

        Returns:
            File name -> PNG bytes.
        """


def new_gallery(task: TaskSpec, backbone: BackboneSpec, *, only: frozenset[str] = frozenset()) -> Gallery | None:
    """An empty gallery for a task; None if the task has none."""
    return pkgutil.resolve_name(task.gallery)(backbone, only=only) if task.gallery else None
