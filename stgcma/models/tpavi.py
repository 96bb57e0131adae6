"""TPAVI: temporal pixel-wise audio-visual interaction of the AVSBench baseline (method section 4, step 3).

Shapes: ``B`` clips, ``S`` segments, ``H W`` positions of one scale, ``N = S * H * W``, ``C`` channels, ``A`` width of
the audio feature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stgcma.models.adapters import TrainableModule


class TPAVI(TrainableModule):
    """Every position of a clip attends over all positions of all its segments, with keys from the sound.

    Let ``theta_i`` be the query of position ``i``, ``phi_j`` the key (from the audio of the segment of ``j``) and
    ``g_j`` the value. The published form is ``y_i = sum_j (theta_i . phi_j / N) g_j``, an ``N x N`` matrix without
    softmax. Since ``phi_j`` depends only on the segment ``s`` of ``j``, the sum equals ``y_i = theta_i @ M`` with
    ``M = sum_s phi_s (mean_{j in s} g_j)^T / S``, a ``C/2 x C/2`` matrix per clip. ``g`` is affine, so it can be
    applied to the spatial mean of the maps. Neither forward nor backward needs an ``N x N`` matrix.

    The result is ``LayerNorm(x + BatchNorm(out(y)))``. The batch norm starts at zero, so a new module is a LayerNorm of
    the visual maps.

    Args:
        channels: ``C``.
        audio_dim: ``A``.
    """

    role = "avs_decoder"

    def __init__(self, channels: int, audio_dim: int) -> None:
        super().__init__()
        inner = channels // 2
        self.align = nn.Linear(audio_dim, channels)
        """Projects the audio feature to the width of the maps; ``align_channel`` in the reference."""
        self.query = nn.Linear(channels, inner)
        """theta."""
        self.key = nn.Linear(channels, inner)
        """phi, of the aligned audio."""
        self.value = nn.Linear(channels, inner)
        """g, of the maps."""
        self.out = nn.Linear(inner, channels)
        self.out_norm = nn.BatchNorm1d(channels)
        """Normalises over clips, segments and positions, like the 3-D batch norm of the reference."""
        self.norm = nn.LayerNorm(channels)
        nn.init.trunc_normal_(self.align.weight, std=0.02)
        for zero in (self.align.bias, self.out_norm.weight, self.out_norm.bias):
            nn.init.zeros_(zero)

    def mixing_matrix(self, maps: Tensor, audio: Tensor) -> Tensor:
        """``M [B, C/2, C/2]`` from maps ``[B, S, H, W, C]`` and audio ``[B, S, A]``."""
        keys = self.key(self.align(audio))
        values = self.value(maps.mean(dim=(2, 3)))
        return keys.transpose(1, 2) @ values / maps.shape[1]

    def forward(self, maps: Tensor, audio: Tensor) -> Tensor:
        """Fuse the sound into one scale of the visual maps.

        Args:
            maps: ``[B, S, H, W, C]``.
            audio: ``[B, S, A]``.

        Returns:
            ``[B, S, H, W, C]``.
        """
        batch, channels = maps.shape[0], maps.shape[-1]
        positions = maps.reshape(batch, -1, channels)
        message = self.out(torch.bmm(self.query(positions), self.mixing_matrix(maps, audio)))
        message = self.out_norm(message.reshape(-1, channels)).view_as(maps)
        return self.norm(maps + message)
