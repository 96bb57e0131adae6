"""TPAVI: temporal pixel-wise audio-visual interaction of the AVSBench baseline (method section 4, step 3).

Shapes: ``B`` clips, ``S`` segments, ``H W`` positions of one scale, ``N = S * H * W``, ``C`` channels, ``A`` width of
the audio feature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stgcma.models.adapters import TrainableModule


class TPAVI(TrainableModule):
    """Every position of a clip attends over all positions of all its segments, with keys made from sound.

    With ``theta_i`` the query of position ``i``, ``phi_j`` the key (the audio of ``j``'s segment) and ``g_j`` the
    value, the published form is ``y_i = sum_j (theta_i . phi_j / N) g_j``: an ``N x N`` matrix without softmax.
    Therefore, and because ``phi_j`` depends on the segment ``s`` of ``j`` alone, the same sum reads
    ``y_i = theta_i @ M`` with ``M = sum_s phi_s (mean_{j in s} g_j)^T / S``, a ``C/2 x C/2`` matrix per clip. ``g`` is
    affine, so it is applied to the spatial mean of the maps. Nothing of size ``N x N`` exists, forward or backward.

    The result is ``LayerNorm(x + BatchNorm(out(y)))``; the batch norm starts at zero, so the module starts as a
    LayerNorm of the visual maps.

    Args:
        channels: ``C``.
        audio_dim: ``A``.
    """

    role = "avs_decoder"

    def __init__(self, channels: int, audio_dim: int) -> None:
        super().__init__()
        inner = channels // 2
        self.align = nn.Linear(audio_dim, channels)
        """Audio feature to the width of the maps; the reference's ``align_channel``."""
        self.query = nn.Linear(channels, inner)
        """theta."""
        self.key = nn.Linear(channels, inner)
        """phi, of the aligned audio."""
        self.value = nn.Linear(channels, inner)
        """g, of the maps."""
        self.out = nn.Linear(inner, channels)
        self.out_norm = nn.BatchNorm1d(channels)
        """Over clips, segments and positions together, as the reference's 3-D batch norm."""
        self.norm = nn.LayerNorm(channels)
        nn.init.trunc_normal_(self.align.weight, std=0.02)
        for zero in (self.align.bias, self.out_norm.weight, self.out_norm.bias):
            nn.init.zeros_(zero)

    def mixing_matrix(self, maps: Tensor, audio: Tensor) -> Tensor:
        """``M``, ``[B, C/2, C/2]``, from maps ``[B, S, H, W, C]`` and audio ``[B, S, A]``."""
        keys = self.key(self.align(audio))
        values = self.value(maps.mean(dim=(2, 3)))
        return keys.transpose(1, 2) @ values / maps.shape[1]

    def forward(self, maps: Tensor, audio: Tensor) -> Tensor:
        """Fuse sound into one scale of the visual maps.

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
