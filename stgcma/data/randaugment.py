"""RandAugment for clips: timm's operations with one draw for all frames (``rand-m7-n4-mstd0.5-inc1``).

timm draws inside each operation from Python's global generator. Here an explicit generator makes one draw per clip, and
timm's functions compute only the pixels on which the crop depends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.data.auto_augment import NAME_TO_OP
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from stgcma.config import AugmentConfig
from stgcma.data.line_shift import LineShift

Image = Any
"""A Pillow image, as timm's operations take it."""

MAX_MAGNITUDE = 10.0
FILL = 128
"""Grey level of pixels whose source is outside the frame."""
_AFFINE, _BICUBIC = 0, 3
"""Pillow's ``Image.Transform.AFFINE`` and ``Image.Resampling.BICUBIC``."""


@dataclass(frozen=True)
class ImageOp:
    """One operation and its argument: degrees, a factor, a threshold or a share of the side."""

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
"""timm's 15 "increasing" operations -> function of (magnitude / 10, random sign) that gives their argument, or None."""

GEOMETRIC = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}
STATISTICAL = {"AutoContrast", "Equalize", "ContrastIncreasing"}
"""Operations whose look-up table depends on the whole frame."""

POINTWISE = {"Invert", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd", "BrightnessIncreasing"}
"""Operations with one look-up table for all frames."""

_FUNCTIONS: Mapping[str, Any] = NAME_TO_OP
"""timm's function of every operation: an image and the argument -> an image."""

_REACH = {"SharpnessIncreasing": 1}
"""How many pixels away an operation reads; the default is 0. Bicubic interpolation reads two pixels away."""
_BICUBIC_REACH = 2


def draw_ops(config: AugmentConfig, rng: np.random.Generator) -> tuple[ImageOp, ...]:
    """Draw ``randaugment_ops`` operations with replacement; keep each with ``randaugment_probability``."""
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
    """Apply ``ops`` to every frame and return the ``crop`` of the result.

    Every operation computes only the region on which the next one depends. One value in 50,000 can differ by one grey
    level from cropping whole frames at the end. There the coordinates of the region differ from those of the frame in
    their last binary digit, and Pillow truncates a bicubic sum that is close to an integer.

    Args:
        frames: ``[S, H, W, 3]`` uint8.
        ops: Operations in order.
        crop: (top, left, height, width) within ``H x W``.

    Returns:
        ``[S, height, width, 3]`` uint8.
    """
    height, width = frames.shape[1:3]
    regions = [crop]
    for op in reversed(ops):
        regions.append(_needed(op, regions[-1], height, width))
    regions.reverse()
    top, left, kept_height, kept_width = regions[0]
    images = list(frames[:, top : top + kept_height, left : left + kept_width].numpy())
    for op, given, kept in zip(ops, regions, regions[1:], strict=False):
        images = _apply(images, op, given, kept, height, width)
    return torch.from_numpy(np.stack(images))


def _needed(op: ImageOp, kept: Region, height: int, width: int) -> Region:
    """The region of an operation's input on which the ``kept`` region of its output depends."""
    if op.name in STATISTICAL:
        return 0, 0, height, width
    top, left, bottom, right = kept[0], kept[1], kept[0] + kept[2], kept[1] + kept[3]
    if op.name in GEOMETRIC:
        a, b, c, d, e, f = _affine(op, width, height)
        corners = [(x, y) for x in (left, right) for y in (top, bottom)]
        across, down = [a * x + b * y + c for x, y in corners], [d * x + e * y + f for x, y in corners]
        left, right = math.floor(min(across)), math.ceil(max(across))
        top, bottom = math.floor(min(down)), math.ceil(max(down))
    reach = _BICUBIC_REACH if op.name in GEOMETRIC else _REACH.get(op.name, 0)
    # A region outside the frame keeps one pixel, because it must not be empty. Its values are not used.
    top, left = min(max(0, top - reach), height - 1), min(max(0, left - reach), width - 1)
    bottom, right = max(min(height, bottom + reach), top + 1), max(min(width, right + reach), left + 1)
    return top, left, bottom - top, right - left


def _apply(
    images: list[np.ndarray], op: ImageOp, given: Region, kept: Region, height: int, width: int
) -> list[np.ndarray]:
    """The ``kept`` region of an operation's output, ``[h, w, 3]``, from the ``given`` region of its input."""
    a, b, c, d, e, f = _affine(op, width, height) if op.name in GEOMETRIC else (0.0,) * 6
    if op.name == "Rotate":
        top, left, kept_height, kept_width = kept
        shifted = (a, b, c + a * left + b * top - given[1], d, e, f + d * left + e * top - given[0])
        return _with_pillow(
            images,
            lambda image: image.transform(
                (kept_width, kept_height), _AFFINE, shifted, resample=_BICUBIC, fillcolor=(FILL,) * 3
            ),
        )
    if op.name in GEOMETRIC:
        vertical = op.name in ("ShearY", "TranslateYRel")
        shift = LineShift.build(
            slope=d if vertical else b,
            offset=f if vertical else c,
            vertical=vertical,
            kept=kept,
            given=given,
            length=height if vertical else width,
        )
        return [shift.apply(np.ascontiguousarray(image), FILL) for image in images]
    if op.name in POINTWISE:
        table = _table(op)
        return [np.frombuffer(image.tobytes().translate(table), np.uint8).reshape(image.shape) for image in images]
    top, left = kept[0] - given[0], kept[1] - given[1]
    return _with_timm(images, op, (left, top, left + kept[3], top + kept[2]))


def _table(op: ImageOp) -> bytes:
    """Results of a pointwise operation for the values 0 .. 255."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    (mapped,) = _with_timm([ramp], op, (0, 0, 16, 16))
    return mapped[:, :, 0].tobytes()


def _with_timm(images: list[np.ndarray], op: ImageOp, box: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Apply timm's function to every image and take the ``box`` (left, top, right, bottom) of the result."""
    arguments = () if op.argument is None else (op.argument,)
    return _with_pillow(images, lambda image: _FUNCTIONS[op.name](image, *arguments).crop(box))


def _with_pillow(images: list[np.ndarray], function: Callable[[Image], Image]) -> list[np.ndarray]:
    return [np.asarray(function(to_pil_image(np.ascontiguousarray(image)))) for image in images]


def _affine(op: ImageOp, width: int, height: int) -> tuple[float, float, float, float, float, float]:
    """Coefficients a to f from output to input coordinates: ``x' = a x + b y + c``, ``y' = d x + e y + f``."""
    assert op.argument is not None
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
