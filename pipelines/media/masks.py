"""Ground-truth masks of any PNG mode -> one bit per pixel. ``H W`` pixels.

Every encoding in use is read by its own rule, and what fits none is refused with the values that were found:

* black and white, 8 or 16 bit, with or without grey edges: foreground above half of white;
* black and one other value (0 and 1, 0 and 128): the other one is foreground;
* colours on black (palettes, one colour an object): whatever is not black; with soft edges, above half of the peak;
* an object cut out by transparency, in one colour, black included: the opaque pixels. Otherwise transparent is black.

Masks are thresholded, never dithered: PIL's ``convert("1")`` scatters grey edges into dots (Floyd-Steinberg). Grey
pixels that are neither black nor white are counted: many of them mean that the file is not a binary mask.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from stgcma.errors import ClipDecodeError

_GREY_TOLERANCE = 16
"""Channels that differ by no more than this are grey: JPEG shifts them."""
_FAINT = 1 / 8
"""Part of white. Edges of a shape take all values alike; more pixels below this than above are numbers, not edges."""
_MAX_LABEL_COLOURS = 32
"""More colours than this are soft edges, not one colour an object."""


@dataclass(frozen=True)
class Mask:
    """``pixels [H, W]`` bool, and how many grey pixels of the file were neither black nor white."""

    pixels: np.ndarray
    num_non_binary: int


def read_mask(data: bytes, where: str) -> Mask:
    """Decode one mask file.

    Args:
        data: PNG (or any format PIL knows) of mode 1, L, LA, P, RGB, RGBA or 16 bit.
        where: Its path, for messages.

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
    """``[H, W]`` integers of which ``white`` is the largest possible."""
    present = np.unique(values)
    bright = present[present > 0]
    if len(bright) == 1 and (present[0] == 0 or bright[0] in (1, white)):
        non_binary = 0 if bright[0] in (1, white) else int((values > 0).sum())
        return Mask(values > 0, non_binary)
    num_bright, num_faint = int((values > 0).sum()), int(((values > 0) & (values <= white * _FAINT)).sum())
    if len(bright) and (bright[-1] <= white / 2 or 2 * num_faint > num_bright):  # numbers of objects or classes
        listed = ", ".join(map(str, present[:8])) + (", ..." if len(present) > 8 else "")
        raise ClipDecodeError(
            "masks",
            "mask is not black and white",
            f"{where}: values {listed}. Needed: 0 and one other value, or black and white; objects with numbers of "
            "their own must become one value first",
        )
    return Mask(values > white / 2, int(((values != 0) & (values != white)).sum()))


def _colour_mask(colours: np.ndarray, where: str) -> Mask:
    """``[H, W, 3]`` uint8 with colours."""
    distinct = np.unique(colours.reshape(-1, 3), axis=0)
    brightness = colours.max(axis=2)
    if len(distinct) > 1 and brightness.min() > 0:
        listed = ", ".join(str(tuple(map(int, colour))) for colour in distinct[:4])
        raise ClipDecodeError("masks", "mask without black", f"{where}: no pixel is black, there are {listed}")
    if len(distinct) <= _MAX_LABEL_COLOURS:
        return Mask(brightness > 0, 0)
    peak = int(brightness.max())
    return Mask(brightness > peak / 2, int(((brightness != 0) & (brightness != peak)).sum()))


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
