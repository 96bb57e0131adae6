"""Random access by clip number to the rows of one preprocessed dataset, local or remote.

Clips are numbered in the order of their ids. The numbering, and with it shuffling and augmentation, does not depend on
the number of shards. Every process opens the files itself, on first use.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stgcma.data.manifest import ShardManifest, open_filesystem
from stgcma.data.schema import ClipRow, arrow_schema, decode_rows
from stgcma.data.shard_file import MISSING_ROWS, damaged_page, open_shard
from stgcma.errors import ShardMismatchError

CACHE_BYTES = 192 * 2**20
"""Largest size of the decoded columns that a process keeps. A small dataset is then read only once."""


class ShardStore:
    """The rows of all splits of one manifest.

    Args:
        root: ``DataConfig.shards``: a directory or URI.
        manifest: Manifest of the dataset and fingerprint under it.
    """

    def __init__(self, root: str, manifest: ShardManifest) -> None:
        self.manifest = manifest
        self.uri = f"{root.rstrip('/')}/{manifest.dataset}/{manifest.fingerprint}"
        self._reset()

    def _reset(self) -> None:
        self._filesystem: tuple[pafs.FileSystem, str] | None = None
        self._files: dict[str, pq.ParquetFile] = {}
        self._index: dict[str, _SplitIndex] = {}
        self._cache: OrderedDict[tuple[str, int, str], _LazyColumn] = OrderedDict()
        self._cached_bytes = 0
        self._schema = arrow_schema(self.manifest.metadata)
        self._entries = {e.path: (split, e) for split, entries in self.manifest.splits.items() for e in entries}

    def __getstate__(self) -> dict[str, Any]:
        return {"manifest": self.manifest, "uri": self.uri, "index": self._index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.manifest, self.uri = state["manifest"], state["uri"]
        self._reset()
        self._index = state["index"]

    def clip_ids(self, split: str) -> tuple[str, ...]:
        """Ids of all clips of a split, in the order of their numbers.

        Raises:
            ShardMismatchError: If there is no such split, or a file differs from the manifest.
        """
        return self._split(split).clip_ids

    def row(self, split: str, number: int, columns: Sequence[str]) -> ClipRow:
        """One clip with the given columns. The other fields keep their defaults."""
        path, group, offset = self._split(split).places[number]
        chosen = [column for column in self._schema if column.name in columns]
        arrays = [self._value(path, group, column.name, offset) for column in chosen]
        return decode_rows(pa.Table.from_arrays(arrays, schema=pa.schema(chosen)))[0]

    def _split(self, split: str) -> _SplitIndex:
        if split not in self._index:
            if split not in self.manifest.splits:
                raise ShardMismatchError(
                    f"{self.uri} has no split {split!r}; it has: {', '.join(self.manifest.splits) or 'none'}. "
                    "Preprocess that split, or choose another one."
                )
            self._index[split] = self._read_index(split)
        return self._index[split]

    def _read_index(self, split: str) -> _SplitIndex:
        found = []
        for entry in self.manifest.splits[split]:
            file = self._open(entry.path)
            for group in range(file.metadata.num_row_groups):
                with self._reading(entry.path):
                    ids = file.read_row_group(group, columns=["clip_id"], use_threads=False)["clip_id"].to_pylist()
                    if len(ids) != file.metadata.row_group(group).num_rows:
                        raise pa.ArrowInvalid(MISSING_ROWS)
                found += [(clip_id, entry.path, group, offset) for offset, clip_id in enumerate(ids)]
        found.sort()
        return _SplitIndex([item[0] for item in found], [item[1:] for item in found])

    def _open(self, path: str) -> pq.ParquetFile:
        if path not in self._files:
            if self._filesystem is None:
                self._filesystem = open_filesystem(self.uri)
            filesystem, folder = self._filesystem
            split, entry = self._entries[path]
            self._files[path] = open_shard(
                filesystem, f"{folder}/{path}", entry, split, self.manifest.metadata, f"{self.uri}/{path}"
            )
        return self._files[path]

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        """Name the file whose pages are damaged; a network that fails is raised as it is."""
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            damage = damaged_page(error, f"{self.uri}/{path}")
            raise (damage or error) from None

    def _value(self, path: str, group: int, column: str, offset: int) -> pa.Array:
        """One value as an array of length 1, from the cache if it was decoded before."""
        key = (path, group, column)
        decoded = self._cache.pop(key, None)
        self._cached_bytes -= decoded.num_bytes if decoded else 0
        decoded = decoded or _LazyColumn(self._open(path), group, column)
        with self._reading(path):
            value = decoded.value(offset)  # if this fails, the cache keeps nothing of the column
        self._cache[key] = decoded
        self._cached_bytes += decoded.num_bytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].num_bytes
        return value


class _LazyColumn:
    """One column of one row group, decoded row by row up to the last row that was requested.

    Random access decodes half of a group on average. Access in order decodes every row once.
    """

    def __init__(self, file: pq.ParquetFile, group: int, column: str) -> None:
        self._batches = file.iter_batches(batch_size=1, row_groups=[group], columns=[column], use_threads=False)
        self._values: list[pa.Array] = []
        self.num_bytes = 0

    def value(self, offset: int) -> pa.Array:
        while len(self._values) <= offset:
            batch = next(self._batches, None)
            if batch is None:
                raise pa.ArrowInvalid(MISSING_ROWS)
            array = batch.column(0)
            self._values.append(array)
            self.num_bytes += array.nbytes
        return self._values[offset]


class _SplitIndex:
    """The ids of a split in order, and the place of each row: (path, row group, offset in the group)."""

    def __init__(self, clip_ids: list[str], places: list[tuple[str, int, int]]) -> None:
        self.clip_ids = tuple(clip_ids)
        self.places = places
