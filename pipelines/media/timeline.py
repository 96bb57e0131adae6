"""Which pictures a video stream shows, and when: the demuxer's table decides.

The table lists every picture that an edit list does not discard, in display order. A decoder's pictures are accepted
only if they agree with the table (``agreed``): the same timestamps, one for one. If the table is incomplete (AVI gives
decoding times, program streams give only some), the decoder's own timestamps are used if they ascend. If they do not,
the table's timestamps are used in order, provided that both have the same number of pictures. Otherwise the file
contradicts itself and fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import av
import numpy as np

from pipelines.media.probing import MediaInfo
from stgcma.errors import ClipDecodeError

_TRUNCATION_SECONDS = 0.1
_MAX_STILL_SECONDS = 90.0
"""Longest time from one picture to the next; more means that a timestamp jumps."""
_HIDDEN_PICTURES = ("vp8", "vp9", "vc1", "wmv3", "theora")
"""Codecs with packets that are decoded but never shown, or that repeat the previous picture."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The pictures of one stream in display order."""

    pts: np.ndarray
    """``[num_pictures]`` int64, ascending, in units of ``time_base``."""
    time_base: float
    """Seconds per unit of ``pts``."""
    end_seconds: float
    """When the last picture leaves the screen, on the file's own clock."""
    is_complete: bool
    """Whether every packet had its own timestamp."""

    @property
    def starts(self) -> np.ndarray:
        """``[num_pictures]`` presentation times in seconds, on the file's own clock."""
        return self.pts * self.time_base


def read_timeline(info: MediaInfo, stream: av.VideoStream, packets: Iterable[av.Packet]) -> Timeline:
    """Read the table of a stream from its packets in decoding order, without decoding them.

    Pictures before the first key picture cannot be decoded and are left out.

    Raises:
        ClipDecodeError: Stage ``frames``: no pictures, fewer than the header counts, or timestamps that jump.
    """
    shown: list[tuple[int, int]] = []
    complete = True
    first_key: int | None = None
    before_key = 0
    for packet in packets:
        if packet.size == 0:
            continue
        time = packet.pts if packet.pts is not None else packet.dts
        complete &= packet.pts is not None
        if first_key is None and packet.is_keyframe and time is not None:
            first_key, before_key = time, len(shown)
        if time is not None and not packet.is_discard:
            shown.append((time, packet.duration or 0))
    if first_key is not None:
        shown = [entry for entry in shown[before_key:] if entry[0] >= first_key]
    if not shown:
        raise ClipDecodeError("frames", "video stream has no frames", str(info.path))
    shown.sort()
    pts = np.array([entry[0] for entry in shown], dtype=np.int64)
    time_base = float(stream.time_base or 0)
    end_seconds = float(pts[-1] * time_base + _duration(shown[-1][1], time_base, info))
    _check_complete(info, len(pts), end_seconds)
    complete &= len(np.unique(pts)) == len(pts)
    timeline = Timeline(pts=pts, time_base=time_base, end_seconds=end_seconds, is_complete=complete)
    _check_gaps(info, timeline)
    return timeline


def agreed(info: MediaInfo, timeline: Timeline, decoded: Sequence[int | None]) -> Timeline:
    """The table itself if the decoder's pictures agree with it, or a corrected table that fits both.

    Args:
        info: Probe of the file.
        timeline: The demuxer's table.
        decoded: Timestamps of all pictures that the decoder gave, in its order; None for a picture without one.

    Returns:
        A table with one entry for each picture of ``decoded``, in that order.

    Raises:
        ClipDecodeError: Stage ``frames``: pictures are missing, or the timestamps contradict each other.
    """
    if list(decoded) == timeline.pts.tolist():
        return timeline
    own = [pts for pts in decoded if pts is not None]
    ascending = len(own) == len(decoded) > 0 and bool((np.diff(own) > 0).all())
    missing = len(timeline.pts) - len(decoded)
    if ascending and (not timeline.is_complete or missing == 0 or _hides(info, own, timeline)):
        found = replace(timeline, pts=np.array(own, np.int64), end_seconds=_end(timeline, own[-1]))
        _check_gaps(info, found)
        return found
    if missing == 0:
        return timeline
    if missing > 0:
        raise ClipDecodeError("frames", "damaged video", f"{info.path}: {missing} frames are not decodable")
    raise ClipDecodeError(
        "frames",
        "timestamps contradict the pictures",
        f"{info.path}: {len(decoded)} pictures decoded, the container lists {len(timeline.pts)}",
    )


def _hides(info: MediaInfo, own: list[int], timeline: Timeline) -> bool:
    """Whether the codec explains why the decoder shows only some of the listed pictures."""
    return info.video_codec in _HIDDEN_PICTURES and set(own) <= set(timeline.pts.tolist())


def _end(timeline: Timeline, last: int) -> float:
    """End in seconds if the last picture begins at ``last`` and stays as long as the table's last one."""
    return timeline.end_seconds + (last - int(timeline.pts[-1])) * timeline.time_base


def _duration(ticks: int, time_base: float, info: MediaInfo) -> float:
    """Seconds that the last frame stays on screen; one frame period if its packet does not say."""
    return ticks * time_base or 1 / (info.frame_rate or 25.0)


def _check_complete(info: MediaInfo, num_frames: int, end_seconds: float) -> None:
    """Refuse a file cut off between two frames: it decodes without an error, but its header counts the lost frames."""
    declared_end = info.video_start_seconds + info.video_duration_seconds
    if num_frames < info.declared_frames and end_seconds < declared_end - _TRUNCATION_SECONDS:
        raise ClipDecodeError(
            "frames",
            "truncated video",
            f"{info.path}: {num_frames} of {info.declared_frames} frames, {end_seconds:.2f} of {declared_end:.2f} s",
        )


def _check_gaps(info: MediaInfo, timeline: Timeline) -> None:
    """Refuse timestamps that jump."""
    gap = float(np.diff(timeline.starts).max(initial=0.0))
    if gap > _MAX_STILL_SECONDS:
        raise ClipDecodeError("frames", "video timestamps jump", f"{info.path}: by {gap:.1f} s")
