"""A shard is read only where it is what was written: every byte of it counts, and so does whose it is."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from stgcma.data.store import ShardStore
from stgcma.errors import ShardMismatchError
from tests.factories import tiny_metadata, tiny_row, write_shard, write_shards

pytestmark = pytest.mark.slow

METADATA = tiny_metadata(num_segments=2, fbanks=("demo",))
COLUMNS = ("clip_id", "split", "waveform", "fbank_demo", "fbank_demo_frames", "frames", "event_labels", "source")
SMALL = {"metadata": METADATA, "height": 8, "width": 8}


def read_all(root, manifest, split="train"):
    """All rows; or the error that names what is damaged."""
    store = ShardStore(str(root), manifest)
    return [store.row(split, number, COLUMNS) for number in range(len(store.clip_ids(split)))]


def shard(root, manifest, split="train", number=0):
    return root / "ave" / METADATA.fingerprint / manifest.splits[split][number].path


def test_every_changed_byte_is_found_or_changes_nothing(tmp_path):
    manifest = write_shards(tmp_path, splits={"train": 2}, rows_per_shard=2, seconds=0.2, **SMALL)
    whole, path = read_all(tmp_path, manifest), shard(tmp_path, manifest)
    data = path.read_bytes()
    content = pq.read_metadata(path)
    headers = [
        content.row_group(0).column(column).data_page_offset + byte
        for column in range(content.num_columns)
        for byte in range(40)
    ]
    rng = random.Random(14)
    anywhere = rng.sample(range(len(data)), 150)
    footer = rng.sample(range(len(data) - content.serialized_size - 8, len(data)), 150)
    messages = []
    for place in [*headers, *anywhere, *footer]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert read_all(tmp_path, manifest) == whole, f"byte {place} of {len(data)} changed a row in silence"
        except ShardMismatchError as error:
            messages.append(str(error))
    assert len(messages) > 600, "only what repeats itself in page headers does not count"
    place = str(path.relative_to(tmp_path))
    assert all(place in message and "preprocess with --verify" in message for message in messages)


def test_a_changed_page_is_named_when_it_is_read(tmp_path):
    manifest = write_shards(tmp_path, splits={"train": 2}, rows_per_shard=2, **SMALL)
    path = shard(tmp_path, manifest)
    data = bytearray(path.read_bytes())
    waveform = tiny_row(1, METADATA, height=8, width=8).waveform.tobytes()
    place = bytes(data).index(waveform) + 1000
    data[place : place + 40] = bytes(40)
    path.write_bytes(data)
    store = ShardStore(str(tmp_path), manifest)
    assert len(store.clip_ids("train")) == 2
    assert store.row("train", 1, ("fbank_demo", "fbank_demo_frames")).fbanks
    with pytest.raises(ShardMismatchError, match=rf"{path.name} is damaged \(could not verify page integrity, CRC"):
        store.row("train", 1, ("waveform",))


def test_another_split_in_place_of_this_one_is_refused(tmp_path):
    manifest = write_shards(tmp_path, splits={"train": 3, "test": 3}, **SMALL)
    test, train = shard(tmp_path, manifest, "test"), shard(tmp_path, manifest)
    train.write_bytes(test.read_bytes())
    with pytest.raises(ShardMismatchError, match=rf"{train.name} has \d+ bytes, but its manifest says \d+"):
        read_all(tmp_path, manifest)
    entry = replace(manifest.splits["train"][0], size_bytes=test.stat().st_size)
    same_size = replace(manifest, splits={**manifest.splits, "train": (entry,)})
    with pytest.raises(ShardMismatchError, match=r"is another file than its manifest says \(It holds rows of test"):
        read_all(tmp_path, same_size)


def test_another_shard_of_equal_size_is_refused(tmp_path):
    """Raw frames of other media under the same ids: everything agrees but the digest of the rows."""
    raw = tiny_metadata(num_segments=2, fbanks=("demo",), frame_encoding="raw")
    options = {"metadata": raw, "height": 8, "width": 8, "splits": {"train": 1}}
    manifest, other = write_shards(tmp_path / "a", **options), write_shards(tmp_path / "b", **options)
    row = tiny_row(0, raw, height=8, width=8)
    changed = replace(row, frames=[row.frames[0], bytes(len(row.frames[1]))])
    entry = write_shard([changed], raw, tmp_path / "b/ave/tiny0000", other.splits["train"][0].path)
    assert entry.size_bytes == manifest.splits["train"][0].size_bytes
    shutil.copy(shard(tmp_path / "b", other), shard(tmp_path / "a", manifest))
    with pytest.raises(ShardMismatchError, match=r"It holds rows with digest \w{12}, but its manifest says \w{12}"):
        read_all(tmp_path / "a", manifest)
