"""Frames of a video file at evenly spaced times, without holding the whole decoded video in memory.

``pipelines.media.selective`` decodes only the packets of H.264 that the wanted frames need; PyAV decodes everything
else from the beginning. Both give the same bits. The demuxer's table (``pipelines.media.timeline``) says which pictures
exist and when they are shown.

``n`` times are spaced evenly from the first frame's timestamp to the last one's. At each time the frame on screen is
taken and turned upright. At a constant frame rate these are the frames ``linspace(0, num_frames - 1, n)``, truncated to
integers; the published code takes them in the same way from frames extracted at 3 per second. The first and the last
frame are included. ``pipelines.media.span`` says where the grid begins and ends if the pictures begin after the sound
or end before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import av
import av.error
import numpy as np

from pipelines.media.images import shrink
from pipelines.media.probing import MediaInfo, OpenMedia, open_container, stream_at
from pipelines.media.selective import NotSelectable, Packets, decode_wanted
from pipelines.media.span import Span
from pipelines.media.timeline import Timeline, agreed, read_timeline
from stgcma.errors import ClipDecodeError

Choose = Callable[[Timeline], np.ndarray]
"""Maps a table to the positions ``[U]`` of the wanted pictures in it, ascending."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Chosen pictures of a stream, upright and scaled down."""

    images: np.ndarray
    """``[U, H, W, 3]`` uint8, in time order."""
    timeline: Timeline
    """The table that the container and the decoder agree on."""
    rotation_degrees: int
    """Counter-clockwise rotation that the file asks players for; already applied to ``images``."""
    decoder: str
    """``selective`` or ``pyav``."""


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The distinct frames of all requested grids, upright and scaled down."""

    images: np.ndarray
    """``[U, H, W, 3]`` uint8, in time order."""
    times_seconds: np.ndarray
    """``[U]`` presentation times in seconds on the file's own clock."""
    grids: tuple[np.ndarray, ...]
    """For each requested count ``n``: positions ``[n]`` in ``images``; a short clip repeats frames."""
    num_video_frames: int
    span: Span
    rotation_degrees: int
    decoder: str


def frame_indices(starts: np.ndarray, count: int, first: float | None = None, last: float | None = None) -> np.ndarray:
    """Indices of the frames on screen at ``count`` evenly spaced times.

    Args:
        starts: ``[num_frames]`` ascending presentation times in seconds.
        count: Number of times, at least 1.
        first: First time in seconds; None: the first timestamp. Times before any frame get the first frame.
        last: Last time in seconds; None: the last timestamp.

    Returns:
        ``[count]`` int64, ascending. Without ``first`` and ``last`` the first index is 0 and, if ``count > 1``, the
        last one is ``num_frames - 1``.
    """
    times = np.linspace(starts[0] if first is None else first, starts[-1] if last is None else last, count)
    tolerance = 1e-3 * (starts[-1] - starts[0]) / max(len(starts) - 1, 1)
    return np.maximum(np.searchsorted(starts, times + tolerance, side="right") - 1, 0)


def decode_frames(
    media: OpenMedia,
    counts: Sequence[int],
    *,
    short_side: int,
    packets: Sequence[av.Packet] | None,
    span_of: Callable[[Timeline], Span],
    timeline: Timeline | None = None,
) -> Frames:
    """Decode the frames of one or more grids.

    Args:
        media: The file.
        counts: Frames per grid, e.g. ``(10,)`` or ``(10, 60)``.
        short_side: Pixels; each frame is scaled down to it as soon as it is decoded.
        packets: All packets of the video stream, if the caller has read them.
        span_of: Gives the begin and end of the grids for a table.
        timeline: The demuxer's table, if the caller has read it.

    Raises:
        ClipDecodeError: Stage ``frames``: no frames, damage or truncation.
    """
    timeline = timeline or timeline_of(media, packets)

    def grids(table: Timeline) -> list[np.ndarray]:
        span = span_of(table)
        return [frame_indices(table.starts, count, span.first, span.last) for count in counts]

    def choose(table: Timeline) -> np.ndarray:
        return np.unique(np.concatenate(grids(table)))

    found = decode_pictures(media, timeline, choose, short_side=short_side, packets=packets)
    wanted = choose(found.timeline)
    return Frames(
        images=found.images,
        times_seconds=found.timeline.starts[wanted],
        grids=tuple(np.searchsorted(wanted, grid) for grid in grids(found.timeline)),
        num_video_frames=len(found.timeline.pts),
        span=span_of(found.timeline),
        rotation_degrees=found.rotation_degrees,
        decoder=found.decoder,
    )


def timeline_of(media: OpenMedia, packets: Sequence[av.Packet] | None) -> Timeline:
    """The demuxer's table, from the packets if the caller has read them, else from the file.

    Raises:
        ClipDecodeError: Stage ``frames``: the errors of ``read_timeline``, or a file that cannot be read to its end.
    """
    if packets is not None:
        return read_timeline(media.info, media.video, packets)
    try:
        with open_container(media.info.path) as container:
            stream = stream_at(media.info.video_index, container.streams.video)
            return read_timeline(media.info, stream, container.demux(stream))
    except av.error.FFmpegError as error:
        raise ClipDecodeError("frames", "damaged video", f"{media.info.path}: {error}") from error


def decode_pictures(
    media: OpenMedia, timeline: Timeline, choose: Choose, *, short_side: int, packets: Sequence[av.Packet] | None
) -> Pictures:
    """Decode the pictures that ``choose`` picks from the table.

    Args:
        media: The file.
        timeline: The demuxer's table.
        choose: Picks the wanted pictures; called again if the decoder corrects the table.
        short_side: Pixels; each picture is scaled down to it as soon as it is decoded.
        packets: All packets of the video stream, which selective decoding needs; None: decode from the beginning.

    Raises:
        ClipDecodeError: Stage ``frames``: damage, or pictures that the table does not list.
    """
    if packets is not None:
        try:
            wanted = timeline.pts[choose(timeline)].tolist()
            found = decode_wanted(media.video, Packets(media.video, packets), wanted)
            images, rotation = _collect(media.info, ((frame.pts, frame) for frame in found), wanted, short_side)
            return Pictures(images=images, timeline=timeline, rotation_degrees=rotation, decoder="selective")
        except (NotSelectable, ClipDecodeError, av.error.FFmpegError):
            pass  # the sequential decoder decides, and reports damage
    try:
        return _decode_in_order(media.info, timeline, choose, short_side)
    except (av.error.FFmpegError, ValueError) as error:
        raise ClipDecodeError("frames", "damaged video", f"{media.info.path}: {error}") from error


def _decode_in_order(info: MediaInfo, timeline: Timeline, choose: Choose, short_side: int) -> Pictures:
    """Decode from the beginning and pick pictures by their position in display order.

    The timestamps up to the last picked picture must confirm the positions. If the decoder's timestamps correct the
    table, the file is decoded a second time.
    """
    decoded: list[int | None] = []

    def numbered() -> Iterator[tuple[int | None, av.VideoFrame]]:
        decoded.clear()
        for position, frame in enumerate(_all_frames(info)):
            decoded.append(frame.pts)
            yield position, frame

    wanted = choose(timeline).tolist()
    try:
        images, rotation = _collect(info, numbered(), wanted, short_side)
        if decoded == timeline.pts[: len(decoded)].tolist():
            return Pictures(images=images, timeline=timeline, rotation_degrees=rotation, decoder="pyav")
    except _Missing:
        pass
    table = agreed(info, timeline, [frame.pts for frame in _all_frames(info)])
    images, rotation = _collect(info, numbered(), choose(table).tolist(), short_side)
    return Pictures(images=images, timeline=table, rotation_degrees=rotation, decoder="pyav")


def _all_frames(info: MediaInfo) -> Iterator[av.VideoFrame]:
    """All pictures that a decoder shows, from a newly opened file."""
    with open_container(info.path) as container:
        stream = stream_at(info.video_index, container.streams.video)
        stream.codec_context.thread_count, stream.thread_type = 1, "NONE"
        for packet in container.demux(stream):
            if packet.size:
                yield from stream.codec_context.decode(packet)
        yield from stream.codec_context.decode(None)


class _Missing(ClipDecodeError):
    """The decoder gave fewer pictures than wanted."""


def _collect(
    info: MediaInfo, frames: Iterator[tuple[int | None, av.VideoFrame]], wanted: Sequence[int], short_side: int
) -> tuple[np.ndarray, int]:
    """The wanted frames out of (key, frame) pairs, upright and scaled down: ``[U, H, W, 3]`` in key order, rotation."""
    images: dict[int, np.ndarray] = {}
    keys = set(wanted)
    rotation = 0
    for key, frame in frames:
        if key is None or key not in keys:
            continue
        if frame.is_corrupt:
            raise ClipDecodeError("frames", "damaged video", f"{info.path}: frame at {frame.time:.2f} s is incomplete")
        rotation = frame.rotation
        turned = np.rot90(frame.to_ndarray(format="rgb24"), k=round(rotation / 90) % 4)
        images[key] = shrink(np.ascontiguousarray(turned)[None], short_side)
        if len(images) == len(keys):
            break
    if len(images) < len(keys):
        raise _Missing("frames", "damaged video", f"{info.path}: {len(keys) - len(images)} frames are not decodable")
    if len({image.shape for image in images.values()}) > 1:
        raise ClipDecodeError("frames", "frame size changes within the video", str(info.path))
    return np.concatenate([images[key] for key in sorted(images)]), rotation
