"""The right picture at the right second: containers x codecs x track orders x cuts x rates."""

import numpy as np
import pytest

from tests.unit.pipelines.media.helpers import row_of
from tests.unit.pipelines.media.self_describing import (
    SECONDS,
    Recipe,
    numbers,
    sounding_second,
    write,
    write_source,
)

pytestmark = pytest.mark.slow

H264 = "libx264 -g 20 -bf 2 -pix_fmt yuv420p"
H265 = "libx265 -x265-params log-level=error:keyint=20:min-keyint=20"
VP8 = "libvpx -cpu-used 8 -deadline realtime -b:v 1M -g 20"
VP8_HIDDEN = "libvpx -auto-alt-ref 1 -lag-in-frames 12 -arnr-maxframes 5 -cpu-used 4 -b:v 1M -g 40"
VP9 = "libvpx-vp9 -cpu-used 8 -deadline realtime -b:v 1M -g 20"
MPEG4 = "mpeg4 -q:v 3 -bf 2 -g 20"
MPEG2 = "mpeg2video -q:v 3 -bf 2 -g 12"
WMV2 = "wmv2 -q:v 3 -g 20"
MJPEG = "mjpeg -q:v 3 -pix_fmt yuvj420p"
SOUND_FIRST = ("0:a", "0:v")
SMALL_FIRST = ("0:v:small", "0:v", "0:a")
SMALL_LAST = ("0:a", "0:v", "0:v:small")
ORDERS = (SOUND_FIRST, SMALL_FIRST, SMALL_LAST)

RECIPES = [
    *(Recipe(container=c, video=H264, rate=r) for c in ("mp4", "mov", "mkv", "ts", "flv") for r in (10, 25)),
    *(Recipe(container=c, video=H264, order=o) for c in ("mp4", "mkv", "ts") for o in ORDERS),
    *(Recipe(container=c, video=H265, rate=r) for c, r in (("mp4", 10), ("mkv", 25), ("ts", 25))),
    *(Recipe(container=c, video=H265, order=SOUND_FIRST) for c in ("mp4", "mkv", "ts")),
    *(Recipe(container="mp4", video=f"libx264 -g {g} -bf {b}", rate=25) for g in (1, 7, 250) for b in (0, 3)),
    *(Recipe(container="mp4", video=f"{H264.replace('420p', pixels)}") for pixels in ("444p", "422p", "420p10le")),
    *(Recipe(container="mp4", video=v, cut=1.3, rate=r) for v in (H264, H265, MPEG4) for r in (10, 25)),
    *(Recipe(container="mov", video=v, cut=2.7, rate=10, audio="pcm_s16le") for v in (H264, H265)),
    *(
        Recipe(container="mp4", video=f"{H264} -movflags +frag_keyframe+empty_moov", rate=r, late=2 / r)
        for r in (10, 25)
    ),
    *(Recipe(container=c, video=MPEG4, rate=25) for c in ("mp4", "mkv", "mov")),
    *(
        Recipe(container="avi", video=v, audio="libmp3lame", rate=25, late=0.16)
        for v in (MPEG4, "libxvid -bf 2 -q:v 3")
    ),
    *(Recipe(container="avi", video=v, audio="pcm_s16le", rate=r, late=0.1) for v in (MJPEG, MPEG4) for r in (10, 25)),
    *(Recipe(container="avi", video=H264, audio="libmp3lame", rate=r, late=0.2) for r in (10, 25)),
    *(Recipe(container=c, video=MPEG2, audio="mp2", rate=25) for c in ("ts", "mpg", "mkv", "vob")),
    Recipe(container="mpg", video="mpeg1video -q:v 3 -bf 2", audio="mp2", rate=25),
    *(Recipe(container=c, video=VP8, audio="libvorbis", rate=r) for c in ("webm", "mkv") for r in (10, 25)),
    Recipe(container="webm", video=VP8_HIDDEN, audio="libopus", rate=25),
    *(Recipe(container=c, video=VP9, audio="libopus", rate=25) for c in ("webm", "mp4")),
    *(Recipe(container="webm", video=VP9, audio="libopus", order=o) for o in (SOUND_FIRST, SMALL_FIRST)),
    *(Recipe(container=c, video=WMV2, audio="wmav2", rate=25, late=0.05) for c in ("wmv", "asf")),
    Recipe(container="ogv", video="libtheora -q:v 8 -g 20", audio="libvorbis", rate=25),
    Recipe(container="flv", video="flv1 -q:v 3 -g 20", audio="libmp3lame -ar 44100", rate=25),
    Recipe(container="nut", video=MJPEG, audio="libmp3lame"),
    *(Recipe(container=c, video=v, picture_seconds=2) for c, v in (("mp4", H264), ("mkv", H265), ("ts", MPEG2))),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return {rate: write_source(folder / f"{rate}.mkv", rate) for rate in {recipe.rate for recipe in RECIPES}}


def test_there_are_enough_combinations_of_different_names():
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES) >= 60
    assert len({recipe.container for recipe in RECIPES}) >= 10


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(r, id=r.name, marks=[pytest.mark.slow] * (k % 2)) for k, r in enumerate(RECIPES)],
)
def test_every_picture_and_sound_belongs_to_its_time(recipe, sources, tmp_path):
    path = write(recipe, sources[recipe.rate], tmp_path)
    row = row_of(tmp_path, path.name)

    length, period = SECONDS - recipe.cut, 1 / recipe.rate
    assert row.duration_seconds == pytest.approx(length, abs=period + recipe.late + 0.15)

    times, shown = np.array(row.frame_times_seconds), np.array(numbers(row))
    true_times = shown / recipe.rate - recipe.cut  # of what the pictures show, on the clip's own clock
    offset = times - true_times
    assert np.ptp(offset) < (1.1 if recipe.container == "avi" else 0.6) * period, (
        "pictures are not in step with their timestamps"
    )
    assert -0.6 * period < offset.mean() < 0.6 * period + 0.06 + recipe.late, "all pictures are early or late"

    wanted = np.linspace(0, length - period, 10)
    ended = recipe.picture_seconds - period
    np.testing.assert_allclose(true_times, np.minimum(wanted, ended), atol=1.6 * period + recipe.late)

    for second in range(int(np.ceil(recipe.cut)), SECONDS):
        heard = sounding_second(row.waveform, second - recipe.cut + 0.2, 0.6)
        assert heard == pytest.approx(second, abs=0.1), f"second {second} sounds like {heard}"
