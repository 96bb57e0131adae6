"""Training augmentation: one draw per clip, shared by its frames, and exact waveform mix-up.

A draw is a small frozen object made by an explicit generator; applying it is a pure function. So the augmentation of a
clip depends on (seed, epoch, clip) alone: not on workers, not on what was loaded before, not on a resume.

Shape letters: ``S`` segments, ``H W`` pixels of the stored frames, ``N`` side the backbone sees, ``T F`` fbank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stgcma.backbone_spec import RGB
from stgcma.config import AugmentConfig
from stgcma.data.fbank import FbankSpec, centred_waveform, fbank_frames, segment_length, segment_starts
from stgcma.data.images import normalize_planes
from stgcma.data.randaugment import ImageOp, apply_ops, draw_ops

ERASE_AREA = (0.02, 1 / 3)
ERASE_RATIO = (0.3, 1 / 0.3)
_TRIES = 10


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels, half open: rows ``top .. top + height``."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class VisualDraw:
    """What happens to every frame of one clip, in this order."""

    ops: tuple[ImageOp, ...]
    crop: Box
    flip: bool
    erase: Box | None
    """In the resized frame; filled with noise."""
    noise_seed: int


@dataclass(frozen=True)
class MixupDraw:
    """``partner``: number of the other training clip; ``weights [S]``: of the clip itself, one per segment."""

    partner: int
    weights: tuple[float, ...]


def draw_visual(config: AugmentConfig, height: int, width: int, size: int, rng: np.random.Generator) -> VisualDraw:
    """Draw RandAugment, crop, flip and erasure for a clip of ``height x width`` frames (method section 6.2)."""
    ops = draw_ops(config, rng)
    crop = _draw_crop(height, width, config.crop_scale, config.crop_ratio, rng)
    flip = bool(rng.random() < config.horizontal_flip_probability)
    erase = _draw_erase(size, rng) if rng.random() < config.erase_probability else None
    return VisualDraw(ops, crop, flip, erase, int(rng.integers(2**63)))


def _draw_shape(
    height: int, width: int, area: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[float, float]:
    """Two sides whose product is a uniform share of the image and whose quotient is log-uniform."""
    target = rng.uniform(*area) * height * width
    quotient = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    return math.sqrt(target * quotient), math.sqrt(target / quotient)


def _draw_crop(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """RandomResizedCrop's box: ten tries, then the largest central box within the aspect limits."""
    for _ in range(_TRIES):
        box_width, box_height = (round(side) for side in _draw_shape(height, width, scale, ratio, rng))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
            return Box(int(top), int(left), box_height, box_width)
    box_width = min(width, round(height * ratio[1]))
    box_height = min(height, round(width / ratio[0]))
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def _draw_erase(size: int, rng: np.random.Generator) -> Box | None:
    """RandomErasing's box in the resized frame; None when ten tries found none that fits."""
    for _ in range(_TRIES):
        height, width = (round(side) for side in _draw_shape(size, size, ERASE_AREA, ERASE_RATIO, rng))
        if height < size and width < size:
            top, left = rng.integers(size - height + 1), rng.integers(size - width + 1)
            return Box(int(top), int(left), height, width)
    return None


def augment_frames(frames: Tensor, draw: VisualDraw, size: int, mean: RGB, std: RGB) -> Tensor:
    """Apply one draw to all frames of a clip.

    The published order is RandAugment, to float, normalise, crop and resize, flip, erase. Cropping the uint8 frames
    before they become floats and normalising the resized ones gives the same numbers, because resizing is linear and
    its weights sum to one, and touches only the pixels that are kept.

    Args:
        frames: ``[S, H, W, 3]`` uint8.
        draw: For frames of this height and width.
        size: ``N``.
        mean: Of the channels in [0, 1].
        std: The same.

    Returns:
        ``[S, 3, N, N]`` float32, normalised.
    """
    crop = draw.crop
    kept = apply_ops(frames, draw.ops, (crop.top, crop.left, crop.height, crop.width))
    channels_last = kept.float().permute(0, 3, 1, 2)
    resized = F.interpolate(channels_last, size=(size, size), mode="bilinear", align_corners=False)
    planes = normalize_planes(resized.contiguous(), mean, std)
    if draw.flip:
        planes = planes.flip(-1)
    if draw.erase is not None:
        box = draw.erase
        generator = torch.Generator().manual_seed(draw.noise_seed)
        noise = torch.randn(len(frames), 3, box.height, box.width, generator=generator)
        planes[..., box.top : box.top + box.height, box.left : box.left + box.width] = noise
    return planes


def draw_mixup(config: AugmentConfig, num_segments: int, num_clips: int, rng: np.random.Generator) -> MixupDraw | None:
    """With ``mixup_probability`` a partner among all training clips (itself included) and one weight per segment."""
    if rng.random() >= config.mixup_probability:
        return None
    partner = int(rng.integers(num_clips))
    weights = rng.beta(config.mixup_beta, config.mixup_beta, num_segments)
    return MixupDraw(partner, tuple(float(weight) for weight in weights))


def mixed_fbanks(waveform: Tensor, other: Tensor, weights: tuple[float, ...], spec: FbankSpec) -> tuple[Tensor, int]:
    """Filter banks of a clip mixed with another at the waveform, with a fresh weight for every segment.

    Both lose their mean, the partner is cut or zero-padded to the clip's length, the mixture loses its mean again, and
    only then segments are cut; all of it is done on the segments alone, since the mean of a mixture is the mixture of
    the means. The labels stay those of ``waveform`` (method section 6.1).

    Args:
        waveform: ``[L]`` int16 or float.
        other: ``[L']`` of the partner.
        weights: ``S`` weights of ``waveform``.
        spec: Geometry of the fbank.

    Returns:
        ``[S, T, F]`` as ``segment_fbanks`` returns it, and the number of valid frames.
    """
    waveform, other = centred_waveform(waveform), centred_waveform(other)
    num_samples = len(waveform)
    other = F.pad(other[:num_samples], (0, max(0, num_samples - len(other))))
    weight = torch.tensor(weights, dtype=torch.float32).unsqueeze(1)
    means = torch.lerp(other.mean(), waveform.mean(), weight)
    starts, length = segment_starts(num_samples, spec, len(weights)), segment_length(num_samples, spec)
    main, partner = (torch.stack([sound[start : start + length] for start in starts]) for sound in (waveform, other))
    return fbank_frames(torch.lerp(partner, main, weight).sub_(means), spec)
