"""Shear and translate frames along one axis, with the same numbers as Pillow's bicubic transform.

Every line (row or column) of the result is a line of the frame, shifted by its own amount. Pillow interpolates along
both axes, with sixteen products per value. Four products are enough along one axis, and the positions are the same for
all frames of a clip. The arithmetic runs in float64 in Pillow's order, so the results are equal. It takes a third of
the time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LINES_PER_BLOCK = 64
"""Lines per block: few enough that the intermediate values stay in the processor's cache."""


@dataclass(frozen=True)
class LineShift:
    """Source of every value of a region of ``n`` lines with ``m`` pixels each. Lines are columns if ``vertical``."""

    index: np.ndarray
    """``[n, m + 3]``: flat pixel numbers in the given image, from one before to two after the pixels of the result."""
    fraction: np.ndarray
    """``[n, m, 1]`` float64: position between the second and the third of four neighbours."""
    outside: np.ndarray
    """``[n, m, 1]`` bool: pixels whose source is outside the frame."""
    vertical: bool

    @classmethod
    def build(
        cls,
        *,
        slope: float,
        offset: float,
        vertical: bool,
        kept: tuple[int, int, int, int],
        given: tuple[int, int, int, int],
        length: int,
    ) -> LineShift:
        """The shift ``u' = u + slope v + offset`` of pixel centres, ``u`` along the line and ``v`` across.

        Args:
            slope: Additional shift of each line, in pixels.
            offset: Shift of all lines, in pixels.
            vertical: Whether ``u`` runs down instead of across.
            kept: (top, left, height, width) of the result within the frame.
            given: (top, left, height, width) of the image that it is computed from.
            length: Extent of the whole frame along ``u``, in pixels.
        """
        axis = 0 if vertical else 1
        along, across = (np.arange(kept[a], kept[a] + kept[2 + a]) for a in (axis, 1 - axis))
        source = ((along + 0.5) + (slope * (across + 0.5))[:, None]) + offset
        position = source - 0.5
        first = np.floor(position[:, 0]).astype(np.int64)[:, None]
        taps = (first + np.arange(-1, len(along) + 2)).clip(0, length - 1) - given[axis]
        taps = taps.clip(0, given[2 + axis] - 1)
        lines = (across - given[1 - axis])[:, None]
        width = given[3]
        return cls(
            index=taps * width + lines if vertical else lines * width + taps,
            fraction=(position - (first + np.arange(len(along))))[..., None],
            outside=((source < 0) | (source >= length))[..., None],
            vertical=vertical,
        )

    def apply(self, image: np.ndarray, fill: int) -> np.ndarray:
        """Given image ``[H, W, 3]`` uint8 -> kept region ``[h, w, 3]`` uint8, with ``fill`` outside the frame."""
        pixels = image.reshape(-1, 3)
        num_lines, num_pixels = self.index.shape[0], self.index.shape[1] - 3
        result = np.empty((num_lines, num_pixels, 3), np.uint8)
        for begin in range(0, num_lines, _LINES_PER_BLOCK):
            block = slice(begin, begin + _LINES_PER_BLOCK)
            values = pixels.take(self.index[block], axis=0).astype(np.int16)
            result[block] = _bicubic(values, self.fraction[block])
        np.copyto(result, fill, where=self.outside)
        return np.ascontiguousarray(result.transpose(1, 0, 2)) if self.vertical else result


def _bicubic(values: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Cubic convolution of four neighbours (a = -1): ``[n, m + 3, 3]`` int16 -> ``[n, m, 3]`` float64 in [0, 255]."""
    before, left, right, after = values[:, :-3], values[:, 1:-2], values[:, 2:-1], values[:, 3:]
    cubic = (left - before + after - right).astype(np.float64)
    cubic *= fraction
    cubic += (before - left) * 2 + right - after
    cubic *= fraction
    cubic += right - before
    cubic *= fraction
    cubic += left
    return np.clip(cubic, 0, 255, out=cubic)
