"""What a media file declares, read once with PyAV: streams, codecs, sizes, start times, rotation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import av
import av.error
from av.stream import Disposition, Stream

from stgcma.errors import ClipDecodeError

StreamT = TypeVar("StreamT", bound=Stream)
_LARGEST_SHARED_BYTES = 256 << 20
"""The compressed packets of files up to this size are kept in memory between reading and decoding."""


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """Result of a probe. Times are seconds on the file's own clock, on which the clip begins at ``origin_seconds``."""

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
    """As the container declares it; 0 if it does not."""
    declared_frames: int
    """Number of video frames in the container's index; 0 if it has none."""
    has_index: bool
    """Whether the container lists its samples, so that the declared lengths are those of this file. False for AVI,
    which counts empty chunks as sound."""
    declared_end_seconds: float | None
    """End of the file as the container declares it; None for formats whose header may describe a longer original."""
    rotation_degrees: int
    """Counter-clockwise rotation for display, from the first frame; only ``probe`` fills it in."""
    audio_index: int
    audio_codec: str
    sample_rate: int
    num_channels: int
    audio_start_seconds: float
    audio_duration_seconds: float


def probe(path: Path, *, uri: str = "") -> MediaInfo:
    """Open a file and choose its video and audio stream; decode only the first frame, for its rotation.

    Args:
        path: A local file.
        uri: Name of the file in messages; empty: the path.

    Raises:
        ClipDecodeError: Stage ``probe``: empty, unreadable, no video stream, or no audio stream.
    """
    with open_media(path, uri=uri) as media:
        return replace(media.info, rotation_degrees=_read_rotation(path, media.info.video_index))


def _read_rotation(path: Path, video_index: int) -> int:
    """Rotation of the first frame; 0 if it cannot be decoded, which the frame decoder will report."""
    try:
        with open_container(path) as container:
            frames = container.decode(stream_at(video_index, container.streams.video))
            return next((frame.rotation for frame in frames), 0)
    except av.error.FFmpegError:
        return 0


def open_container(path: Path) -> av.container.InputContainer:
    """Open a media file with FFmpeg; metadata that is not UTF-8 is not an error.

    Raises:
        av.error.FFmpegError: If it is not a media file.
    """
    return av.open(str(path), metadata_errors="replace")


def stream_at(index: int, streams: Iterable[StreamT]) -> StreamT:
    """The stream with this index in the file, out of ``container.streams.video`` or ``.audio``."""
    return next(stream for stream in streams if stream.index == index)


def audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The audio stream that FFmpeg prefers; None if there is none, or if its sample rate is unknown."""
    stream = container.streams.best("audio")
    return stream if isinstance(stream, av.AudioStream) and stream.codec_context.sample_rate else None


@dataclass(frozen=True, kw_only=True)
class OpenMedia:
    """A file held open: probing, frames and sound share one opening and one reading of it."""

    container: av.container.InputContainer
    info: MediaInfo
    video: av.VideoStream
    audio: av.AudioStream

    def packets(self) -> tuple[list[av.Packet[av.VideoStream]], list[av.Packet[av.AudioStream]]] | None:
        """All packets of the video stream and of the audio stream; None for a file that is too large or cut off."""
        if self.info.size_bytes > _LARGEST_SHARED_BYTES:
            return None
        video: list[av.Packet[av.VideoStream]] = []
        audio: list[av.Packet[av.AudioStream]] = []
        try:
            for packet in self.container.demux(self.video, self.audio):
                if _is_of(packet, self.video):
                    video.append(packet)
                elif _is_of(packet, self.audio):
                    audio.append(packet)
        except av.error.FFmpegError:
            return None
        return video, audio


def _is_of(packet: av.Packet[Any], stream: StreamT) -> TypeGuard[av.Packet[StreamT]]:
    """Whether a packet belongs to a stream.

    The empty packet that ends a stream always has ``stream_index`` 0, so this compares ``packet.stream``.
    """
    return bool(packet.stream.index == stream.index)


@contextmanager
def open_media(path: Path, *, uri: str = "") -> Iterator[OpenMedia]:
    """Open and describe a file, without decoding anything.

    Raises:
        ClipDecodeError: As ``probe``.
    """
    name = uri or str(path)
    size = path.stat().st_size
    if size == 0:
        raise ClipDecodeError("probe", "empty file", name)
    try:
        container = open_container(path)
    except av.error.FFmpegError as error:
        raise ClipDecodeError("probe", "not a readable media file", f"{name}: {error}") from error
    with container:
        video, audio = _picture_stream(container), audio_stream(container)
        if video is None:
            raise ClipDecodeError("probe", "no video stream", name)
        if audio is None:
            raise ClipDecodeError("probe", "no audio stream", name)
        info = _describe(container, video, audio, path, size)
        yield OpenMedia(container=container, info=info, video=video, audio=audio)


def _describe(
    container: av.container.InputContainer, video: av.VideoStream, audio: av.AudioStream, path: Path, size: int
) -> MediaInfo:
    starts = [_seconds(video.start_time, video), _seconds(audio.start_time, audio)]
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


def probe_sound(path: Path, *, uri: str) -> MediaInfo:
    """Describe a file without pictures, such as a wav; the fields about pictures are 0 or empty.

    Args:
        path: A local file.
        uri: Name of the file in messages.

    Raises:
        ClipDecodeError: Stage ``audio``: unreadable, or no audio stream.
    """
    size = path.stat().st_size
    try:
        with open_container(path) as container:
            audio = audio_stream(container)
            if audio is None:
                raise ClipDecodeError("audio", "no audio stream", uri)
            duration = _seconds(audio.duration, audio)
            return MediaInfo(
                path=path,
                size_bytes=size,
                origin_seconds=0.0,
                video_index=-1,
                video_codec="",
                width=0,
                height=0,
                frame_rate=0.0,
                video_start_seconds=0.0,
                video_duration_seconds=0.0,
                declared_frames=0,
                has_index=duration > 0,
                declared_end_seconds=None,
                rotation_degrees=0,
                audio_index=audio.index,
                audio_codec=audio.codec_context.name,
                sample_rate=audio.codec_context.sample_rate,
                num_channels=audio.codec_context.channels,
                audio_start_seconds=0.0,
                audio_duration_seconds=duration,
            )
    except av.error.FFmpegError as error:
        raise ClipDecodeError("audio", "wav unreadable", f"{uri}: {error}") from error


def _picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The video stream marked as default, else the largest, else the first; never a cover picture."""
    streams = [
        stream
        for stream in container.streams.video
        if stream.codec_context.width and not stream.disposition & Disposition.attached_pic
    ]

    def rank(stream: av.VideoStream) -> tuple[bool, int]:
        size = stream.codec_context.width * stream.codec_context.height
        return bool(stream.disposition & Disposition.default), size

    return max(streams, key=rank, default=None)


def _seconds(value: int | None, stream: Stream) -> float:
    return 0.0 if value is None or stream.time_base is None else float(value * stream.time_base)


def _declared_end(container: av.container.InputContainer, origin: float) -> float | None:
    """End of a Matroska or WebM file, which write their length last; an MP4 fragment keeps that of the whole film."""
    if container.duration is None or "matroska" not in container.format.name:
        return None
    return origin + container.duration / av.time_base
