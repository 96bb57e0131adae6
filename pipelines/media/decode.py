"""Frames of a video file at evenly spaced times. Never a full decode in memory.

H.264 goes through ``pipelines.media.selective``, which decodes what the wanted frames need; all else through decord,
and through PyAV where decord fails. All three give the same bits.

Which frames: ``n`` times are spaced evenly from the first frame's timestamp to the last one's, and at each time the
frame on screen is taken, turned upright. At a constant frame rate that is ``linspace(0, num_frames - 1, n)`` cut to
integers, what the published code does with frames extracted at 3 per second: first and last frame included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av
import av.error
import numpy as np

from pipelines.media.images import shrink
from pipelines.media.probing import MediaInfo, OpenMedia, read_rotation
from pipelines.media.selective import NotSelectable, Packets, decode_wanted
from stgcma.errors import ClipDecodeError

try:
    import decord
except ImportError:  # no wheel for this platform: every clip takes the PyAV path
    decord = None
else:
    decord.logging.set_level(decord.logging.QUIET)

_CHUNK_BYTES = 64 << 20
"""Decoded pixels held at full size before they are scaled down."""
_UNREADABLE_BY_DECORD = ("av1", "libdav1d", "libaom-av1")
_TRUNCATION_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The distinct frames of all requested grids, already scaled down."""

    images: np.ndarray
    """``[U, H, W, 3]`` uint8, in time order."""
    times_seconds: np.ndarray
    """``[U]`` presentation times on the file's own clock."""
    grids: tuple[np.ndarray, ...]
    """For each requested count ``n``, ``[n]`` positions in ``images``; a short clip repeats frames."""
    num_video_frames: int
    end_seconds: float
    """When the last frame of the video leaves the screen, on the file's own clock."""
    rotation_degrees: int
    """Counter-clockwise turn that the file asks players for and that ``images`` have had."""
    decoder: str


def frame_indices(starts: np.ndarray, count: int) -> np.ndarray:
    """Indices of the frames on screen at ``count`` evenly spaced times between the first and the last timestamp.

    Args:
        starts: ``[num_frames]`` ascending presentation times in seconds.
        count: How many, at least 1.

    Returns:
        ``[count]`` int64, ascending; the first is 0 and, for ``count > 1``, the last is ``num_frames - 1``.
    """
    times = np.linspace(starts[0], starts[-1], count)
    tolerance = 1e-3 * (starts[-1] - starts[0]) / max(len(starts) - 1, 1)
    return np.searchsorted(starts, times + tolerance, side="right") - 1


def decode_frames(
    media: OpenMedia, counts: Sequence[int], *, short_side: int, packets: Sequence[av.Packet] | None
) -> Frames:
    """Decode the frames of one or several grids in one pass.

    Args:
        media: The file.
        counts: Frames per grid, e.g. ``(10,)`` or ``(10, 60)``.
        short_side: Pixels; frames are scaled down to it as they come.
        packets: All packets of the video stream, if they have been read already.

    Raises:
        ClipDecodeError: Stage ``frames``: no frames, damaged or truncated video.
    """
    info = media.info
    if packets is not None:
        try:
            return _decode_selectively(media, packets, counts, short_side)
        except (NotSelectable, ClipDecodeError, av.error.FFmpegError):
            pass  # the sequential decoders decide, and name the damage where there is one
    if decord is not None and info.video_codec not in _UNREADABLE_BY_DECORD:
        try:
            return _decode_with_decord(info, counts, short_side)
        except (decord.DECORDError, RuntimeError, IndexError, ValueError):
            pass  # PyAV decides: it reads formats that decord does not
    return _decode_with_pyav(info, counts, short_side)


def _decode_selectively(
    media: OpenMedia, stream_packets: Sequence[av.Packet], counts: Sequence[int], short_side: int
) -> Frames:
    info, stream = media.info, media.video
    packets = Packets(stream, stream_packets)
    pts = np.sort(packets.pts)
    time_base = float(stream.time_base)
    last = packets.packets[int(packets.pts.argmax())]
    end_seconds = float(pts[-1] * time_base + _duration(last.duration, time_base, info))
    _check_complete(info, len(pts), end_seconds)
    wanted, grids = _union(pts * time_base, counts)
    found = decode_wanted(stream, packets, pts[wanted].tolist())
    images, rotation_degrees = _collect(info, found, len(wanted), short_side)
    return Frames(
        images=images,
        times_seconds=pts[wanted] * time_base,
        grids=grids,
        num_video_frames=len(pts),
        end_seconds=end_seconds,
        rotation_degrees=rotation_degrees,
        decoder="selective",
    )


def _decode_with_decord(info: MediaInfo, counts: Sequence[int], short_side: int) -> Frames:
    reader = decord.VideoReader(str(info.path), ctx=decord.cpu(0), num_threads=1)
    spans = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))), dtype=np.float64).reshape(-1, 2)
    spans += info.video_start_seconds - spans[0, 0]  # decord counts from the first frame
    _check_complete(info, len(spans), spans[-1, 1])
    wanted, grids = _union(spans[:, 0], counts)
    height, width = reader[0].shape[:2]
    step = max(1, _CHUNK_BYTES // (height * width * 3))
    parts = [shrink(reader.get_batch(wanted[i : i + step]).asnumpy(), short_side) for i in range(0, len(wanted), step)]
    return Frames(
        images=np.concatenate(parts),
        times_seconds=spans[wanted, 0],
        grids=grids,
        num_video_frames=len(spans),
        end_seconds=float(spans[-1, 1]),
        rotation_degrees=read_rotation(info.path, info.video_index),
        decoder="decord",
    )


def _decode_with_pyav(info: MediaInfo, counts: Sequence[int], short_side: int) -> Frames:
    try:
        with av.open(str(info.path), metadata_errors="replace") as container:
            stream = container.streams[info.video_index]
            time_base = float(stream.time_base)
            packets = [(p.pts, p.duration or 0) for p in container.demux(stream) if p.pts is not None]
        if not packets:
            raise ClipDecodeError("frames", "video stream has no frames", str(info.path))
        packets.sort()
        pts = np.array([value for value, _ in packets], dtype=np.int64)
        end_seconds = float(pts[-1] * time_base + _duration(packets[-1][1], time_base, info))
        _check_complete(info, len(pts), end_seconds)
        wanted, grids = _union(pts * time_base, counts)
        images, rotation_degrees = _decode_at(info, pts[wanted], short_side)
    except (av.error.FFmpegError, ValueError) as error:
        raise ClipDecodeError("frames", "damaged video", f"{info.path}: {error}") from error
    return Frames(
        images=images,
        times_seconds=pts[wanted] * time_base,
        grids=grids,
        num_video_frames=len(pts),
        end_seconds=end_seconds,
        rotation_degrees=rotation_degrees,
        decoder="pyav",
    )


def _decode_at(info: MediaInfo, wanted_pts: np.ndarray, short_side: int) -> tuple[np.ndarray, int]:
    """Sequential decode that keeps the frames with these timestamps; as ``_collect`` returns them."""
    wanted = set(wanted_pts.tolist())
    with av.open(str(info.path), metadata_errors="replace") as container:
        stream = container.streams[info.video_index]
        stream.codec_context.thread_count, stream.thread_type = 1, "NONE"
        frames = (frame for frame in container.decode(stream) if frame.pts in wanted)
        return _collect(info, frames, len(wanted), short_side)


def _collect(info: MediaInfo, frames: Iterator[av.VideoFrame], count: int, short_side: int) -> tuple[np.ndarray, int]:
    """The next ``count`` frames upright and scaled down, in time order: ``[count, H, W, 3]``; and their rotation."""
    images: dict[int, np.ndarray] = {}
    rotation = 0
    for frame in frames:
        if frame.is_corrupt:
            raise ClipDecodeError("frames", "damaged video", f"{info.path}: frame at {frame.time:.2f} s is incomplete")
        rotation = frame.rotation
        turned = np.rot90(frame.to_ndarray(format="rgb24"), k=round(rotation / 90) % 4)
        images[frame.pts] = shrink(np.ascontiguousarray(turned)[None], short_side)
        if len(images) == count:
            break
    if len(images) < count:
        raise ClipDecodeError("frames", "damaged video", f"{info.path}: {count - len(images)} frames are not decodable")
    if len({image.shape for image in images.values()}) > 1:
        raise ClipDecodeError("frames", "frame size changes within the video", str(info.path))
    return np.concatenate([images[pts] for pts in sorted(images)]), rotation


def _duration(ticks: int | None, time_base: float, info: MediaInfo) -> float:
    """How long the last frame stays on the screen, in seconds; one frame period where its packet does not say."""
    return (ticks or 0) * time_base or 1 / (info.frame_rate or 25.0)


def _union(starts: np.ndarray, counts: Sequence[int]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Distinct frame indices of all grids, and each grid as positions among them."""
    grids = [frame_indices(starts, count) for count in counts]
    wanted = np.unique(np.concatenate(grids))
    return wanted, tuple(np.searchsorted(wanted, grid) for grid in grids)


def _check_complete(info: MediaInfo, num_frames: int, end_seconds: float) -> None:
    """A file cut off between two frames decodes without an error; its header still counts the frames it lost."""
    declared_end = info.video_start_seconds + info.video_duration_seconds
    if num_frames < info.declared_frames and end_seconds < declared_end - _TRUNCATION_SECONDS:
        raise ClipDecodeError(
            "frames",
            "truncated video",
            f"{info.path}: {num_frames} of {info.declared_frames} frames, {end_seconds:.2f} of {declared_end:.2f} s",
        )
