"""One adapted transformer block: temporal, spatial and global stage (Eq. 6-15), the same for every backbone.

Shapes: ``B`` clips, ``S`` segments, ``*tokens`` (CLIP ``n``; Swin ``H, W``), ``D`` width, ``G`` groups.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stgcma.config import BRANCHES, AdaptationConfig
from stgcma.models.adapters import AVAdapter, BottleneckAdapter, InteractionGates, TemporalBias, Tokens
from stgcma.models.backbones.base import FrozenBlock


def drop_path(x: Tensor, mask_shape: list[int], rate: float, training: bool) -> Tensor:
    """Stochastic depth: zero ``x`` where a Bernoulli mask of ``mask_shape`` is 0, rescale the rest by ``1 / keep``."""
    if rate == 0.0 or not training:
        return x
    keep = 1.0 - rate
    return x * (torch.empty(mask_shape, dtype=x.dtype, device=x.device).bernoulli_(keep) / keep)


class AdaptedBlock(nn.Module):
    """What is trained in one block; the frozen block is given at call time, so the two trees stay apart.

    Args:
        frozen: The block it adapts; only its geometry is read here.
        config: Which stages, branches and messages exist.
        ratio: ``hidden_dim / width``.
        num_segments: ``S``.
        drop_path_rate: Rate of the temporal residual.
    """

    def __init__(
        self, frozen: FrozenBlock, config: AdaptationConfig, ratio: float, num_segments: int, drop_path_rate: float
    ) -> None:
        super().__init__()
        width, hidden_dim = frozen.width, int(frozen.width * ratio)
        adapted = {stage: config.adapted if mode == "adapted" else () for stage, mode in config.stage_modes.items()}
        self.attends_time = frozen.has_temporal and config.temporal_stage != "absent"
        self.drop_path_rate = drop_path_rate

        self.temporal_adapters = nn.ModuleDict()
        self.temporal_bias = nn.ModuleDict()
        if self.attends_time:
            for branch in adapted["temporal"]:
                self.temporal_adapters[branch] = BottleneckAdapter(width, hidden_dim, f"temporal_adapter_{branch}")
            if frozen.uses_temporal_bias:
                for branch in BRANCHES:
                    self.temporal_bias[branch] = TemporalBias(num_segments, frozen.num_heads)
        self.spatial_adapter = AVAdapter(width, hidden_dim, adapted["spatial"], config.fusion, "spatial")
        self.global_adapter = AVAdapter(width, hidden_dim, adapted["global"], config.fusion, "global")
        self.gates = InteractionGates() if config.has_gates else None

    def forward(self, frozen: FrozenBlock, x: Tokens) -> Tokens:
        """``{branch: [B, S, *tokens, D]}`` through one block."""
        x = self.temporal_stage(frozen, x)
        x = self.spatial_stage(frozen, x)
        return self.global_stage(frozen, x)

    def temporal_stage(self, frozen: FrozenBlock, x: Tokens) -> Tokens:
        """``x + DropPath(T-Adapter(MHSA_time(LN1(x))))``, each branch on its own segments (Eq. 6-7)."""
        if not self.attends_time:
            return x
        bias = {branch: self.temporal_bias[branch]() for branch in x if branch in self.temporal_bias}
        attended = frozen.attend_time(x, bias)
        out: Tokens = {}
        for branch, value in x.items():
            message = attended[branch]
            if branch in self.temporal_adapters:
                message = self.temporal_adapters[branch](message)
            out[branch] = value + drop_path(message, frozen.drop_path_mask(value), self.drop_path_rate, self.training)
        return out

    def spatial_stage(self, frozen: FrozenBlock, x: Tokens) -> Tokens:
        """``x + AV-Adapter(MHSA(LN1(x)))`` within a frame, or within a window of it (Eq. 8-11)."""
        groups = self.spatial_adapter(frozen.attend_space(x), self.gates)
        return {branch: value + frozen.from_groups(groups[branch], value) for branch, value in x.items()}

    def global_stage(self, frozen: FrozenBlock, x: Tokens) -> Tokens:
        """``x + AV-Adapter(FFN(LN2(x)))`` over all tokens of a frame (Eq. 12-15)."""
        flat = {branch: value.flatten(0, 1).flatten(1, -2) for branch, value in frozen.feed_forward(x).items()}
        out = self.global_adapter(flat, self.gates)
        return {branch: value + out[branch].view(value.shape) for branch, value in x.items()}
