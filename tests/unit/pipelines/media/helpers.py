"""What several tests of media need: the row of a file, and a probe without a file."""

from pathlib import Path

from pipelines.clips import ClipRef
from pipelines.config import PreprocessConfig
from pipelines.media.probing import MediaInfo
from pipelines.media.rows import video_row
from pipelines.storage import Storage

CONFIG = PreprocessConfig(dataset="ave", source="unused", fbank_specs=("clip",))


def row_of(folder, name, *, config=CONFIG, num_segments=10, extra_frames=0, nominal=None):
    ref = ClipRef(
        dataset="ave", clip_id="x:0", split="train", video_id="x", media_uri=name, media_bytes=1, counts_in_stats=True
    )
    options = {"num_segments": num_segments, "with_waveform": True, "extra_frames": extra_frames, "nominal": nominal}
    return video_row(ref, Storage(str(folder)), config, **options)


def info_of(**changes):
    facts = {
        "path": Path("clip"), "size_bytes": 1, "origin_seconds": 0.0, "video_index": 0, "video_codec": "h264",
        "width": 1, "height": 1, "frame_rate": 10.0, "video_start_seconds": 0.0, "video_duration_seconds": 0.0,
        "declared_frames": 0, "has_index": False, "declared_end_seconds": None, "rotation_degrees": 0,
        "audio_index": 1, "audio_codec": "aac", "sample_rate": 16_000, "num_channels": 1, "audio_start_seconds": 0.0,
        "audio_duration_seconds": 0.0,
    }  # fmt: skip
    return MediaInfo(**{**facts, **changes})
