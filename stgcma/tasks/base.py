"""What a task adds to the encoder: a head, a loss and metrics that are sums until the last line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from stgcma.config import ModelConfig
from stgcma.data.batch import AVBatch
from stgcma.models.encoder import AudioVisualEncoder, AVFeatures

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
    """One downstream task; instances are stateless and listed in ``stgcma.tasks.TASKS``."""

    name: ClassVar[str]
    annotation: ClassVar[str]
    """``ShardMetadata.annotation`` that this task reads."""
    selection_metric: ClassVar[str]
    """Key of ``Metrics.compute`` that selects the checkpoint; higher is better."""
    num_segments: ClassVar[int]

    @abstractmethod
    def build_head(self, encoder: AudioVisualEncoder, config: ModelConfig) -> nn.Module:
        """The trainable head; ``forward(features: AVFeatures, batch: AVBatch) -> Outputs``."""

    @abstractmethod
    def loss(self, outputs: Outputs, batch: AVBatch) -> Tensor:
        """Scalar training loss, a mean over the batch."""

    @abstractmethod
    def new_metrics(self, *, detailed: bool = False) -> Metrics:
        """Empty sums; ``detailed`` adds confusion matrices, per-category and per-type tables."""


class AudioVisualModel(nn.Module):
    """Encoder and head as one module: what is trained, counted and checkpointed."""

    def __init__(self, encoder: AudioVisualEncoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, batch: AVBatch) -> Outputs:
        features: AVFeatures = self.encoder(visual=batch.frames, audio=batch.fbank)
        return self.head(features, batch)


def build_model(config: ModelConfig, task: Task, *, device: torch.device | str = "cpu") -> AudioVisualModel:
    """Backbone, adapters and head from one configuration; ``device="meta"`` needs no weights and no memory."""
    from stgcma.models.encoder import build_encoder

    encoder = build_encoder(config, num_segments=task.num_segments, device=device)
    with torch.device(device):
        head = task.build_head(encoder, config)
    return AudioVisualModel(encoder, head)
