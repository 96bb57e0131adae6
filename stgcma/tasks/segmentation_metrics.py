"""mIoU and F-score of predicted masks, as AVSBench defines them (method section 4.2), and the IoU of the pooled set.

Two definitions of the IoU are in use, and both are reported:

* ``miou``: the mean over frames; a frame without foreground is scored on its background (AVSBench).
* ``iou_pooled``: the sum of the intersections over the sum of the unions, without frames that have no foreground.

Neither is defined for a set without any foreground, where an empty prediction would be perfect.

``miou`` and ``fscore`` are means of one number per frame or clip, so the sums of batches and workers add up and the
result does not depend on the batches. The published mIoU averages the means of batches, which is the same number if all
batches are equally large (740 test clips in batches of 2). The published F-score picks its best threshold per batch,
and AVSBench evaluates one clip per batch. Here it is picked per clip.

Shapes: ``N`` frames, ``B`` clips, ``K`` frames with a mask per clip, ``H W`` pixels, ``L`` = 255 thresholds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stgcma.data.batch import AVBatch, MaskTargets
from stgcma.tasks.base import Metrics, Outputs

FSCORE_BETA_SQUARED = 0.3
NUM_THRESHOLDS = 255
IOU_EPS = 1e-7
FSCORE_EPS = 1e-20


def binary_masks(logits: Tensor) -> Tensor:
    """Foreground where ``sigmoid(logit) > 0.5``. A logit of exactly 0 is background. Any shape -> the same shape,
    bool."""
    return torch.sigmoid(logits) > 0.5


def frame_overlaps(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Intersection and union of prediction and ground truth, in pixels.

    Args:
        logits: ``[N, H, W]``.
        masks: ``[N, H, W]``, ground truth {0, 1}.

    Returns:
        Intersections ``[N]`` float64, unions ``[N]`` float64, and ``[N]`` bool: whether the ground truth has
        foreground.
    """
    predicted, truth = binary_masks(logits).flatten(1), masks.flatten(1) > 0.5
    return (predicted & truth).sum(1).double(), (predicted | truth).sum(1).double(), truth.any(1)


def frame_ious(logits: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union of every frame.

    If the ground truth of a frame has no foreground, the score is the share of pixels that are background in both
    masks.

    Args:
        logits: ``[N, H, W]``.
        masks: ``[N, H, W]``, ground truth {0, 1}.

    Returns:
        ``[N]`` float64.
    """
    intersection, union, sounding = frame_overlaps(logits, masks)
    num_pixels = torch.full_like(union, masks[0].numel())
    intersection = torch.where(sounding, intersection, num_pixels - union)
    union = torch.where(sounding, union, num_pixels)
    return intersection / (union + IOU_EPS)


def frame_fscores(logits: Tensor, masks: Tensor) -> Tensor:
    """F-score (beta^2 = 0.3) of every frame at the thresholds ``linspace(0, 1 - 1e-10, 255)``.

    A pixel is foreground if its probability reaches the threshold.

    A histogram per frame replaces 255 comparisons: it counts pixels by the number of thresholds that they reach, and
    its cumulative sum from the right is the exact count at every threshold.

    Args:
        logits: ``[N, H, W]``.
        masks: ``[N, H, W]``, ground truth {0, 1}.

    Returns:
        ``[N, L]`` float64; it is meaningful only for frames with foreground.
    """
    probabilities, truth = torch.sigmoid(logits).flatten(1), masks.flatten(1) > 0.5
    thresholds = torch.linspace(0, 1 - 1e-10, NUM_THRESHOLDS, dtype=probabilities.dtype, device=probabilities.device)
    reached = torch.searchsorted(thresholds, probabilities.contiguous(), right=True)
    positive = _reaching(reached, torch.ones_like(probabilities, dtype=torch.float64))
    true_positive = _reaching(reached, truth.double())
    precision = true_positive / (positive + FSCORE_EPS)
    recall = true_positive / (truth.sum(1, keepdim=True) + FSCORE_EPS)
    score = (1 + FSCORE_BETA_SQUARED) * precision * recall / (FSCORE_BETA_SQUARED * precision + recall)
    return score.nan_to_num(0.0)


def _reaching(reached: Tensor, weights: Tensor) -> Tensor:
    """Sum of ``weights`` over the pixels at or above each threshold: ``[N, pixels] -> [N, L]``."""
    counts = weights.new_zeros(len(reached), NUM_THRESHOLDS + 1).scatter_add_(1, reached, weights)
    return counts.flip(1).cumsum(1).flip(1)[:, 1:]


def clip_fscores(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """F-score of every clip at its best threshold, and which clips count.

    Args:
        logits: ``[B, K, H, W]``.
        masks: ``[B, K, H, W]`` {0, 1}.

    Returns:
        ``[B]`` float64 scores, and ``[B]`` bool: whether a frame of the clip has foreground. The other clips score 0
        and do not count.
    """
    scores = frame_fscores(logits.flatten(0, 1), masks.flatten(0, 1)).unflatten(0, masks.shape[:2])
    sounding = (masks > 0.5).flatten(2).any(2)
    frames = sounding.sum(1)
    curve = (scores * sounding.unsqueeze(2)).sum(1) / frames.clamp(min=1).unsqueeze(1)
    return curve.max(1).values, frames > 0


class SegmentationMetrics(Metrics):
    """``miou``, ``iou_pooled`` and ``fscore``; if detailed, also ``miou`` and ``fscore`` per category.

    Args:
        detailed: Also keep sums per category, ``category/<name>/...``. Workers may have different categories; ``merge``
            adds them all.
    """

    _PARTS = ("iou", "frames", "fscore", "fscore_clips", "intersection", "union")

    def __init__(self, *, detailed: bool = False) -> None:
        self.detailed = detailed
        self.sums = {name: _zero() for name in self._PARTS}

    def update(self, outputs: Outputs, batch: AVBatch) -> None:
        """Add the clips of one batch: compare ``outputs["logits"] [B, K, H, W]`` with ``batch.targets.masks``."""
        targets = batch.targets
        assert isinstance(targets, MaskTargets)
        logits = outputs["logits"].detach().float()
        masks = targets.masks.to(logits.device)
        frames, truths = logits.flatten(0, 1), masks.flatten(0, 1)
        ious = frame_ious(frames, truths).view(masks.shape[:2]).sum(1)
        intersection, union, sounding = frame_overlaps(frames, truths)
        overlaps = [(part * sounding).view(masks.shape[:2]).sum(1) for part in (intersection, union)]
        scores, counted = clip_fscores(logits, masks)
        num_frames = torch.full_like(ious, masks.shape[1])
        per_clip = torch.stack([ious, num_frames, scores * counted, counted.double(), *overlaps], dim=1).cpu()
        self._add("", per_clip.sum(0))
        if self.detailed:
            for category, values in zip(targets.categories, per_clip, strict=bool(targets.categories)):
                if category:
                    self._add(f"category/{category}/", values)

    def _add(self, prefix: str, values: Tensor) -> None:
        for name, value in zip(self._PARTS, values, strict=True):
            self.sums[prefix + name] = self.sums.get(prefix + name, _zero()) + value

    def merge(self, other: dict[str, Tensor]) -> None:
        for name, value in other.items():
            self.sums[name] = self.sums.get(name, _zero()) + value

    def compute(self) -> dict[str, float]:
        """``miou``, ``fscore`` and ``iou_pooled``; if detailed, also ``category/<name>/miou`` and ``.../fscore``."""
        prefixes = sorted({name.rpartition("/")[0] for name in self.sums})
        return {
            key: value for prefix in prefixes for key, value in self._finish(f"{prefix}/" if prefix else "").items()
        }

    def _finish(self, prefix: str) -> dict[str, float]:
        iou, frames, fscore, clips, intersection, union = (float(self.sums[prefix + name]) for name in self._PARTS)
        values = {"miou": _ratio(iou, frames) if union else float("nan"), "fscore": _ratio(fscore, clips)}
        if not prefix:
            values["iou_pooled"] = _ratio(intersection, union)
        return {prefix + name: value for name, value in values.items()}


def _zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def _ratio(total: float, count: float) -> float:
    return total / count if count else float("nan")
