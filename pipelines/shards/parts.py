"""Writes one Parquet file by row groups, so that memory holds at most one group of rows."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.shards.digest import RowsDigest
from pipelines.storage import Storage
from stgcma.data.manifest import ShardEntry
from stgcma.data.schema import DIGEST_KEY, PARQUET_OPTIONS, ClipRow, ShardMetadata, arrow_schema, encode_rows
from stgcma.data.shard_file import footer_sha256


class PartWriter:
    """A context that rows are added to; the complete file appears if the block ends without an error.

    Args:
        output: Folder of the run.
        path: Path of the file, relative to ``output``.
        metadata: Description of the shards.
        group_size: Rows per row group.
    """

    def __init__(self, output: Storage, path: str, metadata: ShardMetadata, group_size: int) -> None:
        self._output, self._path, self._metadata, self._group_size = output, path, metadata, group_size
        self._pending: list[pa.Table] = []
        self._num_rows = 0
        self._digest = RowsDigest(metadata)
        self._open = ExitStack()
        self._temporary: Path | None = None
        self._writer: pq.ParquetWriter | None = None
        self.entry: ShardEntry | None = None
        """Set when the file is complete; stays None if no row was added."""

    def __enter__(self) -> PartWriter:
        return self

    def add(self, row: ClipRow) -> None:
        """Append a row and write every ``group_size`` rows; a row is encoded at once, so that memory holds it once."""
        self._pending.append(encode_rows([row], self._metadata))
        self._digest.update([row])
        self._num_rows += 1
        if len(self._pending) == self._group_size:
            self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._open.__exit__(kind, error, trace)
            return
        with self._open:
            if self._pending:
                self._flush()
            if self._writer is None or self._temporary is None:
                self._output.delete(self._path)  # left by an earlier run in which its media files were good
                return
            digest = self._digest.hexdigest()
            self._writer.add_key_value_metadata({DIGEST_KEY: digest})
            self._writer.close()
            size, footer = self._temporary.stat().st_size, footer_sha256(str(self._temporary))
        self.entry = ShardEntry(
            path=self._path, num_rows=self._num_rows, size_bytes=size, digest=digest, footer_sha256=footer
        )

    def _flush(self) -> None:
        if self._writer is None:
            self._temporary = self._open.enter_context(self._output.new_file(self._path))
            self._writer = pq.ParquetWriter(self._temporary, arrow_schema(self._metadata), **PARQUET_OPTIONS)
            self._open.callback(self._writer.close)
        self._writer.write_table(pa.concat_tables(self._pending), row_group_size=self._group_size)
        self._pending = []
