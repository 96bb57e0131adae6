"""The segmentation decoder of AVSBench: stage maps and sound -> mask logits (method section 4).

Shapes: ``B`` clips, ``S`` segments, ``K`` decoded segments, ``N`` images (``B * K``), ``H W`` positions of a scale
(1/4, 1/8, 1/16 and 1/32 of the image), ``C`` channels of the decoder, ``D`` output width of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from stgcma.config import MaskDecoderConfig
from stgcma.models.adapters import TrainableModule
from stgcma.models.containers import TypedModuleList
from stgcma.models.tpavi import TPAVI

DILATIONS = (3, 6, 12, 18)


class DilatedSum(TrainableModule):
    """Sum of four 3x3 convolutions with dilation 3, 6, 12 and 18, without norm and activation."""

    role = "avs_decoder"

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.convs: TypedModuleList[nn.Conv2d] = TypedModuleList(
            nn.Conv2d(in_dim, out_dim, 3, padding=d, dilation=d) for d in DILATIONS
        )
        for conv in self.convs:
            nn.init.normal_(conv.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_dim, H, W] -> [N, out_dim, H, W]``."""
        first, *others = self.convs
        total = first(x)
        for conv in others:
            total = total + conv(x)
        return total


class ResidualUnit(TrainableModule):
    """``conv(relu(conv(relu(x)))) + relu(x)``.

    The skip connection carries ``relu(x)`` and not ``x``, because the first ReLU of the reference works in place.
    """

    role = "avs_decoder"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W] -> [N, C, H, W]``."""
        rectified = F.relu(x)
        return self.conv2(F.relu(self.conv1(rectified))) + rectified


class FusionBlock(TrainableModule):
    """Adds the map of its own scale to the result of the coarser scale and doubles the resolution.

    The coarsest block has nothing to add and never uses its ``lateral_unit``. The unit exists because the published
    parameter counts include it.
    """

    role = "avs_decoder"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lateral_unit = ResidualUnit(channels)
        self.output_unit = ResidualUnit(channels)

    def forward(self, top: Tensor, lateral: Tensor | None = None) -> Tensor:
        """Result of the coarser scale ``[N, C, H, W]`` and map of this scale ``[N, C, H, W]`` -> ``[N, C, 2H, 2W]``."""
        if lateral is not None:
            top = top + self.lateral_unit(lateral)
        return F.interpolate(self.output_unit(top), scale_factor=2, mode="bilinear", align_corners=True)


class MaskHead(TrainableModule):
    """Features at half the resolution -> mask logits."""

    role = "avs_decoder"

    def __init__(self, channels: int, hidden_dims: tuple[int, int]) -> None:
        super().__init__()
        wide, narrow = hidden_dims
        self.reduce = nn.Conv2d(channels, wide, 3, padding=1)
        self.refine = nn.Conv2d(wide, narrow, 3, padding=1)
        self.classify = nn.Conv2d(narrow, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W] -> [N, 2H, 2W]``."""
        x = F.interpolate(self.reduce(x), scale_factor=2, mode="bilinear", align_corners=False)
        return self.classify(F.relu(self.refine(x))).squeeze(1)


class MaskDecoder(TrainableModule):
    """Projection, dilated convolutions and TPAVI at every scale, then fusion from coarse to fine and the mask head.

    TPAVI reads all segments of a clip. The layers after it treat the segments independently, so only the segments whose
    masks are needed pass through them. Training on AVSBench-S4, which has one mask per clip, does a fifth of that work
    and gets the same gradients.

    Args:
        stage_dims: Width of the encoder map at every stage, highest resolution first.
        audio_width: ``D``.
        config: Widths of the decoder.
    """

    role = "avs_decoder"

    def __init__(self, stage_dims: Sequence[int], audio_width: int, config: MaskDecoderConfig) -> None:
        super().__init__()
        channels = config.channels
        self.audio_projection = nn.Linear(audio_width, config.audio_dim)
        pairs = list(zip(stage_dims, config.scale_dims, strict=True))
        self.projections = nn.ModuleList(nn.Linear(stage_dim, scale_dim) for stage_dim, scale_dim in pairs)
        self.contexts = nn.ModuleList(DilatedSum(scale_dim, channels) for scale_dim in config.scale_dims)
        self.interactions: TypedModuleList[TPAVI] = TypedModuleList(
            TPAVI(channels, config.audio_dim) for _ in stage_dims
        )
        self.fusions = nn.ModuleList(FusionBlock(channels) for _ in stage_dims)
        self.mask_head = MaskHead(channels, config.head_dims)
        for linear in (self.audio_projection, *self.projections):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, stage_maps: Sequence[Tensor], audio: Tensor, segments: Tensor | None = None) -> Tensor:
        """Mask logits of the given segments.

        Args:
            stage_maps: One ``[B, S, H, W, D_stage]`` per scale, highest resolution first.
            audio: ``[B, S, D]``, audio feature of every segment.
            segments: ``[K]`` int64, the segments to decode; None: all ``S``.

        Returns:
            ``[B, K, 4H, 4W]``, where ``H W`` is the size of the finest map.
        """
        audio = self.audio_projection(audio)
        scales = [self._scale(index, maps, audio, segments) for index, maps in enumerate(stage_maps)]
        fused = self.fusions[-1](scales[-1])
        for fusion, lateral in zip(self.fusions[-2::-1], scales[-2::-1], strict=True):
            fused = fusion(fused, lateral)
        logits = self.mask_head(fused)
        return logits.view(len(audio), -1, *logits.shape[1:])

    def _scale(self, index: int, maps: Tensor, audio: Tensor, segments: Tensor | None) -> Tensor:
        """One scale up to TPAVI: maps ``[B, S, H, W, D_stage]`` and projected audio -> ``[N, C, H, W]``."""
        narrow = self.projections[index](maps).flatten(0, 1).permute(0, 3, 1, 2)
        context = self.contexts[index](narrow).permute(0, 2, 3, 1).unflatten(0, maps.shape[:2])
        sounding = self.interactions[index](context, audio)
        if segments is not None:
            sounding = sounding[:, segments]
        return sounding.flatten(0, 1).permute(0, 3, 1, 2)
