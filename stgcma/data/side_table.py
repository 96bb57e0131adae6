"""Tables beside the shards, such as the index and questions: joined to the rows when read, and checked like them."""

from __future__ import annotations

import hashlib
import io
import json

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stgcma.data.shard_file import REPAIR
from stgcma.errors import ShardMismatchError

_ROWS_AT_ONCE = 1 << 16
"""Values that are held as Python objects at a time; part of the definition of the digest."""


def table_digest(table: pa.Table) -> str:
    """sha256 over the values, column by column, independent of how a Parquet writer stores them."""
    digest = hashlib.sha256(json.dumps(table.column_names).encode())
    for column in table.columns:
        for start in range(0, len(column), _ROWS_AT_ONCE):
            digest.update(json.dumps(column.slice(start, _ROWS_AT_ONCE).to_pylist()).encode())
    return digest.hexdigest()


def encode_table(table: pa.Table) -> bytes:
    """A Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def read_table(filesystem: pafs.FileSystem, path: str, digest: str, where: str) -> pa.Table:
    """A table as it was written.

    Args:
        filesystem: Where it lies.
        path: On that file system.
        digest: ``table_digest`` of what was written.
        where: Its location, for messages.

    Raises:
        ShardMismatchError: If the file is missing, damaged, or holds other values.
    """
    try:
        with filesystem.open_input_stream(path, compression=None) as stream:
            data = stream.read()
    except FileNotFoundError:
        raise ShardMismatchError(f"{where} is listed in the manifest but missing. {REPAIR}") from None
    try:
        table = pq.read_table(pa.BufferReader(data))
        found = table_digest(table)
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise ShardMismatchError(f"{where} is damaged ({type(error).__name__}: {error}). {REPAIR}") from None
    if found != digest:
        raise ShardMismatchError(
            f"{where} holds values with digest {found[:12]}, but its manifest says {digest[:12]}. {REPAIR}"
        )
    return table
