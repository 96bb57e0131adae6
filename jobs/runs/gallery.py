"""Pictures of an evaluation's best and worst clips, for tasks whose record names a gallery."""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod

from stgcma.backbone_spec import BackboneSpec
from stgcma.data.batch import AVBatch
from stgcma.tasks.base import Outputs
from stgcma.tasks.spec import TaskSpec


class Gallery(ABC):
    """Watches an evaluation and keeps the few clips worth drawing.

    Args:
        backbone: Of the model that is evaluated; it tells how the frames were normalised.
        only: Keep the clips with these ids instead: the same clips of another run, to be drawn as the baseline.
    """

    def __init__(self, backbone: BackboneSpec, only: frozenset[str] = frozenset()) -> None:
        self.backbone = backbone
        self.only = only

    @abstractmethod
    def add(self, batch: AVBatch, outputs: Outputs) -> None:
        """Look at one batch and its outputs; passed to ``evaluate`` as ``on_batch``."""

    @property
    @abstractmethod
    def clip_ids(self) -> frozenset[str]:
        """The clips that would be drawn."""

    @abstractmethod
    def pictures(
        self, *, title: str, baseline: Gallery | None = None, baseline_name: str = "baseline"
    ) -> dict[str, bytes]:
        """File name -> PNG.

        Args:
            title: Above each picture.
            baseline: A gallery of the same class, made with ``only=self.clip_ids``.
            baseline_name: What the picture calls it.
        """


def new_gallery(task: TaskSpec, backbone: BackboneSpec, *, only: frozenset[str] = frozenset()) -> Gallery | None:
    """An empty gallery of the task, or None where it has none."""
    return pkgutil.resolve_name(task.gallery)(backbone, only=only) if task.gallery else None
