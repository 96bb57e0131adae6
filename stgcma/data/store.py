"""Random access by clip number to the rows of one preprocessed dataset, local or remote.

Clips are numbered in the order of their ids. The numbering, and with it shuffling and augmentation, does not depend on
the number of shards. The index beside the manifest says where each clip lies, so a run starts without opening a shard.
Every process opens the files itself, on first use, and a bounded number of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stgcma.data.index import INDEX_NAME, SplitIndex
from stgcma.data.manifest import ShardManifest, open_filesystem
from stgcma.data.schema import ClipRow, arrow_schema, decode_rows
from stgcma.data.shard_file import MISSING_ROWS, REPAIR, damaged_page, open_shard
from stgcma.data.side_table import read_table
from stgcma.errors import ShardMismatchError

MAX_OPEN_FILES = 128
"""Shards each process keeps open: systems allow 256 or 1,024 files, some of them Ray's."""
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
        self._files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self._index: dict[str, SplitIndex] | None = None
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

    def num_clips(self, split: str) -> int:
        """Clips of a split: their numbers are ``0 .. num_clips``.

        Raises:
            ShardMismatchError: If there is no such split, or the index differs from the manifest.
        """
        return len(self._split(split))

    def clip_ids(self, split: str) -> list[str]:
        """Ids of all clips of a split, in the order of their numbers, as a new list.

        Raises:
            ShardMismatchError: If there is no such split, or the index differs from the manifest.
        """
        return self._split(split).clip_ids.to_pylist()

    def row(self, split: str, number: int, columns: Sequence[str]) -> ClipRow:
        """One clip with the given columns. The other fields keep their defaults.

        Raises:
            ShardMismatchError: If the shard is missing, damaged, or another one than the manifest describes.
        """
        index = self._split(split)
        shard, group, offset = index.places[number].tolist()
        path = self.manifest.splits[split][shard].path
        chosen = [column for column in self._schema if column.name in columns]
        arrays = [self._value(path, group, column.name, offset) for column in chosen]
        row = decode_rows(pa.Table.from_arrays(arrays, schema=pa.schema(chosen)))[0]
        if "clip_id" in columns and row.clip_id != (expected := index.clip_ids[number].as_py()):
            raise ShardMismatchError(
                f"{self.uri}/{path} has clip {row.clip_id!r} where the index says {expected!r}. {REPAIR}"
            )
        return row

    def _split(self, split: str) -> SplitIndex:
        if split not in self.manifest.splits:
            raise ShardMismatchError(
                f"{self.uri} has no split {split!r}; it has: {', '.join(self.manifest.splits) or 'none'}. "
                "Preprocess that split, or choose another."
            )
        if self._index is None:
            filesystem, folder = self._place()
            digest = self.manifest.tables.get(INDEX_NAME, "")
            table = read_table(filesystem, f"{folder}/{INDEX_NAME}", digest, f"{self.uri}/{INDEX_NAME}")
            self._index = {name: SplitIndex.of(table, name) for name in self.manifest.splits}
        return self._index[split]

    def _place(self) -> tuple[pafs.FileSystem, str]:
        if self._filesystem is None:
            self._filesystem = open_filesystem(self.uri)
        return self._filesystem

    def _open(self, path: str) -> pq.ParquetFile:
        """The file of a shard; the one that was not used for longest is closed where there are too many."""
        if path not in self._files:
            filesystem, folder = self._place()
            split, entry = self._entries[path]
            self._files[path] = open_shard(
                filesystem, f"{folder}/{path}", entry, split, self.manifest.metadata, f"{self.uri}/{path}"
            )
            if len(self._files) > MAX_OPEN_FILES:
                self._close(next(iter(self._files)))
        self._files.move_to_end(path)
        return self._files[path]

    def _close(self, path: str) -> None:
        """Forget a file; of its columns, whose readers hold it open, what was decoded stays."""
        del self._files[path]
        for key, column in self._cache.items():
            if key[0] == path:
                column.release()

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
        decoded = self._cache.pop(key, None) or _LazyColumn(group, column)
        self._cached_bytes -= decoded.num_bytes
        if not decoded.holds(offset):
            file = self._open(path)
            with self._reading(path):  # if this fails, the cache keeps nothing of the column
                decoded.read(file, offset, all_at_once="://" in self.uri)
        value = decoded.values[offset]
        self._cache[key] = decoded
        self._cached_bytes += decoded.num_bytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].num_bytes
        return value


class _LazyColumn:
    """One column of one row group, decoded row by row up to the last row that was requested.

    Random access decodes half of a group on average. Access in order decodes every row once, while the file is open.
    From a bucket the whole column is fetched and decoded at once, because a reader that waits would hold it twice.
    """

    def __init__(self, group: int, column: str) -> None:
        self._group, self._column = group, column
        self._batches: Iterator[pa.RecordBatch] | None = None
        self.values: list[pa.Array] = []
        """Arrays of length 1."""
        self.num_bytes = 0

    def holds(self, offset: int) -> bool:
        return offset < len(self.values)

    def read(self, file: pq.ParquetFile, offset: int, *, all_at_once: bool) -> None:
        """Decode up to ``offset``, or to the end."""
        last = file.metadata.row_group(self._group).num_rows - 1 if all_at_once else offset
        if self._batches is None:
            batches = file.iter_batches(
                batch_size=1, row_groups=[self._group], columns=[self._column], use_threads=False
            )
            self._batches = islice(batches, len(self.values), None)
        while not self.holds(last):
            batch = next(self._batches, None)
            if batch is None:
                raise pa.ArrowInvalid(MISSING_ROWS)
            array = batch.column(0)
            self.values.append(array)
            self.num_bytes += array.nbytes
        if all_at_once:
            self.release()

    def release(self) -> None:
        """Let go of the file."""
        self._batches = None
