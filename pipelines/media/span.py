"""From when to when a clip lasts, so that label ``k`` of ``n`` keeps its part of the time.

A clip begins with its first picture or sound, whichever is earlier, and ends with the last picture; a sound that goes
on for more than ``TOLERANCE_SECONDS`` ends it instead, and the last picture stands until then. In the same way the
first picture stands in for a later beginning. Datasets whose labels count seconds say how long their clips are
(``NominalLength``); another length follows the rule there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.media.probing import MediaInfo
from pipelines.media.timeline import Timeline
from stgcma.errors import ClipDecodeError

TOLERANCE_SECONDS = 0.2
"""Picture and sound of ordinary files begin and end this close to each other; the picture's time counts then."""
MAX_CLIP_SECONDS = 1800.0
_MAX_STILL_SECONDS = 90.0
"""How much longer one of picture and sound may last than the other, at either end."""


@dataclass(frozen=True, kw_only=True)
class NominalLength:
    """How long the clips of a dataset are.

    Within half a second of it a clip's own length is divided into segments. Of a longer one, up to half as long again,
    the first ``seconds`` are taken; in a shorter one, down to half, the last picture and silence fill the rest. Any
    other length is a failure: the labels belong to another clip.
    """

    seconds: float
    divides_shorter: bool = False
    """Shorter clips are divided as they are, however short: no label counts seconds."""

    _NEAR_SECONDS = 0.5
    _FRACTION = 0.5

    def apply(self, found: float, where: str) -> tuple[float, str]:
        """Length to use for a clip that lasts ``found`` seconds, and a note; empty where it is the clip's own.

        Raises:
            ClipDecodeError: Stage ``probe``, for a length too far from the nominal one.
        """
        if abs(found - self.seconds) <= self._NEAR_SECONDS or (found < self.seconds and self.divides_shorter):
            return found, ""
        if abs(found - self.seconds) > self._FRACTION * self.seconds:
            raise ClipDecodeError(
                "probe",
                "clip of another length",
                f"{where}: {found:.2f} s, the clips of this dataset have {self.seconds:g} s",
            )
        return self.seconds, f"{'cut' if found > self.seconds else 'filled up'} from {found:.2f} s"


@dataclass(frozen=True, kw_only=True)
class Span:
    """Seconds on the file's own clock."""

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
        info: Its ``origin_seconds`` is where the clip begins.
        timeline: Its pictures.
        sound_end: When its sound ends, in seconds on the file's own clock.
        nominal: Length of the dataset's clips; None: any.

    Raises:
        ClipDecodeError: Stage ``probe``: another length than nominal, longer than any clip, or picture and sound that
            do not belong together.
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
    if end > timeline.end_seconds:  # the last picture stands: the grid ends where one more picture would begin
        last = max(last, end - _period(starts, info))
    elif end < timeline.end_seconds:
        last = float(starts[max(0, int(np.searchsorted(starts, end - 1e-3)) - 1)])
    return Span(begin=origin, end=end, first=first, last=last, note=note)


def _period(starts: np.ndarray, info: MediaInfo) -> float:
    """Seconds from one picture to the next."""
    return float(np.median(np.diff(starts))) if len(starts) > 1 else 1 / (info.frame_rate or 25.0)


def _check_overlap(where: str, origin: float, picture_start: float, picture_end: float, sound_end: float) -> None:
    for seconds, reason in (
        (picture_start - origin, "picture begins long after the sound"),
        (sound_end - picture_end, "picture ends long before the sound"),
        (picture_end - sound_end, "sound ends long before the picture"),
    ):
        if seconds > _MAX_STILL_SECONDS:
            raise ClipDecodeError("probe", reason, f"{where}: {seconds:.1f} s, at most {_MAX_STILL_SECONDS:.0f}")
