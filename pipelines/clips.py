"""The clips of a dataset before decoding: what its annotation files say about them, and which are decoded together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class ClipRef:
    """One clip that will become a row: its media, split and annotation. Small, because it is sent to the workers."""

    dataset: str
    clip_id: str
    """Unique within the dataset; rows are sorted by it."""
    split: str
    video_id: str
    media_uri: str
    """File, or folder of files, relative to the source root. Clips with the same one are decoded once."""
    media_bytes: int | None
    """Total size of the clip's files in the listing; None if they are missing. A new size makes the shard again."""
    annotation: Any = None
    """A frozen dataclass of plain values that the dataset defines; None if it has no annotation."""
    counts_in_stats: bool
    """Whether the clip's filter banks enter the mean and standard deviation: true for training clips."""
    budget: dict[str, int] = field(default_factory=dict)
    """What each split of the failure budget loses if the clip fails. Empty: one clip of ``split``."""

    @property
    def losses(self) -> dict[str, int]:
        """``budget``, with its default filled in."""
        return self.budget or {self.split: 1}


@dataclass(frozen=True, kw_only=True)
class ClipListing:
    """Everything that the annotation files of a dataset say."""

    clips: tuple[ClipRef, ...]
    class_names: tuple[str, ...]
    question_words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What the user should know: ids in two splits, labels that differ, unused files."""
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    """Path -> small table to store beside the shards; readers join it to the rows."""


def group_by_media(clips: Sequence[ClipRef]) -> list[list[ClipRef]]:
    """Group the clips that share a media file; groups and their members are in clip id order."""
    groups: dict[str, list[ClipRef]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.clip_id):
        groups[clip.media_uri].append(clip)
    return list(groups.values())


def first_of_each_split(clips: Sequence[ClipRef], limit: int | None) -> tuple[ClipRef, ...]:
    """The first ``limit`` clips of each split in id order; all clips if ``limit`` is None."""
    seen: dict[str, int] = defaultdict(int)
    kept = []
    for clip in sorted(clips, key=lambda clip: clip.clip_id):
        seen[clip.split] += 1
        if limit is None or seen[clip.split] <= limit:
            kept.append(clip)
    return tuple(kept)
