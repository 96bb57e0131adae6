"""Labels keep their second if picture and sound, or the clip and its labels, differ in length."""

import numpy as np
import pytest

from pipelines.media.decode import frame_indices
from pipelines.media.span import NominalLength, clip_span
from pipelines.media.timeline import Timeline
from stgcma.errors import ClipDecodeError
from tests.media import write_clip
from tests.unit.pipelines.media.helpers import info_of, row_of

TEN = NominalLength(seconds=10)


def pictures(begin, end, rate=10):
    count = round((end - begin) * rate)
    pts = np.arange(count, dtype=np.int64) + round(begin * rate)
    return Timeline(pts=pts, time_base=1 / rate, end_seconds=end, is_complete=True)


def grid_of(timeline, sound_end, nominal=None, count=10, origin=0.0):
    span = clip_span(info_of(origin_seconds=origin), timeline, sound_end, nominal)
    return span, timeline.starts[frame_indices(timeline.starts, count, span.first, span.last)]


@pytest.mark.parametrize("sound_end", [3.0, 9.7, 10.0, 10.19])
def test_an_ordinary_clip_lasts_as_long_as_its_pictures(sound_end):
    span, times = grid_of(pictures(0, 10), sound_end, TEN)
    assert (span.begin, span.end, span.note) == (0, 10, "")
    np.testing.assert_allclose(times, np.linspace(0, 99, 10).astype(int) / 10)


def test_the_last_picture_stays_until_the_sound_ends():
    span, times = grid_of(pictures(0, 5), 10.0, TEN)
    assert (span.end, span.note) == (10, "")
    np.testing.assert_allclose(times, np.minimum(np.linspace(0, 99, 10).astype(int) / 10, 4.9))


def test_a_single_picture_stays_for_all_seconds():
    span, times = grid_of(pictures(0, 0.1), 10.0)
    assert span.end == 10
    assert times.tolist() == [0] * 10


def test_the_first_picture_stands_in_for_a_late_beginning():
    span, times = grid_of(pictures(3, 10), 10.0, TEN)
    assert (span.begin, span.end) == (0, 10)
    np.testing.assert_allclose(times, np.maximum(np.linspace(0, 99, 10).astype(int) / 10, 3), atol=1e-9)


@pytest.mark.parametrize(
    ("seconds", "length", "note"),
    [
        (9.6, 9.6, ""),
        (10.4, 10.4, ""),
        (11, 10, "cut from 11.00 s"),
        (15, 10, "cut from 15.00 s"),
        (9.2, 10, "filled up from 9.20 s"),
        (5, 10, "filled up from 5.00 s"),
    ],
)
def test_another_length_follows_the_rule_and_is_noted(seconds, length, note):
    span, times = grid_of(pictures(0, seconds), seconds, TEN)
    assert (span.end, span.note) == (pytest.approx(length), note)
    np.testing.assert_allclose(times, np.minimum(np.linspace(0, length - 0.1, 10), seconds - 0.1), atol=0.1)


@pytest.mark.parametrize("seconds", [0.5, 4.9, 15.2, 20])
def test_a_length_that_is_too_far_off_fails(seconds):
    with pytest.raises(ClipDecodeError, match=rf"clip length differs .*{seconds:.2f} s, .* have 10 s"):
        grid_of(pictures(0, seconds), seconds, TEN)


def test_clips_may_be_shorter_if_no_label_counts_seconds():
    nominal = NominalLength(seconds=60, divides_shorter=True)
    assert grid_of(pictures(0, 7), 7, nominal)[0].end == 7
    assert grid_of(pictures(0, 61), 61, nominal)[0].end == 60


@pytest.mark.parametrize(
    ("timeline", "sound_end", "reason"),
    [
        (pictures(0, 5), 100.0, "picture ends long before the sound"),
        (pictures(0, 100), 5.0, "sound ends long before the picture"),
        (pictures(100, 105), 105.0, "picture begins long after the sound"),
        (pictures(0, 1900), 1900.0, "clip too long"),
    ],
)
def test_padding_and_length_have_limits(timeline, sound_end, reason):
    with pytest.raises(ClipDecodeError, match=reason):
        grid_of(timeline, sound_end)


def test_the_row_of_a_long_clip_has_its_first_seconds_and_says_so(tmp_path):
    write_clip(tmp_path / "long.mp4", seconds=4)
    whole, cut = row_of(tmp_path, "long.mp4"), row_of(tmp_path, "long.mp4", nominal=NominalLength(seconds=3))
    assert (cut.duration_seconds, len(cut.waveform)) == (3, 48_000)
    assert cut.source.length_note == "cut from 4.00 s"
    assert cut.frame_times_seconds[-1] == pytest.approx(2.9)
    np.testing.assert_array_equal(cut.waveform, whole.waveform[:48_000])
    filled = row_of(tmp_path, "long.mp4", nominal=NominalLength(seconds=5))
    assert (filled.duration_seconds, len(filled.waveform)) == (5, 80_000)
    assert not filled.waveform[65_000:].any()
    assert filled.frames[-1] == whole.frames[-1]
    assert filled.source.length_note == "filled up from 4.00 s"
