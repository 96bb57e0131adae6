"""Which clips go into which Parquet file; this depends only on the clip list, so every run has the same plan.

Clips of one media file belong together, so that it is decoded once. If such a file belongs to several splits (AVE has
18 of them), its shard writes one Parquet file for each split.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.clips import ClipRef, group_by_media


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """One unit of work, which is made completely or again: some media files, and the Parquet files made from them."""

    name: str
    """``train-00003``, or ``shared-00000`` if its media files belong to several splits."""
    groups: tuple[tuple[ClipRef, ...], ...]
    """The clips of each media file."""
    parts: dict[str, str]
    """Split -> path of the Parquet file, relative to the output folder."""
    digest: str
    """Of the fingerprint, clip ids and sizes of media files; a finished shard with another digest is made again."""

    @property
    def clips(self) -> list[ClipRef]:
        """All clips of the shard."""
        return [clip for group in self.groups for clip in group]


MIN_CLIPS_PER_SHARD, MAX_CLIPS_PER_SHARD = 32, 1024
MANY_SHARDS = 4096
"""Where there would be more, shards become larger, because each costs a task, a state and several requests."""


def default_clips_per_shard(clips: Sequence[ClipRef]) -> int:
    """32 media files, doubled until there are at most ``MANY_SHARDS`` shards or a shard has 1,024.

    It follows from the list of clips alone, and enters the settings: a run that goes on finds the same shards.
    """
    num_media, size = len({clip.media_uri for clip in clips}), MIN_CLIPS_PER_SHARD
    while num_media > MANY_SHARDS * size and size < MAX_CLIPS_PER_SHARD:
        size *= 2
    return size


def plan_shards(clips: Sequence[ClipRef], *, clips_per_shard: int, fingerprint: str) -> list[ShardSpec]:
    """Divide the clips, in id order, into shards of at most ``clips_per_shard`` media files."""
    kinds: dict[str, list[list[ClipRef]]] = defaultdict(list)
    for group in group_by_media(clips):
        served = {clip.split for clip in group}
        kinds["shared" if len(served) > 1 else served.pop()].append(group)
    chunks = [
        (f"{kind}-{number:05d}", groups[start : start + clips_per_shard])
        for kind, groups in sorted(kinds.items())
        for number, start in enumerate(range(0, len(groups), clips_per_shard))
    ]
    splits_of = [sorted({clip.split for group in groups for clip in group}) for _, groups in chunks]
    totals = Counter(split for splits in splits_of for split in splits)
    planned: Counter[str] = Counter()
    specs = []
    for (name, groups), splits in zip(chunks, splits_of, strict=True):
        parts = {split: f"{split}/part-{planned[split]:05d}-of-{totals[split]:05d}.parquet" for split in splits}
        planned.update(splits)
        specs.append(
            ShardSpec(
                name=name,
                groups=tuple(tuple(group) for group in groups),
                parts=parts,
                digest=_digest(fingerprint, groups),
            )
        )
    return specs


def _digest(fingerprint: str, groups: Sequence[Sequence[ClipRef]]) -> str:
    content = [[clip.clip_id, clip.media_bytes] for group in groups for clip in group]
    return hashlib.sha256(json.dumps([fingerprint, content]).encode()).hexdigest()
