"""When a clip begins and ends, so that label ``k`` of ``n`` keeps its part of the time.

A clip begins with its first picture or sound, whichever is earlier, and ends with its last picture. If the sound goes
on for more than ``TOLERANCE_SECONDS``, the clip ends with the sound, and the last picture stays on screen until then.
If the sound begins first, the first picture is on screen from the beginning. Datasets whose labels count seconds give
the length of their clips; ``NominalLength`` says what happens to clips of other lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.media.probing import MediaInfo
from pipelines.media.timeline import Timeline
from stgcma.errors import ClipDecodeError

TOLERANCE_SECONDS = 0.2
"""Pictures and sound that begin or end within this time of each other do so together; the pictures give the time."""
MAX_CLIP_SECONDS = 1800.0
_MAX_STILL_SECONDS = 90.0
"""How much longer the pictures may last than the sound, or the sound than the pictures, at either end."""


@dataclass(frozen=True, kw_only=True)
class NominalLength:
    """Length of the clips of a dataset, and what happens to other lengths.

    * A clip within half a second of ``seconds`` keeps its own length.
    * A longer clip, up to half as long again, is cut to its first ``seconds``.
    * A shorter clip, down to half, is filled up with its last picture and silence.
    * Any other length is a failure, because the labels belong to another clip.
    """

    seconds: float
    divides_shorter: bool = False
    """Whether all shorter clips keep their own length, because no label counts seconds."""

    _NEAR_SECONDS = 0.5
    _FRACTION = 0.5

    def apply(self, found: float, where: str) -> tuple[float, str]:
        """Choose the length of a clip.

        Args:
            found: Its own length in seconds.
            where: Path of the file, for messages.

        Returns:
            Length in seconds, and a note that is empty if the clip keeps its own length.

        Raises:
            ClipDecodeError: Stage ``probe``: the length is too far from the nominal one.
        """
        if abs(found - self.seconds) <= self._NEAR_SECONDS or (found < self.seconds and self.divides_shorter):
            return found, ""
        if abs(found - self.seconds) > self._FRACTION * self.seconds:
            raise ClipDecodeError(
                "probe",
                "clip length differs",
                f"{where}: {found:.2f} s, the clips of this dataset have {self.seconds:g} s",
            )
        return self.seconds, f"{'cut' if found > self.seconds else 'filled up'} from {found:.2f} s"


@dataclass(frozen=True, kw_only=True)
class Span:
    """Begin and end of a clip, in seconds on the file's own clock."""

    begin: float
    end: float
    first: float
    """Time of the first picture of a grid."""
    last: float
    """Time of the last picture of a grid."""
    note: str = ""
    """``cut from 20.00 s`` or ``filled up from 8.00 s``; empty for a clip of its own length."""


def clip_span(info: MediaInfo, timeline: Timeline, sound_end: float, nominal: NominalLength | None = None) -> Span:
    """The span of a clip.

    Args:
        info: Probe of the file; the clip begins at its ``origin_seconds``.
        timeline: The pictures.
        sound_end: End of the sound in seconds on the file's own clock.
        nominal: Length of the dataset's clips; None: any length.

    Raises:
        ClipDecodeError: Stage ``probe``: the clip is too long or not of the nominal length, or picture and sound do
            not belong together.
    """
    where, origin, starts = str(info.path), info.origin_seconds, timeline.starts
    _check_overlap(where, origin, float(starts[0]), timeline.end_seconds, sound_end)
    stands = sound_end > timeline.end_seconds + TOLERANCE_SECONDS
    end = sound_end if stands else timeline.end_seconds
    if end - origin > MAX_CLIP_SECONDS:
        raise ClipDecodeError(
            "probe", "clip too long", f"{where}: {end - origin:.0f} s, at most {MAX_CLIP_SECONDS:.0f}"
        )
    length, note = nominal.apply(end - origin, where) if nominal else (end - origin, "")
    if note:
        end = origin + length
    first = float(starts[0]) if starts[0] - origin <= TOLERANCE_SECONDS else origin
    last = float(starts[-1])
    if end > timeline.end_seconds:  # the last picture stays: the grid ends one picture before the clip
        last = max(last, end - _period(starts, info))
    elif end < timeline.end_seconds:
        last = float(starts[max(0, int(np.searchsorted(starts, end - 1e-3)) - 1)])
    return Span(begin=origin, end=end, first=first, last=last, note=note)


def _period(starts: np.ndarray, info: MediaInfo) -> float:
    """Median of the seconds from one picture to the next."""
    return float(np.median(np.diff(starts))) if len(starts) > 1 else 1 / (info.frame_rate or 25.0)


def _check_overlap(where: str, origin: float, picture_start: float, picture_end: float, sound_end: float) -> None:
    """Refuse a file in which picture or sound is alone for too long."""
    for seconds, reason in (
        (picture_start - origin, "picture begins long after the sound"),
        (sound_end - picture_end, "picture ends long before the sound"),
        (picture_end - sound_end, "sound ends long before the picture"),
    ):
        if seconds > _MAX_STILL_SECONDS:
            raise ClipDecodeError("probe", reason, f"{where}: {seconds:.1f} s, at most {_MAX_STILL_SECONDS:.0f}")
