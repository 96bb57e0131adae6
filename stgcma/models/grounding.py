"""Spatial grounding and the match branch of the question-answering head (method section 5, steps 2 to 4).

``stgcma-jobs pretrain-grounding`` trains these layers beforehand, on the match task alone.

Shapes: ``P`` visual tokens of a frame, ``C`` encoder width, ``d`` working width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgcma.config import AnswerHeadConfig, AVQAVariant
from stgcma.models.adapters import TrainableModule


class Grounding(TrainableModule):
    """Audio features, sound-guided visual features and the match logits of (sound, frame) pairs.

    Names in the reference: ``visual_projection`` is ``yb_fc_v``, ``audio_projection`` ``yb_fc_a``, ``audio_expansion``
    ``fc_a1``, ``audio_output`` ``fc_a2``, ``combine`` ``fc_gl``, ``match_layers`` ``fc1 .. fc4``.

    Args:
        feature_dim: ``C``.
        variant: ``l`` reads the encoder features directly (``d = C``). The B variants project the visual tokens to
            ``d``. They project the sound directly to ``d`` (``b_lavish``, the published count) or through a bottleneck
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
        """Audio feature, ``[..., C] -> [..., d]`` (step 2).

        ``pooled`` is the mean over the audio tokens. The projection is linear, so the mean may be taken before it.
        """
        return self.audio_output(F.relu(self.audio_expansion(self.audio_projection(pooled))))

    def look(self, tokens: Tensor, audio: Tensor) -> Tensor:
        """Visual feature of a frame, guided by its sound (step 3).

        Args:
            tokens: ``[..., P, d]``, visual tokens after ``visual_projection``.
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
        """Logits ``[..., 2]``: do sound and frame, ``[..., d]`` each, belong together? Class 1 is yes (step 4)."""
        x = torch.cat([audio, visual], dim=-1)
        for layer in self.match_layers[:-1]:
            x = F.relu(layer(x))
        return self.match_layers[-1](x)
