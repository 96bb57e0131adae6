"""Mean and standard deviation of filter banks, kept as sums in the shards and divided once for the manifest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from stgcma.data.manifest import FbankStats


@dataclass(frozen=True, kw_only=True)
class FbankSums:
    """Sums of one filter bank over the valid frames of some training clips."""

    total: float = 0.0
    squares: float = 0.0
    count: int = 0

    def __add__(self, other: FbankSums) -> FbankSums:
        return FbankSums(
            total=self.total + other.total, squares=self.squares + other.squares, count=self.count + other.count
        )

    @classmethod
    def of(cls, fbank: np.ndarray, valid_frames: int) -> FbankSums:
        """Sums over ``fbank [S, T, F]``; time frames from ``valid_frames`` on are padding and do not count."""
        values = fbank[:, :valid_frames].astype(np.float64)
        return cls(total=float(values.sum()), squares=float(np.square(values).sum()), count=values.size)


def finish(parts: Iterable[FbankSums]) -> FbankStats | None:
    """Mean and standard deviation over all parts; None if there was no training clip."""
    sums = sum(parts, FbankSums())
    if not sums.count:
        return None
    mean = sums.total / sums.count
    return FbankStats(mean=mean, std=math.sqrt(max(sums.squares / sums.count - mean * mean, 0.0)), count=sums.count)
