"""Audio-visual event localisation: every segment is one of 28 events or background (method sections 2.3, 3.2)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgcma.config import ModelConfig
from stgcma.data.batch import AVBatch, EventTargets
from stgcma.data.events import EventReader
from stgcma.data.reader import Reader
from stgcma.models.adapters import TrainableModule
from stgcma.models.encoder import AudioVisualEncoder, AVFeatures
from stgcma.tasks.base import Metrics, Outputs, Task
from stgcma.tasks.classification_metrics import SegmentAccuracy


class EventHead(TrainableModule):
    """Pooled features -> class logits ``[B, S, C]``.

    Both branches: ``cat(audio, visual) -> Linear -> [activation] -> Dropout -> Linear``. The published head has no
    activation. It is then one linear map, and only the encoder can relate the modalities.

    One branch: ``LayerNorm -> Linear``.
    """

    role: str = "task_head"

    def __init__(self, encoder: AudioVisualEncoder, config: ModelConfig) -> None:
        super().__init__()
        self.running = encoder.running
        width = encoder.output_dim
        if len(self.running) == 1:
            self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.num_classes))
        else:
            activation = nn.GELU() if config.head_activation == "gelu" else nn.Identity()
            self.layers = nn.Sequential(
                nn.Linear(2 * width, config.head_hidden_dim),
                activation,
                nn.Dropout(config.head_dropout),
                nn.Linear(config.head_hidden_dim, config.num_classes),
            )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, features: AVFeatures, batch: AVBatch | None = None) -> Outputs:
        """``{"logits": [B, S, C]}``; the batch is not read."""
        if len(self.running) == 1:
            pooled = features.pooled[self.running[0]]
        else:
            pooled = torch.cat([features.pooled["audio"], features.pooled["visual"]], dim=-1)
        return {"logits": self.layers(pooled)}


class AVETask(Task):
    """Classification of ten one-second segments into 28 events and background."""

    reader: ClassVar[type[Reader]] = EventReader

    def build_head(self, encoder: AudioVisualEncoder) -> nn.Module:
        return EventHead(encoder, self.config)

    def loss(self, outputs: Outputs, batch: AVBatch) -> Tensor:
        """Cross-entropy, mean over all ``B * S`` segments (method section 7)."""
        assert isinstance(batch.targets, EventTargets)
        return F.cross_entropy(outputs["logits"].flatten(0, 1).float(), batch.targets.labels.flatten())

    def new_metrics(self, *, detailed: bool = False) -> Metrics:
        return SegmentAccuracy(self.config.num_classes, detailed=detailed)

    def per_clip(self, outputs: Outputs, batch: AVBatch) -> dict[str, dict[str, Tensor]]:
        """``correct [S]`` bool and ``predicted [S]`` int64 of every clip."""
        assert isinstance(batch.targets, EventTargets)
        predicted = outputs["logits"].detach().argmax(-1)
        correct = predicted == batch.targets.labels
        return {
            clip_id: {"correct": correct[index], "predicted": predicted[index]}
            for index, clip_id in enumerate(batch.clip_ids)
        }
