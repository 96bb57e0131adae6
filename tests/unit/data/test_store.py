"""Rows by number, whatever the shards look like, read lazily and column by column."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

import stgcma.data.manifest
from stgcma.data import store as store_module
from stgcma.data.manifest import select_manifest
from stgcma.data.store import ShardStore
from stgcma.errors import ShardMismatchError
from tests.factories import tiny_metadata, tiny_row, write_shards

METADATA = tiny_metadata(num_segments=2)
ALL = tuple(field for field in ("clip_id", "waveform", "fbank_demo", "fbank_demo_frames", "frames", "event_labels"))


def open_store(root, **options) -> ShardStore:
    manifest = write_shards(root, metadata=METADATA, height=8, width=8, **options)
    return ShardStore(str(root), manifest)


def test_clips_are_numbered_by_id_however_they_are_sharded(tmp_path):
    few = open_store(tmp_path / "few", splits={"train": 7}, rows_per_shard=7)
    many = open_store(tmp_path / "many", splits={"train": 7}, rows_per_shard=2)
    assert few.clip_ids("train") == many.clip_ids("train") == tuple(f"clip{k:04d}:{k}" for k in range(7))
    for number in (6, 0, 3):
        assert few.row("train", number, ALL) == many.row("train", number, ALL)
        assert few.row("train", number, ALL).waveform.tolist() == tiny_row(number, METADATA).waveform.tolist()


def test_only_the_columns_asked_for_are_read(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    read = []
    original = pq.ParquetFile.read_row_group

    def spy(file, group, columns=None, **options):
        read.extend(columns)
        return original(file, group, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    row = store.row("val", 0, ("clip_id", "event_labels"))
    assert set(read) == {"clip_id", "event_labels"}
    assert (row.frames, row.waveform, row.fbanks) == ((), None, {})


def test_neighbours_come_from_the_cache_and_the_cache_stays_small(tmp_path, monkeypatch):
    store = open_store(tmp_path, splits={"train": 12}, rows_per_shard=3)
    store.clip_ids("train")
    reads = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda f, *a, **k: reads.append(1) or original(f, *a, **k))
    for number in range(12):
        store.row("train", number, ("waveform",))
    assert len(reads) == 4, "one read for each file of three rows"
    bytes_per_group = 3 * METADATA.num_segments * 16_000 * 2
    monkeypatch.setattr(store_module, "CACHE_BYTES", 2 * bytes_per_group + 1000)
    small = ShardStore(str(tmp_path), store.manifest)
    for number in range(12):
        small.row("train", number, ("waveform",))
        assert small._cached_bytes <= store_module.CACHE_BYTES
        assert small._cached_bytes == sum(array.nbytes for array in small._cache.values())
    assert len(small._cache) == 2


def test_a_store_travels_without_open_files(tmp_path):
    store = open_store(tmp_path)
    row = store.row("test", 1, ALL)
    copy = pickle.loads(pickle.dumps(store))
    assert copy._files == {}
    assert len(copy._cache) == 0
    assert copy.row("test", 1, ALL) == row


def test_a_remote_filesystem_is_read_through_pyarrow(tmp_path, monkeypatch):
    """Any URI goes through ``pyarrow.fs``: here a folder mounted as a remote one."""
    local = open_store(tmp_path / "bucket")
    clip_ids = local.clip_ids("train")
    remote = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())

    def open_filesystem(uri):
        assert uri.startswith("remote://")
        return remote, uri.removeprefix("remote://")

    monkeypatch.setattr(stgcma.data.manifest, "open_filesystem", open_filesystem)
    monkeypatch.setattr(store_module, "open_filesystem", open_filesystem)
    manifest = select_manifest("remote://bucket", "ave", fbank="demo")
    store = ShardStore("remote://bucket", manifest)
    assert store.clip_ids("train") == clip_ids
    assert store.row("train", 4, ALL) == local.row("train", 4, ALL)


def test_what_is_missing_or_changed_is_named(tmp_path):
    store = open_store(tmp_path, splits={"train": 4})
    with pytest.raises(ShardMismatchError, match=r"no split 'test'; it has: train"):
        store.clip_ids("test")
    folder = tmp_path / "ave" / METADATA.fingerprint
    first = folder / store.manifest.splits["train"][0].path
    entries = tuple(replace(entry, num_rows=9) for entry in store.manifest.splits["train"])
    wrong_count = replace(store.manifest, splits={"train": entries})
    with pytest.raises(ShardMismatchError, match=r"part-00000-of-00002.parquet has 3 rows, its manifest says 9"):
        ShardStore(str(tmp_path), wrong_count).clip_ids("train")
    other = replace(store.manifest, metadata=replace(METADATA, fbank_dtype="float32"))
    with pytest.raises(
        ShardMismatchError, match=r"made with fbank_dtype 'float16' instead of 'float32' in its manifest"
    ):
        ShardStore(str(tmp_path), other).clip_ids("train")
    first.unlink()
    with pytest.raises(ShardMismatchError, match=r"listed in the manifest but missing.*makes only what is missing"):
        ShardStore(str(tmp_path), store.manifest).clip_ids("train")
