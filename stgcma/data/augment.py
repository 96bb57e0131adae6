"""Training augmentation: one draw per clip for all its frames, and exact waveform mix-up (method sections 6.1, 6.2).

A draw is a small frozen record that an explicit generator makes. Applying a draw is a pure function. The augmentation
of a clip therefore depends only on (seed, epoch, clip), not on the number of workers or on where a run was resumed.

Shape letters: ``S`` segments, ``H W`` pixels of the stored frames, ``N`` side of the model input, ``T F`` fbank.
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
    """A half-open rectangle of pixels: rows ``top`` to ``top + height - 1``, columns likewise."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class VisualDraw:
    """The operations on every frame of one clip, in the order in which they apply."""

    ops: tuple[ImageOp, ...]
    crop: Box
    flip: bool
    erase: Box | None
    """Rectangle of the resized frame that is filled with noise."""
    noise_seed: int


@dataclass(frozen=True)
class MixupDraw:
    """Number of the other training clip, and the weight of the clip itself in each of the ``S`` segments."""

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
    """Two sides: their product is a uniform share of the image area, their quotient is log-uniform."""
    target = rng.uniform(*area) * height * width
    quotient = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    return math.sqrt(target * quotient), math.sqrt(target / quotient)


def _draw_crop(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """The box of ``RandomResizedCrop``: ten tries, then the largest central box with an allowed aspect ratio."""
    for _ in range(_TRIES):
        box_width, box_height = (round(side) for side in _draw_shape(height, width, scale, ratio, rng))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
            return Box(int(top), int(left), box_height, box_width)
    box_width = min(width, round(height * ratio[1]))
    box_height = min(height, round(width / ratio[0]))
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def _draw_erase(size: int, rng: np.random.Generator) -> Box | None:
    """The box of ``RandomErasing`` in the resized frame; None if no box fitted in ten tries."""
    for _ in range(_TRIES):
        height, width = (round(side) for side in _draw_shape(size, size, ERASE_AREA, ERASE_RATIO, rng))
        if height < size and width < size:
            top, left = rng.integers(size - height + 1), rng.integers(size - width + 1)
            return Box(int(top), int(left), height, width)
    return None


def augment_frames(frames: Tensor, draw: VisualDraw, size: int, mean: RGB, std: RGB) -> Tensor:
    """Apply one draw to all frames of a clip.

    The published order is: RandAugment, conversion to float, normalisation, crop and resize, flip, erase. This function
    crops the uint8 frames first and normalises after the resize, so it computes only the pixels that are kept. The
    result is the same, because resizing is linear and its weights sum to one.

    Args:
        frames: ``[S, H, W, 3]`` uint8.
        draw: Draw for frames of this height and width.
        size: ``N``.
        mean: Mean of the channels, with pixels in [0, 1].
        std: Standard deviation of the channels, with pixels in [0, 1].

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
    """Draw a partner among all training clips (the clip itself included) and one weight per segment.

    Returns:
        None with probability ``1 - mixup_probability``: the clip is not mixed.
    """
    if rng.random() >= config.mixup_probability:
        return None
    partner = int(rng.integers(num_clips))
    weights = rng.beta(config.mixup_beta, config.mixup_beta, num_segments)
    return MixupDraw(partner, tuple(float(weight) for weight in weights))


def mixed_fbanks(waveform: Tensor, other: Tensor, weights: tuple[float, ...], spec: FbankSpec) -> tuple[Tensor, int]:
    """Filter banks of two mixed waveforms, with another weight in every segment (method section 6.1).

    By definition the mean of both waveforms is removed, the partner is cut or zero-padded to the length of the clip,
    the mean of the mixture is removed, and then the segments are cut. This function mixes only the segments, which
    gives the same numbers: the mean of a mixture is the mixture of the means. The labels remain those of ``waveform``.

    Args:
        waveform: ``[L]`` int16 or float.
        other: ``[L']``, waveform of the partner.
        weights: Weight of ``waveform`` in each of the ``S`` segments.
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
