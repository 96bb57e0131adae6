"""Rows by number: independent of the sharding, read lazily and column by column."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

import stgcma.data.manifest
from stgcma.data import store as store_module
from stgcma.data.manifest import select_manifest
from stgcma.data.store import ShardStore
from stgcma.errors import ShardMismatchError
from tests.factories import tiny_metadata, tiny_row, write_index, write_shards

METADATA = tiny_metadata(num_segments=2)
ALL = tuple(field for field in ("clip_id", "waveform", "fbank_demo", "fbank_demo_frames", "frames", "event_labels"))


def open_store(root, **options) -> ShardStore:
    manifest = write_shards(root, metadata=METADATA, height=8, width=8, **options)
    return ShardStore(str(root), manifest)


def test_the_numbering_of_clips_does_not_depend_on_the_sharding(tmp_path):
    few = open_store(tmp_path / "few", splits={"train": 7}, rows_per_shard=7)
    many = open_store(tmp_path / "many", splits={"train": 7}, rows_per_shard=2)
    assert few.clip_ids("train") == many.clip_ids("train") == [f"clip{k:04d}:{k}" for k in range(7)]
    for number in (6, 0, 3):
        assert few.row("train", number, ALL) == many.row("train", number, ALL)
        assert few.row("train", number, ALL).waveform.tolist() == tiny_row(number, METADATA).waveform.tolist()


def spy_on_batches(monkeypatch):
    """Two lists that grow: (row group, columns) of every read that starts, and the row counts of the batches read."""
    begun, rows = [], []
    original = pq.ParquetFile.iter_batches

    def spy(file, *, row_groups, columns, **options):
        begun.append((*row_groups, *columns))
        for batch in original(file, row_groups=row_groups, columns=columns, **options):
            rows.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    return begun, rows


def test_only_the_requested_columns_are_read(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    store.clip_ids("val")
    begun, _ = spy_on_batches(monkeypatch)
    row = store.row("val", 0, ("clip_id", "event_labels"))
    assert begun == [(0, "clip_id"), (0, "event_labels")]
    assert (row.frames, row.waveform, row.fbanks) == ((), None, {})


def test_rows_are_decoded_up_to_the_requested_one_and_only_once(tmp_path, monkeypatch):
    store = open_store(tmp_path, splits={"train": 12}, rows_per_shard=12)
    store.clip_ids("train")
    _, rows = spy_on_batches(monkeypatch)
    for number, decoded in ((4, 5), (2, 5), (4, 5), (5, 6), (11, 12), (0, 12)):
        waveform = store.row("train", number, ("waveform",)).waveform
        assert sum(rows) == decoded
        assert waveform.tolist() == tiny_row(number, METADATA).waveform.tolist()


def test_neighbours_come_from_the_cache_and_its_size_is_limited(tmp_path, monkeypatch):
    store = open_store(tmp_path, splits={"train": 12}, rows_per_shard=3)
    store.clip_ids("train")
    begun, rows = spy_on_batches(monkeypatch)
    for number in range(12):
        store.row("train", number, ("waveform",))
    assert len(begun) == 4, "one read for each file of three rows"
    assert sum(rows) == 12
    bytes_per_group = 3 * METADATA.num_segments * 16_000 * 2
    monkeypatch.setattr(store_module, "CACHE_BYTES", 2 * bytes_per_group + 1000)
    small = ShardStore(str(tmp_path), store.manifest)
    for number in range(12):
        small.row("train", number, ("waveform",))
        assert small._cached_bytes <= store_module.CACHE_BYTES
        assert small._cached_bytes == sum(column.num_bytes for column in small._cache.values())
    assert len(small._cache) == 2


def test_a_failed_read_can_be_repeated(tmp_path, monkeypatch):
    store = open_store(tmp_path, splits={"train": 4}, rows_per_shard=4)
    original, failures = pq.ParquetFile.iter_batches, [OSError(104, "connection reset")]

    def flaky(file, **options):
        for number, batch in enumerate(original(file, **options)):
            if number == 2 and failures:
                raise failures.pop()
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", flaky)
    fresh = ShardStore(str(tmp_path), store.manifest)
    fresh.clip_ids("train")
    fresh.row("train", 1, ("waveform",))
    with pytest.raises(OSError, match="connection reset"):
        fresh.row("train", 3, ("waveform",))
    assert fresh._cached_bytes == 0
    waveform = fresh.row("train", 3, ("waveform",)).waveform
    assert waveform.tolist() == tiny_row(3, METADATA).waveform.tolist()


def test_a_pickled_store_has_no_open_files(tmp_path):
    store = open_store(tmp_path)
    row = store.row("test", 1, ALL)
    copy = pickle.loads(pickle.dumps(store))
    assert copy._files == {}
    assert len(copy._cache) == 0
    assert copy.row("test", 1, ALL) == row


def test_a_remote_filesystem_is_read_through_pyarrow(tmp_path, monkeypatch):
    """Any URI is read through ``pyarrow.fs``; here a folder stands for a remote place."""
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


def test_missing_and_changed_files_are_named(tmp_path):
    store = open_store(tmp_path, splits={"train": 4})
    with pytest.raises(ShardMismatchError, match=r"no split 'test'; it has: train"):
        store.clip_ids("test")
    folder = tmp_path / "ave" / METADATA.fingerprint
    first = folder / store.manifest.splits["train"][0].path
    entries = tuple(replace(entry, num_rows=9) for entry in store.manifest.splits["train"])
    wrong_count = replace(store.manifest, splits={"train": entries})
    with pytest.raises(ShardMismatchError, match=r"part-00000-of-00002.parquet has 3 rows, but its manifest says 9"):
        ShardStore(str(tmp_path), wrong_count).row("train", 0, ALL)
    other = replace(store.manifest, metadata=replace(METADATA, fbank_dtype="float32"))
    with pytest.raises(
        ShardMismatchError, match=r"made with fbank_dtype 'float16' instead of 'float32' in its manifest"
    ):
        ShardStore(str(tmp_path), other).row("train", 0, ALL)
    size = first.stat().st_size
    first.write_bytes(first.read_bytes()[:-100])
    with pytest.raises(
        ShardMismatchError,
        match=rf"{first.name} has {size - 100} bytes, but its manifest says {size}. Run .* --verify",
    ):
        ShardStore(str(tmp_path), store.manifest).row("train", 0, ALL)
    first.unlink()
    with pytest.raises(ShardMismatchError, match=r"listed in the manifest but missing.*makes only the missing files"):
        ShardStore(str(tmp_path), store.manifest).row("train", 0, ALL)


def test_a_store_starts_without_opening_a_shard(tmp_path, monkeypatch):
    store = open_store(tmp_path, splits={"train": 6, "val": 0})
    monkeypatch.setattr(store_module.pq, "ParquetFile", None)
    assert store.num_clips("train") == len(store.clip_ids("train")) == 6
    assert store.num_clips("val") == len(store.clip_ids("val")) == 0


def open_shards() -> int:
    """Parquet files that this process holds open."""
    links = (link for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return sum(str(os.readlink(link)).endswith(".parquet") for link in links)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_few_shards_are_open_at_a_time_however_many_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_OPEN_FILES", 3)
    store = open_store(tmp_path, splits={"train": 20}, rows_per_shard=2)
    before = open_shards()
    numbers = np.random.default_rng(0).permutation(20).tolist()
    for number in numbers + numbers[::-1]:
        row = store.row("train", number, ("clip_id", "waveform"))
        assert row.waveform.tolist() == tiny_row(number, METADATA).waveform.tolist()
        assert open_shards() - before <= 3
        assert store._cached_bytes == sum(column.num_bytes for column in store._cache.values())
    assert open_shards() - before == 3


def test_an_index_that_is_missing_damaged_or_of_another_run_is_named(tmp_path):
    store = open_store(tmp_path, splits={"train": 4})
    index = tmp_path / "ave" / METADATA.fingerprint / "index.parquet"
    good = index.read_bytes()
    index.write_bytes(good[:-20])
    with pytest.raises(ShardMismatchError, match=r"index.parquet is damaged .* with --verify"):
        ShardStore(str(tmp_path), store.manifest).num_clips("train")
    write_index(index.parent, {"train": [["clip0003:3", "clip0002:2", "clip0001:1"], ["clip0000:0"]]})
    with pytest.raises(ShardMismatchError, match=r"index.parquet holds values with digest .* with --verify"):
        ShardStore(str(tmp_path), store.manifest).num_clips("train")
    index.unlink()
    with pytest.raises(ShardMismatchError, match=r"index.parquet is listed in the manifest but missing.* --verify"):
        ShardStore(str(tmp_path), store.manifest).num_clips("train")


def test_a_row_that_is_not_where_the_index_says_is_refused(tmp_path):
    store = open_store(tmp_path, splits={"train": 4})
    folder = tmp_path / "ave" / METADATA.fingerprint
    digest = write_index(folder, {"train": [["clip0001:1", "clip0000:0", "clip0002:2"], ["clip0003:3"]]})
    swapped = ShardStore(str(tmp_path), replace(store.manifest, tables={"index.parquet": digest}))
    with pytest.raises(ShardMismatchError, match="has clip 'clip0001:1' where the index says 'clip0000:0'"):
        swapped.row("train", 0, ("clip_id",))
