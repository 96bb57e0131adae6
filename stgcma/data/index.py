"""The index of the rows: where each clip lies, in one table beside the manifest, so that a run starts without opening
a shard.

``<root>/<dataset>/<fingerprint>/index.parquet``, one row a clip, sorted by split and clip id:

| column | Arrow type | meaning |
|---|---|---|
| split | string | of the manifest |
| clip_id | string | a clip's number is its place within the split |
| shard | int32 | place in ``ShardManifest.splits[split]`` |
| row_group, row | int32 | in that file; ``row`` counts within the group |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

INDEX_NAME = "index.parquet"

_PLACE = ("shard", "row_group", "row")
_SCHEMA = pa.schema([("split", pa.string()), ("clip_id", pa.string()), *((name, pa.int32()) for name in _PLACE)])


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitIndex:
    """The clips of one split in the order of their numbers; as arrays, because there may be millions."""

    clip_ids: pa.Array
    """``[clips]`` string."""
    places: np.ndarray
    """``[clips, 3]`` int32: shard, row group, row in the group."""

    @classmethod
    def of(cls, table: pa.Table, split: str) -> SplitIndex:
        """The part of ``index_table`` that belongs to a split; empty where the table has no clip of it."""
        part = table.filter(pc.equal(table["split"], split))
        places = np.stack([part[name].to_numpy() for name in _PLACE], axis=1)
        return cls(clip_ids=part["clip_id"].combine_chunks(), places=places)

    def __len__(self) -> int:
        return len(self.clip_ids)


def index_table(shards: Mapping[str, Sequence[Sequence[str]]], row_group_size: int) -> pa.Table:
    """The index of shards whose row groups are full, except for the last one of each shard.

    Args:
        shards: Split -> the clip ids of every shard, in the order of the rows.
        row_group_size: Rows per row group.
    """
    parts = [_split_table(split, ids, row_group_size) for split, ids in sorted(shards.items())]
    return pa.concat_tables([_SCHEMA.empty_table(), *parts]).combine_chunks()


def _split_table(split: str, shards: Sequence[Sequence[str]], row_group_size: int) -> pa.Table:
    sizes = np.array([len(ids) for ids in shards], dtype=np.int64)
    clip_ids = pa.array([clip_id for ids in shards for clip_id in ids], pa.string())
    shard = np.repeat(np.arange(len(shards)), sizes)
    row = np.arange(len(clip_ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    columns = [pa.repeat(split, len(clip_ids)), clip_ids]
    columns += [pa.array(values, pa.int32()) for values in (shard, row // row_group_size, row % row_group_size)]
    return pa.Table.from_arrays(columns, schema=_SCHEMA).take(pc.sort_indices(clip_ids))
