"""Full fine-tuning: the last row of Table 5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from stgcma.models.adaptations.base import Adaptation


@dataclass(frozen=True, kw_only=True)
class FullFinetuning(Adaptation):
    """Two separate towers without adapters. All parameters are trained. A CLIP tower has a temporal embedding."""

    method: Literal["full"] = "full"
    separate_towers: ClassVar[bool] = True

    @property
    def has_temporal_embedding(self) -> bool:
        return True

    def releases(self, module: nn.Module, name: str) -> bool:
        return True
