"""The base class of adaptations: frozen settings that say which module each block gets and what is trained.

To add an adaptation, subclass ``Adaptation`` in a file of this folder and list the class in ``ADAPTATIONS``. The module
that it builds for a block is called as ``module(frozen_block, tokens) -> tokens``. The module may call
``attend_space``, ``attend_time`` and ``feed_forward`` of the frozen block. To insert something in between, as LoRA or
prompts do, it may call their parts instead: ``norm1``, ``to_groups``, ``qkv``, ``spatial_bias``,
``multi_head_attention``, ``out_proj``.

Shapes: ``B`` clips, ``S`` segments, ``*tokens`` (CLIP ``n``; Swin ``H, W``), ``D`` width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from stgcma.backbone_spec import BackboneSpec
from stgcma.config import AdaptationConfig, Branch
from stgcma.models.adapters import Tokens
from stgcma.models.backbones.base import FrozenBlock


@dataclass(frozen=True, kw_only=True)
class BlockPlace:
    """The position of a block in the encoder."""

    spec: BackboneSpec
    """Geometry of the backbone."""
    stage: int
    """Stage of the backbone, from 0. CLIP has one stage."""
    branches: tuple[Branch, ...]
    """Branches whose tokens pass through the block."""
    num_segments: int
    """``S``."""
    drop_path_rate: float
    """Stochastic depth at this block: from 0 in the first block linearly to ``model.drop_path_rate`` in the last."""


class PlainBlock(nn.Module):
    """The frozen block without changes: ``x + MHSA(LN1(x))``, then ``x + FFN(LN2(x))``, and no attention over time."""

    def forward(self, frozen: FrozenBlock, x: Tokens) -> Tokens:
        """``{branch: [B, S, *tokens, D]}`` through one block."""
        attended = frozen.attend_space(x)
        x = {branch: value + frozen.from_groups(attended[branch], value) for branch, value in x.items()}
        out = frozen.feed_forward(x)
        return {branch: value + out[branch] for branch, value in x.items()}


@dataclass(frozen=True, kw_only=True)
class Adaptation(AdaptationConfig):
    """A way to adapt a frozen backbone. This base class adds nothing and trains only the output norm."""

    trains_output_norm: ClassVar[bool] = True
    """Whether the final LayerNorm of a CLIP backbone is trained (method section 2.3)."""

    @property
    def has_temporal_embedding(self) -> bool:
        """Whether a trained embedding of the segments is added to the tokens of backbones that use one (CLIP)."""
        return False

    def build_block(self, frozen: FrozenBlock, place: BlockPlace) -> nn.Module:
        """Build the module for one block, with ``forward(frozen_block, tokens) -> tokens``.

        Trained parameters belong in a ``TrainableModule``. The module must not store the frozen block, which it
        receives at every call.

        Args:
            frozen: The block; only its geometry is read here.
            place: Its position in the encoder.
        """
        return PlainBlock()

    def releases(self, module: nn.Module, name: str) -> bool:
        """Whether a parameter of the backbone is trained.

        Args:
            module: The layer that holds the parameter, e.g. a ``LayerNorm``.
            name: Full name of the parameter in the backbone, e.g. ``visual.transformer.resblocks.0.ln_1.weight``.
        """
        return False
