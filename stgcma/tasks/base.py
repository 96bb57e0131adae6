"""What a task adds to the encoder: a reader, a head, a loss and metrics that are sums until the last line."""

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
"""What a head returns, by name: ``logits`` always; more where a loss needs it."""


class Metrics(ABC):
    """Running sums of one evaluation. Add over batches, merge over workers, divide once in ``compute``."""

    sums: dict[str, Tensor]
    """float64 tensors of fixed shape, on the CPU. Adding two workers' sums element by element merges them."""

    @abstractmethod
    def update(self, outputs: Outputs, batch: AVBatch) -> None:
        """Add one batch."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The finished numbers, e.g. ``{"accuracy": 0.71, ...}``: fractions in [0, 1], without the split prefix."""

    def merge(self, other: dict[str, Tensor]) -> None:
        """Add another worker's sums."""
        for name, value in other.items():
            self.sums[name] = self.sums[name] + value


class Task(ABC):
    """One downstream task of one model configuration; ``build_task`` makes it from its record in ``TASKS``."""

    reader: ClassVar[type[Reader]]
    """Makes batches out of the shards."""

    def __init__(self, spec: TaskSpec, config: ModelConfig) -> None:
        self.spec = spec
        self.config = config

    def reading(self, backbone: BackboneSpec) -> Reading:
        """What ``build_loaders`` needs to know of the task.

        Raises:
            ConfigError: If the backbone has no filter bank for the task's segments.
        """
        fbank = backbone.fbank_for(self.spec.fbank)
        return Reading(reader=self.reader, annotation=self.spec.annotation, fbank=fbank)

    @abstractmethod
    def build_head(self, encoder: AudioVisualEncoder) -> nn.Module:
        """The head, a ``TrainableModule``; ``forward(features: AVFeatures, batch: AVBatch) -> Outputs``."""

    @abstractmethod
    def loss(self, outputs: Outputs, batch: AVBatch) -> Tensor:
        """Scalar training loss, a mean over the batch."""

    @abstractmethod
    def new_metrics(self, *, detailed: bool = False) -> Metrics:
        """Empty sums; ``detailed`` adds confusion matrices, per-category and per-type tables."""

    def per_clip(self, outputs: Outputs, batch: AVBatch) -> dict[str, dict[str, Tensor]]:
        """clip id -> name -> scores of that clip, e.g. ``correct [S]``: what intervals over clips are drawn from.

        A name has the same shape on every clip.
        """
        return {}


class AudioVisualModel(nn.Module):
    """Encoder and head as one module: what is trained, counted and checkpointed."""

    def __init__(self, encoder: AudioVisualEncoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, batch: AVBatch) -> Outputs:
        features: AVFeatures = self.encoder(visual=batch.frames, audio=batch.fbank)
        return self.head(features, batch)
