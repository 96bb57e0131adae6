"""RandAugment for clips: timm's operations with one draw shared by all frames (``rand-m7-n4-mstd0.5-inc1``).

timm draws inside each operation from Python's global generator; here the draw is a value, made once per clip by an
explicit generator, and timm's functions compute the pixels. Only what the crop keeps is computed where that cannot
change a pixel: see ``apply_ops``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.data.auto_augment import NAME_TO_OP
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from stgcma.config import AugmentConfig

Image = Any
"""A Pillow image, as timm's operations take it."""

MAX_MAGNITUDE = 10.0
FILL = (128, 128, 128)
_AFFINE, _BICUBIC = 0, 3
"""Pillow's ``Image.Transform.AFFINE`` and ``Image.Resampling.BICUBIC``."""


@dataclass(frozen=True)
class ImageOp:
    """One operation with its argument: degrees, a factor, a threshold, a share of the side."""

    name: str
    argument: float | int | None = None


Region = tuple[int, int, int, int]
"""(top, left, height, width) in pixels."""


def _enhance(level: float, sign: int) -> float:
    return max(0.1, 1.0 + sign * level * 0.9)


ARGUMENTS: dict[str, Callable[[float, int], float | int] | None] = {
    "AutoContrast": None,
    "Equalize": None,
    "Invert": None,
    "Rotate": lambda level, sign: sign * level * 30.0,
    "PosterizeIncreasing": lambda level, sign: 4 - int(level * 4),
    "SolarizeIncreasing": lambda level, sign: 256 - min(256, int(level * 256)),
    "SolarizeAdd": lambda level, sign: min(128, int(level * 110)),
    "ColorIncreasing": _enhance,
    "ContrastIncreasing": _enhance,
    "BrightnessIncreasing": _enhance,
    "SharpnessIncreasing": _enhance,
    "ShearX": lambda level, sign: sign * level * 0.3,
    "ShearY": lambda level, sign: sign * level * 0.3,
    "TranslateXRel": lambda level, sign: sign * level * 0.45,
    "TranslateYRel": lambda level, sign: sign * level * 0.45,
}
"""timm's 15 "increasing" operations and their argument from (magnitude / 10, random sign)."""

GEOMETRIC = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}
NEEDS_WHOLE_FRAME = GEOMETRIC | {"AutoContrast", "Equalize", "ContrastIncreasing"}
"""Operations whose pixels depend on others far away: by moving them, or by statistics of the frame."""


def draw_ops(config: AugmentConfig, rng: np.random.Generator) -> tuple[ImageOp, ...]:
    """``randaugment_ops`` operations with replacement, each kept with ``randaugment_probability``."""
    names = list(ARGUMENTS)
    ops = []
    for choice in rng.integers(len(names), size=config.randaugment_ops):
        keep, sign = rng.random() < config.randaugment_probability, -1 if rng.random() < 0.5 else 1
        magnitude = rng.normal(config.randaugment_magnitude, config.randaugment_magnitude_std)
        level = min(max(magnitude, 0.0), MAX_MAGNITUDE) / MAX_MAGNITUDE
        argument = ARGUMENTS[names[choice]]
        if keep:
            ops.append(ImageOp(names[choice], None if argument is None else argument(level, sign)))
    return tuple(ops)


def apply_ops(frames: Tensor, ops: Sequence[ImageOp], crop: Region) -> Tensor:
    """``crop`` of what ``ops`` make of every frame: the pixels of computing whole frames and cropping at the end.

    Equal but for a grey level or two in one of 60,000 values, where Pillow truncates a bicubic sum that lies on
    an integer and the coordinates of a region differ from the whole frame's in their last binary digit.

    Whole frames are needed only up to the last operation that moves pixels or takes statistics. That one, if it moves
    pixels, computes the kept region alone; what follows sees the region and one more pixel per sharpening.

    Args:
        frames: ``[S, H, W, 3]`` uint8.
        ops: In order.
        crop: (top, left, height, width) within ``H x W``.

    Returns:
        ``[S, height, width, 3]`` uint8.
    """
    height, width = frames.shape[1:3]
    last = max((i for i, op in enumerate(ops) if op.name in NEEDS_WHOLE_FRAME), default=-1)
    margin = sum(op.name == "SharpnessIncreasing" for op in ops[last + 1 :])
    region = _dilate(crop, margin, height, width)
    inner = (crop[0] - region[0], crop[1] - region[1], *crop[2:])
    if last < 0:
        frames = _cut(frames, region)
    if not ops:
        return frames
    result = torch.empty(len(frames), *crop[2:], 3, dtype=torch.uint8)
    for frame, target in zip(frames, result, strict=True):
        image = to_pil_image(frame.numpy())
        for position, op in enumerate(ops):
            if op.name in GEOMETRIC:
                image = _transform(image, op, region if position == last else (0, 0, height, width))
            else:
                image = NAME_TO_OP[op.name](image, *(() if op.argument is None else (op.argument,)))
                if position == last:
                    image = image.crop((region[1], region[0], region[1] + region[3], region[0] + region[2]))
        target.copy_(_cut(torch.from_numpy(np.array(image)), inner))
    return result


def _dilate(region: Region, margin: int, height: int, width: int) -> Region:
    top, left = max(0, region[0] - margin), max(0, region[1] - margin)
    bottom = min(height, region[0] + region[2] + margin)
    right = min(width, region[1] + region[3] + margin)
    return top, left, bottom - top, right - left


def _cut(pixels: Tensor, region: Region) -> Tensor:
    """``[..., H, W, 3]`` -> the region of it."""
    top, left, height, width = region
    return pixels[..., top : top + height, left : left + width, :]


def _transform(image: Image, op: ImageOp, region: Region) -> Image:
    """A region of the moved frame, bicubic, grey where nothing was: timm's functions compute whole frames only."""
    top, left, height, width = region
    a, b, c, d, e, f = _affine(op, *image.size)
    shifted = (a, b, c + a * left + b * top, d, e, f + d * left + e * top)
    return image.transform((width, height), _AFFINE, shifted, resample=_BICUBIC, fillcolor=FILL)


def _affine(op: ImageOp, width: int, height: int) -> tuple[float, float, float, float, float, float]:
    """Output to input coordinates: ``x' = a x + b y + c``, ``y' = d x + e y + f``."""
    value = float(op.argument)
    if op.name == "Rotate":
        angle = -math.radians(value)
        cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
        x, y = width / 2, height / 2
        return cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y
    return {
        "ShearX": (1.0, value, 0.0, 0.0, 1.0, 0.0),
        "ShearY": (1.0, 0.0, 0.0, value, 1.0, 0.0),
        "TranslateXRel": (1.0, 0.0, value * width, 0.0, 1.0, 0.0),
        "TranslateYRel": (1.0, 0.0, 0.0, 0.0, 1.0, value * height),
    }[op.name]
