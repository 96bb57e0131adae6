"""Tables beside the shards are read as they were written, or named."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from stgcma.data.side_table import encode_table, read_table, table_digest
from stgcma.errors import ShardMismatchError

TABLE = pa.table({"id": [1, 2], "words": [["Is", "it"], ["How"]]})


def read(path, digest):
    return read_table(pafs.LocalFileSystem(), str(path), digest, "questions/train.parquet")


def test_values_count_and_their_storage_does_not(tmp_path):
    path = tmp_path / "table.parquet"
    path.write_bytes(encode_table(TABLE))
    assert read(path, table_digest(TABLE)) == TABLE
    pq.write_table(TABLE, path, compression="zstd", row_group_size=1)
    assert read(path, table_digest(TABLE)) == TABLE


def test_what_is_missing_damaged_or_another_table_is_named(tmp_path):
    path = tmp_path / "table.parquet"
    with pytest.raises(ShardMismatchError, match=r"questions/train.parquet is listed in the manifest but missing"):
        read(path, table_digest(TABLE))
    path.write_bytes(encode_table(TABLE)[:-9])
    with pytest.raises(ShardMismatchError, match=r"questions/train.parquet is damaged .* --verify"):
        read(path, table_digest(TABLE))
    path.write_bytes(encode_table(TABLE.slice(1)))
    with pytest.raises(ShardMismatchError, match=r"holds values with digest \w{12}, but its manifest says \w{12}"):
        read(path, table_digest(TABLE))
