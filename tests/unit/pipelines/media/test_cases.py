"""Files that once silently gave wrong pictures, failed or never finished, each with its right answer."""

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.datasets.ave import NUM_SECONDS
from pipelines.media.span import NominalLength
from stgcma.errors import ClipDecodeError
from tests.shared_data import shared_dir
from tests.unit.pipelines.media.helpers import row_of
from tests.unit.pipelines.media.self_describing import sounding_second

CLIP_LENGTH = NominalLength(seconds=NUM_SECONDS)
WHOLE = (
    "audio_first.mkv",
    "audio_first.mp4",
    "base.mp4",
    "film.wmv",
    "mpeg4_bframes.avi",
    "programme.mpg",
    "small_video_first.mp4",
    "subtitle_first.mp4",
    "ts_gop200.ts",
    "ts_gop50.ts",
    "ts_mpeg2.ts",
    "two_videos_default_second_hevc.mp4",
    "xvid.avi",
)
"""Ten seconds of pictures and sound, in step."""


def media():
    return shared_dir() / "cases" / "media"


def seconds_shown(row, luma_per_second):
    """The second that each picture shows by its luma."""
    luma = [np.asarray(Image.open(io.BytesIO(frame))).mean() / 255 * 219 + 16 for frame in row.frames]
    return (np.array(luma) - 30) / luma_per_second


def check_sounds(row, first, seconds=range(10)):
    for second in seconds:
        assert sounding_second(row.waveform, second + 0.2, 0.5) == pytest.approx(second + first, abs=0.1)


@pytest.mark.parametrize("name", WHOLE)
def test_pictures_and_sounds_of_ten_seconds(name):
    row = row_of(media(), name, nominal=CLIP_LENGTH)
    np.testing.assert_allclose(seconds_shown(row, 20), range(10), atol=0.1)
    check_sounds(row, 0)
    assert row.source.length_note == ""


@pytest.mark.parametrize("name", ["edit_list_h264.mp4", "edit_list_hevc.mp4"])
def test_what_an_edit_list_cuts_off_is_not_shown(name):
    row = row_of(media(), name, nominal=CLIP_LENGTH)
    assert row.duration_seconds == pytest.approx(10.1, abs=0.11)
    shown = seconds_shown(row, 10)
    np.testing.assert_allclose(shown, np.floor(np.array(row.frame_times_seconds) + 3.401), atol=0.15)
    for second in range(4, 13):
        assert sounding_second(row.waveform, second - 3.4 + 0.2, 0.5) == pytest.approx(second, abs=0.1)


@pytest.mark.parametrize(("name", "last"), [("picture_ends_at_5s.mp4", 5), ("one_picture.mp4", 0)])
def test_the_last_picture_stands_until_the_sound_ends(name, last):
    row = row_of(media(), name, nominal=CLIP_LENGTH)
    assert row.duration_seconds == pytest.approx(10, abs=0.05)
    np.testing.assert_allclose(seconds_shown(row, 20), np.minimum(range(10), last), atol=0.1)
    check_sounds(row, 0)


def test_the_default_one_of_two_pictures_is_read():
    row = row_of(media(), "torchcodec_nasa_13013.mp4", nominal=CLIP_LENGTH)
    assert (row.source.width, row.source.height, row.source.sample_rate) == (480, 270, 16_000)
    assert row.source.length_note == "cut from 13.01 s"
    assert row.duration_seconds == 10


def test_twenty_seconds_are_not_an_ave_clip():
    with pytest.raises(ClipDecodeError, match=r"clip length differs .*20.00 s, .* have 10 s"):
        row_of(media(), "long.mp4", nominal=CLIP_LENGTH)


def test_every_case_is_covered():
    others = {"edit_list_h264.mp4", "edit_list_hevc.mp4", "picture_ends_at_5s.mp4", "one_picture.mp4"}
    others |= {"torchcodec_nasa_13013.mp4", "long.mp4"}
    assert {path.name for path in media().iterdir()} == others | set(WHOLE)
