"""The probe: what it finds, and its errors."""

import pytest

from pipelines.media.probing import probe
from stgcma.errors import ClipDecodeError
from tests.media import write_clip


def test_probe_reports_streams_and_times(tmp_path):
    info = probe(write_clip(tmp_path / "clip.mp4", seconds=2, frame_rate=8, audio_start_seconds=0.5))
    assert (info.width, info.height, info.video_codec, info.declared_frames) == (64, 48, "h264", 16)
    assert (info.audio_codec, info.sample_rate, info.num_channels) == ("aac", 44100, 1)
    assert info.frame_rate == 8
    assert info.origin_seconds == info.video_start_seconds
    assert info.audio_start_seconds - info.origin_seconds == pytest.approx(0.5, abs=0.03)  # less the AAC priming
    assert info.video_duration_seconds == pytest.approx(2)
    assert info.rotation_degrees == 0


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"", "empty file"), (b"<html>404</html>" * 100, "not a readable media file")],
)
def test_unreadable_files(tmp_path, content, match):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(ClipDecodeError, match=match) as error:
        probe(path)
    assert error.value.stage == "probe"


def test_missing_streams_are_reported(tmp_path):
    with pytest.raises(ClipDecodeError, match="no audio stream"):
        probe(write_clip(tmp_path / "silent.mp4", audio_codec=None))
    with pytest.raises(ClipDecodeError, match="no video stream"):
        probe(write_clip(tmp_path / "blind.mp4", video_codec=None))
