"""Base classes of tasks: ``Task`` with its head, loss, reader and metrics, and the model of encoder and head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from stgcma.backbone_spec import BackboneSpec
from stgcma.config import ModelConfig
from stgcma.data.batch import AVBatch
from stgcma.data.reader import Reader, Reading
from stgcma.models.encoder import AudioVisualEncoder, AVFeatures
from stgcma.tasks.spec import TaskSpec

Outputs = dict[str, Tensor]
"""Output of a head, by name. It may hold more than ``logits`` if the loss needs it."""


class Metrics(ABC):
    """Sums of one evaluation. ``update`` adds batches, ``merge`` adds workers, and only ``compute`` divides."""

    sums: dict[str, Tensor]
    """float64 tensors of fixed shape on the CPU. The sums of two workers are merged by addition."""

    @abstractmethod
    def update(self, outputs: Outputs, batch: AVBatch) -> None:
        """Add one batch."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The metrics, e.g. ``{"accuracy": 0.71, ...}``: fractions in [0, 1], without the name of the split."""

    def merge(self, other: dict[str, Tensor]) -> None:
        """Add the sums of another worker."""
        for name, value in other.items():
            self.sums[name] = self.sums[name] + value


class Task(ABC):
    """A task for one model configuration. ``build_task`` makes it from its record in ``TASKS``."""

    reader: ClassVar[type[Reader]]
    """Class that makes batches from the shards."""

    def __init__(self, spec: TaskSpec, config: ModelConfig) -> None:
        self.spec = spec
        self.config = config

    def reading(self, backbone: BackboneSpec) -> Reading:
        """What the task reads, for ``build_loaders``.

        Raises:
            ConfigError: If the backbone has no filter bank for the task's segments.
        """
        fbank = backbone.fbank_for(self.spec.fbank)
        return Reading(reader=self.reader, annotation=self.spec.annotation, fbank=fbank)

    @abstractmethod
    def build_head(self, encoder: AudioVisualEncoder) -> nn.Module:
        """Build the head, with ``forward(features: AVFeatures, batch: AVBatch) -> Outputs``.

        Its parameters belong in a ``TrainableModule``.
        """

    @abstractmethod
    def loss(self, outputs: Outputs, batch: AVBatch) -> Tensor:
        """Training loss, a scalar: a mean over the batch."""

    @abstractmethod
    def new_metrics(self, *, detailed: bool = False) -> Metrics:
        """Metrics without data. ``detailed`` also collects values per class, category or question type."""

    def per_clip(self, outputs: Outputs, batch: AVBatch) -> dict[str, dict[str, Tensor]]:
        """Clip id -> name -> scores of the clip, e.g. ``correct [S]``. Intervals resample these scores over clips.

        A name must have the same shape for every clip.
        """
        return {}


class AudioVisualModel(nn.Module):
    """Encoder and head as one module, which is trained, counted and saved."""

    def __init__(self, encoder: AudioVisualEncoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, batch: AVBatch) -> Outputs:
        """Encode the batch and run the head."""
        features: AVFeatures = self.encoder(visual=batch.frames, audio=batch.fbank)
        return self.head(features, batch)
