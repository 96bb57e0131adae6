"""The index of the rows: which clip lies where, in one file beside the manifest, so that starting a run opens no shard.

``<root>/<dataset>/<fingerprint>/index.parquet``, one row a clip, each split in row groups of its own:

| column | Arrow type | meaning |
|---|---|---|
| split | string | of the manifest |
| clip_id | string | ascending within the split: a clip's number is its place here |
| shard | int32 | place in ``ShardManifest.splits[split]`` |
| row_group, row | int32 | in that file; ``row`` counts within the group |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

INDEX_NAME = "index.parquet"

_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("clip_id", pa.string()),
        ("shard", pa.int32()),
        ("row_group", pa.int32()),
        ("row", pa.int32()),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitIndex:
    """The clips of one split in their numbering; as arrays, because there may be millions."""

    clip_ids: pa.Array
    """``[clips]`` string."""
    places: np.ndarray
    """``[clips, 3]`` int32: shard, row group, row in the group."""

    @classmethod
    def of_shards(cls, shards: Sequence[Sequence[str]], row_group_size: int) -> SplitIndex:
        """The index of shards whose row groups are full but for the last.

        Args:
            shards: Clip ids of every shard in the order of their rows.
            row_group_size: Rows per row group.
        """
        clip_ids = pa.array([clip_id for shard in shards for clip_id in shard], pa.string())
        rows = np.concatenate([np.arange(len(shard), dtype=np.int32) for shard in shards] or [np.empty(0, np.int32)])
        shard_of_row = np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard) for shard in shards])
        places = np.stack([shard_of_row, rows // row_group_size, rows % row_group_size], axis=1)
        order = pc.sort_indices(clip_ids)
        return cls(clip_ids=clip_ids.take(order), places=places[order.to_numpy()])

    def __len__(self) -> int:
        return len(self.clip_ids)


def encode_index(splits: Mapping[str, SplitIndex]) -> bytes:
    """The content of the file."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, _SCHEMA, use_dictionary=["split"]) as writer:
        for split, index in sorted(splits.items()):
            columns = [pa.array([split], pa.string()).take(pa.array(np.zeros(len(index), np.int64))), index.clip_ids]
            columns += [pa.array(index.places[:, column]) for column in range(3)]
            writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))
    return sink.getvalue().to_pybytes()


def decode_index(data: bytes, split: str) -> SplitIndex:
    """The part of one split; empty where the file has no clip of it."""
    table = pq.read_table(pa.BufferReader(data), filters=[("split", "=", split)])
    places = np.stack([table[name].to_numpy() for name in _SCHEMA.names[2:]], axis=1)
    return SplitIndex(clip_ids=table["clip_id"].combine_chunks(), places=places)
