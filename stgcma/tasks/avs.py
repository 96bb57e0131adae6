"""Audio-visual segmentation (AVSBench S4 and MS3): masks of the sounding objects in five frames (method section 4)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgcma.data.batch import AVBatch, MaskTargets
from stgcma.data.masks import MaskReader
from stgcma.data.reader import Reader
from stgcma.errors import ConfigError
from stgcma.models.avs_decoder import MaskDecoder
from stgcma.models.encoder import AudioVisualEncoder, AVFeatures
from stgcma.tasks.base import Outputs, Task
from stgcma.tasks.segmentation_metrics import SegmentationMetrics, clip_fscores, frame_ious


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy, mean over all pixels (method section 4.1). The paper calls it IoU loss.

    As in the reference, it is computed from probabilities, with the logarithm clamped at -100. It is always in float32.

    Args:
        logits: ``[B, K, H, W]``.
        masks: ``[B, K, H, W]`` {0, 1}.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return F.binary_cross_entropy(torch.sigmoid(logits.float()), masks)


class SegmentationHead(nn.Module):
    """The mask decoder, which reads the stage maps and the pooled audio of the encoder."""

    def __init__(self, decoder: MaskDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: AVFeatures, batch: AVBatch) -> Outputs:
        """``{"logits": [B, K, H, W]}`` for the frames with a mask; for all ``S`` frames if the batch has no targets."""
        segments = batch.targets.frame_index if isinstance(batch.targets, MaskTargets) else None
        return {"logits": self.decoder(features.stage_maps, features.pooled["audio"], segments)}


class AVSTask(Task):
    """Segments the sounding objects. S4 trains on the mask of the first frame, MS3 on all five."""

    reader: ClassVar[type[Reader]] = MaskReader

    def build_head(self, encoder: AudioVisualEncoder) -> nn.Module:
        spec, decoder = encoder.spec, self.config.mask_decoder
        stage_dims = list(spec.stage_widths)
        if len(decoder.scale_dims) != len(stage_dims):
            raise ConfigError(
                f"model.mask_decoder.scale_dims needs one width for each of the {len(stage_dims)} stages of "
                f"{spec.name!r}, got {list(decoder.scale_dims)}."
            )
        return SegmentationHead(MaskDecoder(stage_dims, encoder.output_dim, decoder))

    def loss(self, outputs: Outputs, batch: AVBatch) -> Tensor:
        """``mask_loss`` over the frames with a mask."""
        assert isinstance(batch.targets, MaskTargets)
        return mask_loss(outputs["logits"], batch.targets.masks)

    def per_clip(self, outputs: Outputs, batch: AVBatch) -> dict[str, dict[str, Tensor]]:
        """``iou [K]`` of every frame with a mask, and ``fscore []`` at the best threshold of the clip.

        ``fscore`` is NaN if no frame has foreground.
        """
        assert isinstance(batch.targets, MaskTargets)
        masks = batch.targets.masks
        logits = outputs["logits"].to(masks.device)
        ious = frame_ious(logits.flatten(0, 1), masks.flatten(0, 1)).view(masks.shape[:2]).float()
        fscores, counted = clip_fscores(logits, masks)
        fscores = torch.where(counted, fscores, torch.nan).float()
        return {
            clip_id: {"iou": iou, "fscore": fscore}
            for clip_id, iou, fscore in zip(batch.clip_ids, ious.cpu(), fscores.cpu(), strict=True)
        }

    def new_metrics(self, *, detailed: bool = False) -> SegmentationMetrics:
        return SegmentationMetrics(detailed=detailed)
