"""What an adaptation is: a frozen record of its settings that says what is put at each block and what is trained.

To add one, subclass ``Adaptation`` in a file of this folder and list the class in ``ADAPTATIONS``. The module that it
puts at a block is called as ``module(frozen_block, tokens) -> tokens``. It may call ``attend_space``, ``attend_time``
and ``feed_forward`` of the frozen block as a whole, or their parts (``norm1``, ``to_groups``, ``qkv``,
``spatial_bias``, ``multi_head_attention``, ``out_proj``) where something goes in between, as with LoRA or prompts.

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
    """Where a block stands in the encoder."""

    spec: BackboneSpec
    """Geometry of the backbone."""
    stage: int
    """Stage of the backbone, from 0; CLIP has one."""
    branches: tuple[Branch, ...]
    """Branches whose tokens pass through the block."""
    num_segments: int
    """``S``."""
    drop_path_rate: float
    """``model.drop_path_rate`` at this depth: 0 at the first block, linear to the full rate at the last."""


class PlainBlock(nn.Module):
    """The frozen block as it is: ``x + MHSA(LN1(x))``, then ``x + FFN(LN2(x))``; no attention over time."""

    def forward(self, frozen: FrozenBlock, x: Tokens) -> Tokens:
        """``{branch: [B, S, *tokens, D]}`` through one block."""
        attended = frozen.attend_space(x)
        x = {branch: value + frozen.from_groups(attended[branch], value) for branch, value in x.items()}
        out = frozen.feed_forward(x)
        return {branch: value + out[branch] for branch, value in x.items()}


@dataclass(frozen=True, kw_only=True)
class Adaptation(AdaptationConfig):
    """A way of adapting a frozen backbone. As it stands here nothing is added and nothing is released."""

    trains_output_norm: ClassVar[bool] = True
    """Whether the last LayerNorm of a CLIP backbone is trained (method section 2.3)."""

    @property
    def has_temporal_embedding(self) -> bool:
        """Whether backbones that have no other sense of time (CLIP) get a trained position over the segments."""
        return False

    def build_block(self, frozen: FrozenBlock, place: BlockPlace) -> nn.Module:
        """The module at one block, ``forward(frozen_block, tokens) -> tokens``.

        What it trains belongs in a ``TrainableModule``. It does not own the frozen block, which is given at every call;
        here only its geometry is read.
        """
        return PlainBlock()

    def releases(self, module: nn.Module, name: str) -> bool:
        """Whether a parameter of the backbone is trained.

        Args:
            module: The layer that holds it, e.g. a ``LayerNorm``.
            name: Its full name in the backbone, e.g. ``visual.transformer.resblocks.0.ln_1.weight``.
        """
        return False
