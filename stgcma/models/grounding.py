"""Where in the frame the sound comes from: spatial grounding and the match branch of the answering head.

These layers can be trained beforehand on the per-second match task alone (``stgcma-jobs pretrain-grounding``).
Shapes: ``N`` (video, second) pairs, ``P`` visual tokens of a frame, ``C`` encoder width, ``d`` working width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgcma.config import AnswerHeadConfig, AVQAVariant
from stgcma.models.adapters import TrainableModule


class Grounding(TrainableModule):
    """Audio features, sound-guided visual features and the match logits of a (sound, frame) pair.

    The reference's names: ``visual_projection`` is ``yb_fc_v``, ``audio_projection`` ``yb_fc_a``, ``audio_expansion``
    ``fc_a1``, ``audio_output`` ``fc_a2``, ``combine`` ``fc_gl``, ``match_layers`` ``fc1 .. fc4``.

    Args:
        feature_dim: ``C``.
        variant: ``l`` works on the encoder's features themselves (``d = C``). Variant B projects the visual tokens to
            ``d`` and the sound either straight to ``d`` (``b_lavish``, the published count) or through a bottleneck
            (``b_released``, the released file).
        config: Widths.
    """

    role: str = "avqa_head"

    def __init__(self, feature_dim: int, variant: AVQAVariant, config: AnswerHeadConfig) -> None:
        super().__init__()
        self.dim = dim = feature_dim if variant == "l" else config.dim
        audio_dim = {"l": feature_dim, "b_lavish": dim, "b_released": config.released_audio_dim}[variant]
        self.visual_projection = nn.Identity() if variant == "l" else nn.Linear(feature_dim, dim)
        self.audio_projection = nn.Identity() if variant == "l" else nn.Linear(feature_dim, audio_dim)
        self.audio_expansion = nn.Linear(audio_dim, dim) if variant == "b_released" else nn.Identity()
        self.audio_output = nn.Linear(dim, dim)
        self.combine = nn.Linear(2 * dim, dim)
        widths = (2 * dim, *config.match_dims, 2)
        self.match_layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=config.init_std)
                nn.init.zeros_(layer.bias)

    def hear(self, pooled: Tensor) -> Tensor:
        """Audio feature of every second, ``[..., C] -> [..., d]`` (step 2).

        ``pooled`` is the mean over the audio tokens; the projection is linear, so averaging first is the same.
        """
        return self.audio_output(F.relu(self.audio_expansion(self.audio_projection(pooled))))

    def look(self, tokens: Tensor, audio: Tensor) -> Tensor:
        """Visual feature of every second, guided by its sound (step 3).

        Args:
            tokens: Projected visual tokens (``visual_projection``), ``[..., P, d]``.
            audio: ``[..., d]``, from ``hear``.

        Returns:
            ``[..., d]``: ``Linear(tanh(cat(mean of the tokens, tokens weighted by their similarity to the sound)))``.
        """
        directions = F.normalize(tokens, dim=-1)
        similarity = (directions @ F.normalize(audio, dim=-1).unsqueeze(-1)).squeeze(-1)
        attention = similarity.softmax(dim=-1)
        grounded = (attention.unsqueeze(-2) @ directions).squeeze(-2)
        return self.combine(torch.tanh(torch.cat([tokens.mean(dim=-2), grounded], dim=-1)))

    def match(self, audio: Tensor, visual: Tensor) -> Tensor:
        """Logits ``[..., 2]`` of "this sound and this frame, ``[..., d]`` each, belong together"; 1 is yes (step 4)."""
        x = torch.cat([audio, visual], dim=-1)
        for layer in self.match_layers[:-1]:
            x = F.relu(layer(x))
        return self.match_layers[-1](x)
