"""Bootstrap intervals for metrics that come from a few training seeds and a limited test split.

The unit of resampling is the clip, because the seconds of a clip share an event and the questions about a video share
a scene: they are not independent. Seeds are resampled together with the clips; an interval that ignores either is too
narrow. With three seeds, the variation between seeds is only roughly known. The intervals do not cover another
backbone or another training set.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """A mean and its percentile interval, as fractions or differences of fractions."""

    mean: float
    low: float
    high: float


def bootstrap_over_clips(
    correct: np.ndarray,
    *,
    clips: Sequence[Hashable] | None = None,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of ``correct`` and its bootstrap interval over seeds and clips.

    Args:
        correct: ``[num_seeds, num_rows, S]``, 1 where a segment is right. All seeds have the same rows in order.
        clips: The clip of each row, if a clip has several rows (questions). Rows of one clip are drawn together; the
            mean is still taken over rows. None: each row is a clip.
        level: Coverage of the interval.
        num_resamples: Number of draws of (seeds, clips) with replacement.
        seed: Random seed of the draws; the same input gives the same interval.

    Raises:
        ValueError: If ``correct`` is empty or has another number of axes, ``level`` is not in (0, 1), or ``clips`` has
            another length.
    """
    return _interval(_row_scores(correct), clips, level, num_resamples, seed)


def bootstrap_difference(
    correct: np.ndarray,
    baseline: np.ndarray,
    *,
    clips: Sequence[Hashable] | None = None,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of ``correct - baseline`` and its bootstrap interval, paired by seed and clip.

    Clips that are hard for both variants cancel, so the interval is narrower than two separate ones suggest.

    Args:
        correct: ``[num_seeds, num_rows, S]`` of one variant.
        baseline: ``[num_seeds, num_rows, S]`` of the other, with the same seeds and rows in order.
        clips: As in ``bootstrap_over_clips``.
        level: Coverage of the interval.
        num_resamples: Number of draws of (seeds, clips) with replacement.
        seed: Random seed of the draws.

    Raises:
        ValueError: If the shapes differ, and as ``bootstrap_over_clips``.
    """
    if np.shape(correct) != np.shape(baseline):
        raise ValueError(
            "A paired difference needs the same seeds, clips and segments on both sides, got "
            f"{np.shape(correct)} and {np.shape(baseline)} as [num_seeds, num_rows, S]."
        )
    scores = _row_scores(correct) - _row_scores(baseline)
    return _interval(scores, clips, level, num_resamples, seed)


def _row_scores(correct: np.ndarray) -> np.ndarray:
    """``[num_seeds, num_rows, S]`` -> mean per row ``[num_seeds, num_rows]``."""
    correct = np.asarray(correct, dtype=np.float64)
    if correct.ndim != 3 or 0 in correct.shape:
        raise ValueError(
            f"Intervals need a non-empty array [num_seeds, num_rows, S], got shape {correct.shape}. "
            "Add the missing axis, e.g. correct[None] for one seed."
        )
    return correct.mean(axis=2)


def _interval(
    scores: np.ndarray, clips: Sequence[Hashable] | None, level: float, num_resamples: int, seed: int
) -> Interval:
    """Percentile interval of the mean of ``scores [num_seeds, num_rows]`` over seeds and clips."""
    if not 0 < level < 1:
        raise ValueError(f"level needs a coverage in (0, 1), got {level}.")
    num_seeds, num_rows = scores.shape
    if clips is not None and len(clips) != num_rows:
        raise ValueError(f"clips needs one name for each of the {num_rows} rows, got {len(clips)}.")
    number: dict[Hashable, int] = {}
    clip_of_row = np.array([number.setdefault(clip, len(number)) for clip in (clips or range(num_rows))])
    num_clips = len(number)
    rows_of_clip = np.bincount(clip_of_row, minlength=num_clips)
    sums = np.stack([np.bincount(clip_of_row, weights=row, minlength=num_clips) for row in scores])
    rng = np.random.default_rng(seed)
    seed_weights = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_resamples) / num_seeds
    draws = rng.multinomial(num_clips, np.full(num_clips, 1 / num_clips), size=num_resamples)
    means = np.einsum("rs,sc,rc->r", seed_weights, sums, draws, optimize=True) / (draws @ rows_of_clip)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(scores.mean()), float(low), float(high))
