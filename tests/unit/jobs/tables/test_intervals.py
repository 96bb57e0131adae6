"""Bootstrap intervals over clips and seeds."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.tables.intervals import bootstrap_difference, bootstrap_over_clips


def test_one_seed_independent_clips_match_the_binomial_formula() -> None:
    correct = (np.arange(400) % 4 != 0).astype(float).reshape(1, 400, 1)
    found = bootstrap_over_clips(correct)
    half_width = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert found.mean == 0.75
    assert found.high - found.mean == pytest.approx(half_width, rel=0.1)
    assert found.mean - found.low == pytest.approx(half_width, rel=0.1)


def test_segments_of_a_clip_are_not_independent_trials() -> None:
    """100 clips that are right or wrong in all segments give the interval of 100 segments, not of 1,000."""
    clips = (np.arange(100) % 2).astype(float)
    whole = bootstrap_over_clips(np.repeat(clips[None, :, None], 10, axis=2))
    single = bootstrap_over_clips(clips[None, :, None])
    assert whole == single
    assert whole.high - whole.low > 0.15


def test_questions_about_a_video_are_drawn_together() -> None:
    """1,000 questions that are all right or all wrong in each of 100 videos give the interval of 100 videos."""
    videos = (np.arange(100) % 2).astype(float)
    rows = np.repeat(videos, 10)[None, :, None]
    names = [f"video{number // 10}" for number in range(1000)]
    assert bootstrap_over_clips(rows, clips=names) == bootstrap_over_clips(videos[None, :, None])
    apart = bootstrap_over_clips(rows)
    assert apart.high - apart.low < 0.5 * 0.15
    order = np.random.default_rng(5).permutation(1000)
    shuffled = bootstrap_over_clips(rows[:, order], clips=[names[number] for number in order])
    assert shuffled.mean == 0.5
    assert shuffled.high - shuffled.low == pytest.approx(0.2, rel=0.15)
    difference = bootstrap_difference(rows, 1 - rows, clips=names)
    assert difference.high - difference.low > 0.3


def test_a_video_weighs_as_much_as_its_questions() -> None:
    correct = np.array([1.0] * 9 + [0.0])[None, :, None]
    found = bootstrap_over_clips(correct, clips=["long"] * 9 + ["short"])
    assert found.mean == pytest.approx(0.9), "a mean over questions, like the metric"
    assert (found.low, found.high) == (0.0, 1.0), "a draw may hold one of the two videos twice"


def test_seeds_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    equal = np.repeat(rng.random((1, 500, 1)), 3, axis=0)
    shifted = equal + np.array([-0.1, 0.0, 0.1])[:, None, None]
    narrow, wide = bootstrap_over_clips(equal), bootstrap_over_clips(shifted)
    assert wide.mean == pytest.approx(narrow.mean)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_coverage_of_a_known_mean() -> None:
    """For clips with mean 0.6, about 90 % of the 90 % intervals contain 0.6."""
    rng = np.random.default_rng(2)
    held = 0
    for world in range(200):
        rates = rng.beta(3, 2, size=(1, 120, 1))
        found = bootstrap_over_clips((rng.random((1, 120, 10)) < rates), level=0.9, num_resamples=400, seed=world)
        held += found.low <= 0.6 <= found.high
    assert 0.83 <= held / 200 <= 0.96


def test_pairing_removes_what_both_variants_share() -> None:
    rng = np.random.default_rng(3)
    hardness = rng.random((1, 300, 1))
    better = (hardness < 0.7).astype(float)
    worse = (hardness < 0.66).astype(float)
    paired = bootstrap_difference(better, worse)
    apart = [bootstrap_over_clips(variant) for variant in (better, worse)]
    assert paired.low > 0
    assert paired.mean == pytest.approx(apart[0].mean - apart[1].mean)
    assert apart[0].low < apart[1].high
    same = bootstrap_difference(better, better)
    assert same.low == same.high == 0


def test_equal_input_gives_equal_intervals() -> None:
    correct = np.random.default_rng(4).random((3, 50, 10)) < 0.5
    assert bootstrap_over_clips(correct) == bootstrap_over_clips(correct)
    assert bootstrap_over_clips(correct, seed=1) != bootstrap_over_clips(correct)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"correct\[None\] for one seed"):
        bootstrap_over_clips(np.zeros((5, 10)))
    with pytest.raises(ValueError, match="same seeds, clips and segments"):
        bootstrap_difference(np.zeros((1, 5, 10)), np.zeros((1, 6, 10)))
    with pytest.raises(ValueError, match="coverage"):
        bootstrap_over_clips(np.zeros((1, 5, 10)), level=95)
    with pytest.raises(ValueError, match="each of the 5 rows, got 4"):
        bootstrap_over_clips(np.zeros((1, 5, 10)), clips="abcd")
