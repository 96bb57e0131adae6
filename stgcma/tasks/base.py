"""What a task adds to the encoder: a head, a loss and metrics that are sums until the last line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from stgcma.backbone_spec import BackboneSpec
from stgcma.config import ModelConfig
from stgcma.data.batch import AVBatch
from stgcma.models.encoder import AudioVisualEncoder, AVFeatures, build_encoder

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
    """One downstream task of one model configuration; the classes are listed in ``stgcma.tasks.TASKS``."""

    name: ClassVar[str]
    annotation: ClassVar[str]
    """``ShardMetadata.annotation`` that this task reads."""
    selection_metric: ClassVar[str]
    """Key of ``Metrics.compute`` that selects the checkpoint; higher is better."""
    num_segments: ClassVar[int]
    requires: ClassVar[frozenset[str]] = frozenset()
    """What it needs of a backbone, out of ``Backbone.provides``."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

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


def build_model(
    task: Task, *, device: torch.device | str = "cpu", spec: BackboneSpec | None = None, num_segments: int | None = None
) -> AudioVisualModel:
    """Backbone, adapters and head from the task's model configuration.

    Args:
        task: From ``stgcma.tasks.build_task(name, config)``.
        device: ``"meta"`` needs no weights and no memory.
        spec: Geometry to use instead of the registered backbone (tests, golden files).
        num_segments: Other than the task's own (golden files).
    """
    encoder = build_encoder(task.config, num_segments=num_segments or task.num_segments, device=device, spec=spec)
    with torch.device(device):
        return AudioVisualModel(encoder, task.build_head(encoder))
