"""Ground-truth masks of any PNG mode -> one bit per pixel. ``H W`` are pixels.

Each encoding in use has a rule for the foreground. A file that fits no rule is refused; the message lists its values.

* Black and white, 8 or 16 bit, with or without grey edges: pixels above half of white.
* Black and one other value (0 and 1, 0 and 128): pixels of the other value.
* Colours on black (palettes, one colour per object): pixels that are not black; with soft edges, above half the peak.
* An object in one colour, even black, on transparency: the opaque pixels. Otherwise transparent pixels are black.

Masks are thresholded, never dithered: PIL's ``convert("1")`` scatters grey edges into dots (Floyd-Steinberg). Grey
pixels that are neither black nor white are counted; many of them mean that the file is not a binary mask.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from stgcma.errors import ClipDecodeError

_GREY_TOLERANCE = 16
"""A pixel whose channels differ by at most this is grey, because JPEG shifts channels."""
_FAINT = 1 / 8
"""Fraction of white. Soft edges take all values equally often; if most pixels are below this, they number objects."""
_MAX_LABEL_COLOURS = 32
"""An image with more colours than this has soft edges, not one colour per object."""


@dataclass(frozen=True)
class Mask:
    """``pixels [H, W]`` bool, and the number of pixels in the file that are neither black nor white."""

    pixels: np.ndarray
    num_non_binary: int


def read_mask(data: bytes, where: str) -> Mask:
    """Decode one mask file.

    Args:
        data: PNG, or any other format that PIL reads, of mode 1, L, LA, P, RGB, RGBA or 16 bit.
        where: Path of the file, for messages.

    Raises:
        ClipDecodeError: Stage ``masks``: not an image, or values that no rule covers.
    """
    image = _open(data, "masks", "mask unreadable", where)
    if image.mode == "1":
        return Mask(np.asarray(image), 0)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.int64)
        return _grey_mask(values, 65_535 if values.max() > 255 else 255, where)
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        colours, alpha = np.asarray(image)[..., :3], np.asarray(image)[..., 3]
        opaque = alpha >= 128
        if opaque.any() and not opaque.all() and len(np.unique(colours[opaque], axis=0)) == 1:
            return _grey_mask(alpha, 255, where)
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    colours = np.asarray(image.convert("RGB"))
    if int(np.ptp(colours.astype(np.int16), axis=2).max()) <= _GREY_TOLERANCE:
        return _grey_mask(np.asarray(image.convert("L")), 255, where)
    return _colour_mask(colours, where)


def _grey_mask(values: np.ndarray, white: int, where: str) -> Mask:
    """Mask from integers ``[H, W]`` whose largest possible value is ``white``."""
    present = np.unique(values)
    bright = present[present > 0]
    if len(bright) == 1 and (present[0] == 0 or bright[0] in (1, white)):
        non_binary = 0 if bright[0] in (1, white) else int((values > 0).sum())
        return Mask(values > 0, non_binary)
    num_bright, num_faint = int((values > 0).sum()), int(((values > 0) & (values <= white * _FAINT)).sum())
    if len(bright) and (bright[-1] <= white / 2 or 2 * num_faint > num_bright):  # values number objects or classes
        listed = ", ".join(map(str, present[:8])) + (", ..." if len(present) > 8 else "")
        raise ClipDecodeError(
            "masks",
            "mask is not black and white",
            f"{where}: needs 0 and one other value, or black and white; got values {listed}. Give all objects the same "
            "value",
        )
    return Mask(values > white / 2, int(((values != 0) & (values != white)).sum()))


def _colour_mask(colours: np.ndarray, where: str) -> Mask:
    """Mask from a colour image ``[H, W, 3]`` uint8."""
    distinct = np.unique(colours.reshape(-1, 3), axis=0)
    brightness = colours.max(axis=2)
    if len(distinct) > 1 and brightness.min() > 0:
        listed = ", ".join(str(tuple(map(int, colour))) for colour in distinct[:4])
        raise ClipDecodeError("masks", "mask without black", f"{where}: needs a black background, got colours {listed}")
    if len(distinct) <= _MAX_LABEL_COLOURS:
        return Mask(brightness > 0, 0)
    peak = int(brightness.max())
    return Mask(brightness > peak / 2, int(((brightness != 0) & (brightness != peak)).sum()))


def read_picture(data: bytes, where: str) -> np.ndarray:
    """Decode one frame file to ``[H, W, 3]`` uint8 RGB; transparency is dropped.

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
