"""Rows round-trip through a real Parquet file with every kind of annotation, and other libraries can read it."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stgcma.data.schema import (
    PARQUET_OPTIONS,
    ShardMetadata,
    arrow_schema,
    decode_rows,
    encode_rows,
    require_columns,
)
from stgcma.errors import ShardMismatchError
from tests.factories import tiny_metadata, tiny_row

KINDS = {
    "events": tiny_metadata("events", fbanks=("demo", "clip"), num_segments=4),
    "masks": tiny_metadata("masks", dataset="avs-s4", num_segments=5, waveform=False),
    "questions": tiny_metadata("questions", dataset="music-avqa", num_segments=3, waveform=False, extra_frames=True),
    "raw float32": tiny_metadata("events", num_segments=2, frame_encoding="raw", fbank_dtype="float32"),
    "no audio": tiny_metadata("events", num_segments=2, fbanks=(), waveform=False),
}


def write(tmp_path, metadata, num_rows=5):
    rows = [tiny_row(index, metadata) for index in range(num_rows)]
    path = tmp_path / "part-00000.parquet"
    pq.write_table(encode_rows(rows, metadata), path, **PARQUET_OPTIONS, row_group_size=16)
    return rows, path


@pytest.mark.parametrize("metadata", KINDS.values(), ids=KINDS)
def test_rows_round_trip_through_a_parquet_file(tmp_path, metadata):
    rows, path = write(tmp_path, metadata)
    table = pq.read_table(path)
    assert decode_rows(table) == rows
    assert ShardMetadata.decode(table.schema, str(path)) == metadata
    assert table.schema.equals(arrow_schema(metadata))


@pytest.mark.parametrize("metadata", KINDS.values(), ids=KINDS)
def test_slices_and_concatenations_decode_to_the_same_rows(tmp_path, metadata):
    rows, path = write(tmp_path, metadata)
    table = pq.read_table(path)
    assert decode_rows(table.slice(1, 3)) == rows[1:4]
    assert decode_rows(table.slice(4)) == rows[4:]
    assert decode_rows(pa.concat_tables([table.slice(3), table.slice(0, 2)])) == rows[3:] + rows[:2]
    assert decode_rows(table.slice(0, 0)) == []
    assert decode_rows(pq.ParquetFile(path, memory_map=True).read_row_group(0)) == rows


def test_no_rows_make_an_empty_shard(tmp_path):
    metadata = KINDS["events"]
    pq.write_table(encode_rows([], metadata), tmp_path / "empty.parquet", **PARQUET_OPTIONS, row_group_size=16)
    assert decode_rows(pq.read_table(tmp_path / "empty.parquet")) == []


def test_rows_differ_when_one_value_differs():
    row = tiny_row(0)
    waveform = row.waveform.copy()
    waveform[-1] += 1
    assert row == tiny_row(0)
    assert row != dataclasses.replace(row, waveform=waveform)
    assert row != dataclasses.replace(row, waveform=None)
    assert row != dataclasses.replace(row, fbanks={"demo": row.fbanks["demo"].astype(np.float32)})
    assert row != dataclasses.replace(row, frames=row.frames[:-1])


def test_a_missing_waveform_stays_missing(tmp_path):
    row = dataclasses.replace(tiny_row(0), waveform=None)
    path = tmp_path / "part.parquet"
    pq.write_table(encode_rows([row, tiny_row(1)], tiny_metadata()), path, **PARQUET_OPTIONS, row_group_size=16)
    assert decode_rows(pq.read_table(path)) == [row, tiny_row(1)]


def test_float16_fbank_keeps_three_digits():
    exact = tiny_row(3, tiny_metadata(fbank_dtype="float32")).fbanks["demo"]
    stored = decode_rows(encode_rows([tiny_row(3)], tiny_metadata()))[0].fbanks["demo"]
    assert stored.dtype == np.float16
    error = np.abs(stored.astype(np.float32) - exact)
    assert 0 < error.max() <= 2**-8, "log-mel values lie in [-16, 16], where half a float16 step is at most 1/256"
    assert np.isfinite(stored).all()


def test_a_wrong_fbank_shape_names_the_clip():
    metadata = tiny_metadata()
    row = dataclasses.replace(tiny_row(7), fbanks={"demo": np.zeros((10, 47, 48), np.float16)})
    with pytest.raises(ShardMismatchError, match=r"fbank_demo.*\[10, 48, 48\].*clip0007:7 has \[10, 47, 48\]"):
        encode_rows([row], metadata)


def test_columns_that_were_not_read_keep_their_defaults(tmp_path):
    metadata = KINDS["events"]
    rows, path = write(tmp_path, metadata)
    columns = ["fbank_clip", "fbank_clip_frames", "event_labels"]
    row = decode_rows(pq.read_table(path, columns=columns))[2]
    assert list(row.fbanks) == ["clip"]
    assert row.waveform is None
    assert row.frames == ()
    assert np.array_equal(row.fbanks["clip"], rows[2].fbanks["clip"])
    assert np.array_equal(row.event_labels, rows[2].event_labels)


def test_polars_and_pandas_read_every_column(tmp_path):
    rows, path = write(tmp_path, KINDS["events"])
    fields = {field.name: field.metadata for field in pq.read_schema(path)}
    for name, read in {
        "polars": lambda: polars.read_parquet(path).to_dicts(),
        "pandas": lambda: pandas.read_parquet(path).to_dict("records"),
    }.items():
        records = read()
        assert [r["clip_id"] for r in records] == [row.clip_id for row in rows], name
        for record, row in zip(records, rows, strict=True):
            assert record["source"]["uri"] == row.source.uri
            assert list(record["frames"]) == row.frames
            assert list(record["event_labels"]) == row.event_labels.tolist()
            assert np.array_equal(np.frombuffer(record["waveform"], "<i2"), row.waveform)
            layout = fields["fbank_clip"]
            fbank = np.frombuffer(record["fbank_clip"], layout[b"dtype"].decode()).reshape(json.loads(layout[b"shape"]))
            assert np.array_equal(fbank, row.fbanks["clip"])
            assert record["fbank_clip_frames"] == row.fbank_frames["clip"]


def test_foreign_files_and_other_versions_are_rejected():
    with pytest.raises(ShardMismatchError, match=r"other.parquet is not an stgcma shard"):
        ShardMetadata.decode(pa.schema([("x", pa.int8())]), "other.parquet")
    newer = dataclasses.replace(tiny_metadata(), schema_version=99)
    with pytest.raises(ShardMismatchError, match=r"schema version 99.*preprocess again"):
        ShardMetadata.decode(arrow_schema(newer), "newer.parquet")


def test_the_error_for_a_missing_fbank_says_what_to_run():
    needed = (
        r"data/shards/ave stores fbank \[10, 102, 128\] of spec 'clip'.*reads \[10, 224, 224\] of spec 'swin'.*"
        r"preprocess --fbank swin\nor set model.backbone to one that reads 'clip'"
    )
    metadata = tiny_metadata(fbanks=("clip",))
    with pytest.raises(ShardMismatchError, match=re.compile(needed, re.DOTALL)):
        require_columns(metadata, fbank="swin", where="data/shards/ave", command="stgcma-jobs preprocess")
    require_columns(metadata, fbank="clip", where="data/shards/ave", command="stgcma-jobs preprocess")
