"""Ground-truth masks of any PNG mode -> one bit per pixel. ``H W`` pixels.

Masks are thresholded, never dithered: PIL's ``convert("1")`` scatters grey edges into dots (Floyd-Steinberg). Every
mode is first brought to luminance (transparent pixels count as black), then a pixel is foreground above half of the
range. Pixels that are neither black nor white are counted: many of them mean that the file is no binary mask.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from stgcma.errors import ClipDecodeError


@dataclass(frozen=True)
class Mask:
    """``pixels [H, W]`` bool, and how many pixels of the file were neither black nor white."""

    pixels: np.ndarray
    num_non_binary: int


def read_mask(data: bytes, where: str) -> Mask:
    """Decode one mask file.

    Args:
        data: PNG (or any format PIL knows) of mode 1, L, LA, P, RGB, RGBA or 16 bit.
        where: Its path, for messages.

    Raises:
        ClipDecodeError: Stage ``masks``: not an image.
    """
    values, white = _luminance(_open(data, "masks", "mask unreadable", where))
    non_binary = int(((values != 0) & (values != white)).sum())
    return Mask(values > white / 2, non_binary)


def read_picture(data: bytes, where: str) -> np.ndarray:
    """One frame file -> ``[H, W, 3]`` uint8 RGB; transparency is dropped.

    Raises:
        ClipDecodeError: Stage ``frames``: not an image.
    """
    return np.asarray(_open(data, "frames", "frame unreadable", where).convert("RGB"))


def _open(data: bytes, stage: str, reason: str, where: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ClipDecodeError(stage, reason, f"{where}: {error}") from error
    return image


def _luminance(image: Image.Image) -> tuple[np.ndarray, int]:
    """``[H, W]`` values and the value of white."""
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8), 1
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.int64), 65_535
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        canvas = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(canvas, image.convert("RGBA"))
    return np.asarray(image.convert("L")), 255
