"""The clips of a dataset before they are decoded: what a listing says of them, and which are decoded together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ClipRef:
    """One future row: which media, which split, which annotation. Small: it travels to the workers."""

    dataset: str
    clip_id: str
    """Unique within the dataset, and the order of the rows."""
    split: str
    video_id: str
    media_uri: str
    """File, or folder of files, relative to the source root. Refs with the same one are decoded once."""
    media_bytes: int | None
    """Size as listed, all files of the clip together; None: not there. A changed size makes the shard anew."""
    annotation: Any = None
    """A frozen dataclass of plain values that the dataset defines; None where media are all there is."""
    counts_in_stats: bool
    """Whether the clip's filter banks enter mean and standard deviation: it is a training clip."""
    budget: dict[str, int] = field(default_factory=dict)
    """What is lost when the clip fails, by split of the failure budget. Empty: one clip of ``split``."""

    @property
    def losses(self) -> dict[str, int]:
        """``budget`` with its default applied."""
        return self.budget or {self.split: 1}


@dataclass(frozen=True, kw_only=True)
class ClipListing:
    """Everything the annotation files of a dataset say."""

    clips: tuple[ClipRef, ...]
    class_names: tuple[str, ...]
    question_words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What the user should know: ids in two splits, labels that differ, files that nothing refers to."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Small files to store beside the shards, by path: what is joined to the rows when they are read."""


def group_by_media(clips: Sequence[ClipRef]) -> list[list[ClipRef]]:
    """Refs that share a media file, together; groups and their members in the order of their clip ids."""
    groups: dict[str, list[ClipRef]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.clip_id):
        groups[clip.media_uri].append(clip)
    return list(groups.values())


def first_of_each_split(clips: Sequence[ClipRef], limit: int | None) -> tuple[ClipRef, ...]:
    """The clips in id order, at most ``limit`` of each split."""
    seen: dict[str, int] = defaultdict(int)
    kept = []
    for clip in sorted(clips, key=lambda clip: clip.clip_id):
        seen[clip.split] += 1
        if limit is None or seen[clip.split] <= limit:
            kept.append(clip)
    return tuple(kept)
