"""Frames of a video file at evenly spaced times. Never a full decode in memory.

H.264 goes through ``pipelines.media.selective``, which decodes what the wanted frames need; all else is decoded from
the beginning with PyAV. Both give the same bits. Which pictures exist, and when they are shown, the demuxer's table
says (``pipelines.media.timeline``).

Which frames: ``n`` times are spaced evenly from the first frame's timestamp to the last one's, and at each time the
frame on screen is taken, turned upright. At a constant frame rate that is ``linspace(0, num_frames - 1, n)`` cut to
integers, what the published code does with frames extracted at 3 per second: first and last frame included.
``pipelines.media.span`` says where the grid begins and ends when pictures begin after the sound or end before it.
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
"""A table -> ``[U]`` ascending positions of the wanted pictures in it."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Chosen pictures of a stream, upright and scaled down."""

    images: np.ndarray
    """``[U, H, W, 3]`` uint8, in time order."""
    timeline: Timeline
    """What the container and the decoder agree on."""
    rotation_degrees: int
    """Counter-clockwise turn that the file asks players for and that ``images`` have had."""
    decoder: str


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
    span: Span
    rotation_degrees: int
    decoder: str


def frame_indices(starts: np.ndarray, count: int, first: float | None = None, last: float | None = None) -> np.ndarray:
    """Indices of the frames on screen at ``count`` evenly spaced times.

    Args:
        starts: ``[num_frames]`` ascending presentation times in seconds.
        count: How many, at least 1.
        first: The first of the times; the first timestamp when None. Before that, the first frame is taken.
        last: The last of the times; the last timestamp when None.

    Returns:
        ``[count]`` int64, ascending; without ``first`` and ``last``, the first is 0 and, for ``count > 1``, the last is
        ``num_frames - 1``.
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
    """Decode the frames of one or several grids.

    Args:
        media: The file.
        counts: Frames per grid, e.g. ``(10,)`` or ``(10, 60)``.
        short_side: Pixels; frames are scaled down to it as they come.
        packets: All packets of the video stream, if they have been read already.
        span_of: Where the grids begin and end, given the pictures.
        timeline: The demuxer's table, if it has been read already.

    Raises:
        ClipDecodeError: Stage ``frames``: no frames, damaged or truncated video.
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
    """The demuxer's table, from packets that have been read or from the file.

    Raises:
        ClipDecodeError: Stage ``frames``, as ``read_timeline`` does, or a file that cannot be read to its end.
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

    Raises:
        ClipDecodeError: Stage ``frames``: damaged video, or pictures that the table does not list.
    """
    if packets is not None:
        try:
            wanted = timeline.pts[choose(timeline)].tolist()
            found = decode_wanted(media.video, Packets(media.video, packets), wanted)
            images, rotation = _collect(media.info, ((frame.pts, frame) for frame in found), wanted, short_side)
            return Pictures(images=images, timeline=timeline, rotation_degrees=rotation, decoder="selective")
        except (NotSelectable, ClipDecodeError, av.error.FFmpegError):
            pass  # the sequential decoder decides, and names the damage where there is one
    try:
        return _decode_in_order(media.info, timeline, choose, short_side)
    except (av.error.FFmpegError, ValueError) as error:
        raise ClipDecodeError("frames", "damaged video", f"{media.info.path}: {error}") from error


def _decode_in_order(info: MediaInfo, timeline: Timeline, choose: Choose, short_side: int) -> Pictures:
    """Decode from the beginning: by position in the order of display, confirmed by all timestamps up to the last.

    A second pass follows where the decoder's timestamps correct the table.
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
    """All pictures of the stream that a decoder shows, from a fresh opening of the file."""
    with open_container(info.path) as container:
        stream = stream_at(info.video_index, container.streams.video)
        stream.codec_context.thread_count, stream.thread_type = 1, "NONE"
        for packet in container.demux(stream):
            if packet.size:
                yield from stream.codec_context.decode(packet)
        yield from stream.codec_context.decode(None)


class _Missing(ClipDecodeError):
    """Fewer pictures than wanted."""


def _collect(
    info: MediaInfo, frames: Iterator[tuple[int | None, av.VideoFrame]], wanted: Sequence[int], short_side: int
) -> tuple[np.ndarray, int]:
    """The wanted ones of keyed frames, upright and scaled down, ``[U, H, W, 3]`` in key order; and their rotation."""
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
