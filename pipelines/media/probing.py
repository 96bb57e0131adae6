"""What a media file says of itself, read once with PyAV: streams, codecs, sizes, start times, rotation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import av
import av.error
from av.stream import Disposition

from stgcma.errors import ClipDecodeError

_LARGEST_SHARED_BYTES = 256 << 20
"""Compressed packets of a smaller file are held in memory between reading and decoding."""


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """One probe. Times in seconds on the file's own clock; ``origin_seconds`` is where the clip begins on it."""

    path: Path
    size_bytes: int
    origin_seconds: float
    """The earlier of the two streams' first timestamps."""
    video_index: int
    video_codec: str
    width: int
    height: int
    frame_rate: float
    video_start_seconds: float
    video_duration_seconds: float
    """As the container declares it; 0 when it does not."""
    declared_frames: int
    """Number of video frames in the container's index; 0 when it has none."""
    has_index: bool
    """The container lists its samples, so that declared lengths are those of this very file. Not so AVI, which counts
    empty chunks as sound."""
    declared_end_seconds: float | None
    """Where the container says that it ends; None for formats whose header may describe a longer original."""
    rotation_degrees: int
    """Counter-clockwise turn for display, as the first frame says; filled in by ``probe``."""
    audio_index: int
    audio_codec: str
    sample_rate: int
    num_channels: int
    audio_start_seconds: float
    audio_duration_seconds: float


def probe(path: Path, *, uri: str = "") -> MediaInfo:
    """Open the file, choose video and audio stream; only the first frame is decoded, for its rotation.

    Args:
        path: A local file.
        uri: How messages call it; the path when empty.

    Raises:
        ClipDecodeError: Stage ``probe``: empty, unreadable, no video stream, no audio stream.
    """
    with open_media(path, uri=uri) as media:
        return replace(media.info, rotation_degrees=_read_rotation(path, media.info.video_index))


def _read_rotation(path: Path, video_index: int) -> int:
    """From the first frame; 0 where that cannot be decoded, which the frame decoder will report."""
    try:
        with open_container(path) as container:
            return next((frame.rotation for frame in container.decode(container.streams[video_index])), 0)
    except av.error.FFmpegError:
        return 0


def open_container(path: Path) -> av.container.InputContainer:
    """The file as FFmpeg sees it; text in other encodings than UTF-8 is no reason to fail.

    Raises:
        av.error.FFmpegError: If it is not a media file.
    """
    return av.open(str(path), metadata_errors="replace")


class OpenMedia:
    """A file held open, so that probing, frames and sound share one opening and one reading of it."""

    def __init__(self, container: av.container.InputContainer, info: MediaInfo) -> None:
        self.container = container
        self.info = info
        self.video: av.VideoStream = container.streams[info.video_index]
        self.audio: av.AudioStream = container.streams[info.audio_index]

    def packets(self) -> tuple[list[av.Packet], list[av.Packet]] | None:
        """All packets of the video and of the audio stream; None for a file that is too large or cut off.

        The packet that ends a stream is empty and says index 0 whatever its stream: ``packet.stream`` is asked.
        """
        if self.info.size_bytes > _LARGEST_SHARED_BYTES:
            return None
        kept: dict[int, list[av.Packet]] = {self.video.index: [], self.audio.index: []}
        try:
            for packet in self.container.demux(self.video, self.audio):
                kept[packet.stream.index].append(packet)
        except av.error.FFmpegError:
            return None
        return kept[self.video.index], kept[self.audio.index]


@contextmanager
def open_media(path: Path, *, uri: str = "") -> Iterator[OpenMedia]:
    """Open and describe a file; nothing is decoded. Raises as ``probe`` does."""
    name = uri or str(path)
    size = path.stat().st_size
    if size == 0:
        raise ClipDecodeError("probe", "empty file", name)
    try:
        container = open_container(path)
    except av.error.FFmpegError as error:
        raise ClipDecodeError("probe", "not a readable media file", f"{name}: {error}") from error
    with container:
        yield OpenMedia(container, _describe(container, path, size, name))


def _describe(container: av.container.InputContainer, path: Path, size: int, name: str) -> MediaInfo:
    video, audio = _picture_stream(container), container.streams.best("audio")
    if video is None:
        raise ClipDecodeError("probe", "no video stream", name)
    if audio is None or not audio.codec_context.sample_rate:
        raise ClipDecodeError("probe", "no audio stream", name)
    starts = [_seconds(stream.start_time, stream) for stream in (video, audio)]
    return MediaInfo(
        path=path,
        size_bytes=size,
        origin_seconds=min(starts),
        video_index=video.index,
        video_codec=video.codec_context.name,
        width=video.codec_context.width,
        height=video.codec_context.height,
        frame_rate=float(video.average_rate or 0),
        video_start_seconds=starts[0],
        video_duration_seconds=_seconds(video.duration, video),
        declared_frames=video.frames,
        has_index=video.frames > 0 and container.format.name != "avi",
        declared_end_seconds=_declared_end(container, min(starts)),
        rotation_degrees=0,
        audio_index=audio.index,
        audio_codec=audio.codec_context.name,
        sample_rate=audio.codec_context.sample_rate,
        num_channels=audio.codec_context.channels,
        audio_start_seconds=starts[1],
        audio_duration_seconds=_seconds(audio.duration, audio),
    )


def _picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The default one of several video streams, else the largest, else the first; never a cover picture."""
    streams = [
        stream
        for stream in container.streams.video
        if stream.codec_context.width and not stream.disposition & Disposition.attached_pic
    ]

    def rank(stream: av.VideoStream) -> tuple[bool, int]:
        size = stream.codec_context.width * stream.codec_context.height
        return bool(stream.disposition & Disposition.default), size

    return max(streams, key=rank, default=None)


def _seconds(value: int | None, stream: av.stream.Stream) -> float:
    return 0.0 if value is None or stream.time_base is None else float(value * stream.time_base)


def _declared_end(container: av.container.InputContainer, origin: float) -> float | None:
    """Matroska and WebM write the length when the file is finished; fragments of MP4 keep that of the whole film."""
    if container.duration is None or "matroska" not in container.format.name:
        return None
    return origin + container.duration / av.time_base
