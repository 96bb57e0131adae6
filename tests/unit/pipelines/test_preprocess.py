"""Preprocessing without Ray: complete, resumable, never mixed; every lost clip is reported."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import pipelines.shards.execute
from pipelines.config import PreprocessConfig
from pipelines.preprocess import preprocess
from pipelines.progress import LogReporter
from pipelines.shards.decoder import DecodingProcess
from pipelines.shards.digest import RowsDigest
from stgcma.data.fbank import SAMPLE_RATE
from stgcma.data.index import SplitIndex
from stgcma.data.manifest import find_manifests
from stgcma.data.schema import ShardMetadata, decode_rows
from stgcma.data.store import ShardStore
from stgcma.errors import DatasetLayoutError, FailureBudgetExceededError
from tests.media import write_ave, write_clip

pytestmark = pytest.mark.slow

CLIPS = [
    ("-aaaaaaaaaa", "train"),
    ("bbbbbbbbbbb", "train"),
    ("ccccccccccc", "train"),
    ("ddddddddddd", "train"),
    ("eeeeeeeeeee", "val"),
    ("fffffffffff", "test"),
    ("bbbbbbbbbbb", "test"),
    ("ccccccccccc", "train"),
]
"""One id in train and in test, one twice in train: 6 files, 8 rows."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_ave(tmp_path_factory.mktemp("ave"), CLIPS)


@pytest.fixture
def config(source, tmp_path):
    return PreprocessConfig(
        dataset="ave",
        source=str(source),
        output=str(tmp_path / "shards"),
        fbank_specs=("demo",),
        num_workers=0,
        clips_per_shard=2,
        row_group_size=2,
    )


class Recorder(LogReporter):
    def __init__(self, interrupt_after=None):
        self.calls, self.notes, self.started, self.interrupt_after = [], [], None, interrupt_after

    def start(self, total, done):
        self.started = (total, done)

    def advance(self, made, lost):
        self.calls.append((made, lost))
        if len(self.calls) == self.interrupt_after:
            raise KeyboardInterrupt

    def note(self, text):
        self.notes.append(text)


def shard_files(result):
    return sorted(entry.path for entries in result.manifest.splits.values() for entry in entries)


def all_rows(result):
    return [row for path in shard_files(result) for row in decode_rows(pq.read_table(f"{result.uri}/{path}"))]


def copy_of(source, tmp_path):
    return shutil.copytree(source, tmp_path / "own")


def test_complete_run_writes_rows_stats_and_manifest(config):
    recorder = Recorder()
    result = preprocess(config, reporter=recorder)
    rows = all_rows(result)
    assert sorted(row.clip_id for row in rows) == sorted(f"{vid}:{k}" for k, (vid, _) in enumerate(CLIPS))
    assert {row.clip_id: row.split for row in rows} == {f"{vid}:{k}": s for k, (vid, s) in enumerate(CLIPS)}
    assert {split: result.manifest.num_rows(split) for split in result.manifest.splits} == {
        "train": 5,
        "val": 1,
        "test": 2,
    }
    assert recorder.started == (8, 0)
    assert sum(made for made, _ in recorder.calls) == 8
    assert any("1 ids are in train and in test" in note for note in recorder.notes)

    trained = [row.fbanks["demo"][:, : row.fbank_frames["demo"]].astype(float) for row in rows if row.split == "train"]
    values = np.concatenate([value.ravel() for value in trained])
    stats = result.manifest.stats["demo"]
    assert (stats.mean, stats.std) == pytest.approx((values.mean(), values.std()), rel=1e-9)
    assert stats.count == values.size
    stored = json.loads(Path(result.uri, "stats.json").read_text())
    assert stored["demo"]["mean"] == stats.mean

    found = find_manifests(config.output, "ave")
    assert found == {result.manifest.fingerprint: result.manifest}
    assert pq.read_table(f"{result.uri}/failures.parquet").num_rows == 0


def test_shards_say_what_they_are_and_digests_describe_the_rows(config):
    result = preprocess(config)
    for entries in result.manifest.splits.values():
        for entry in entries:
            file = pq.ParquetFile(f"{result.uri}/{entry.path}")
            metadata = ShardMetadata.decode(file.schema_arrow, entry.path)
            assert metadata == result.manifest.metadata
            assert file.metadata.num_rows == entry.num_rows
            assert all(file.metadata.row_group(k).num_rows <= 2 for k in range(file.num_row_groups))
            digest = RowsDigest(metadata)
            digest.update(decode_rows(file.read()))
            assert digest.hexdigest() == entry.digest


def check_index(result):
    """Every row of every shard is where the index says, and the index says nothing else."""
    store, listed = ShardStore(str(Path(result.uri).parents[1]), result.manifest), []
    for split, entries in result.manifest.splits.items():
        places = SplitIndex.of(pq.read_table(f"{result.uri}/index.parquet"), split).places
        assert store.clip_ids(split) == sorted(store.clip_ids(split))
        for number, (shard, group, row) in enumerate(places.tolist()):
            file = pq.ParquetFile(f"{result.uri}/{entries[shard].path}")
            stored = file.read_row_group(group, columns=["clip_id"])["clip_id"][row].as_py()
            assert stored == store.clip_ids(split)[number] == store.row(split, number, ("clip_id",)).clip_id
            listed.append(stored)
    assert sorted(listed) == sorted(row.clip_id for row in all_rows(result))


def test_the_index_says_where_every_row_lies_and_is_made_again(config):
    result = preprocess(replace(config, clips_per_shard=4))
    check_index(result)
    index = Path(result.uri, "index.parquet")
    good = index.read_bytes()
    index.write_bytes(good[:-1])
    repaired = preprocess(replace(config, clips_per_shard=4))
    assert repaired.repairs == ("index.parquet was not what the shards and settings say. It is written anew.",)
    assert index.read_bytes() == good
    index.unlink()
    assert preprocess(replace(config, clips_per_shard=4)).made_shards == 0
    assert index.read_bytes() == good


def test_other_readers_read_the_shards(config):
    import pandas
    import polars

    result = preprocess(config)
    path = f"{result.uri}/{result.manifest.splits['train'][0].path}"
    row = decode_rows(pq.read_table(path))[0]
    by_polars, by_pandas = polars.read_parquet(path), pandas.read_parquet(path)
    for first in (by_polars.to_dicts()[0], by_pandas.iloc[0].to_dict()):
        assert first["clip_id"] == row.clip_id
        assert list(first["frames"]) == list(row.frames)
        np.testing.assert_array_equal(np.frombuffer(first["waveform"], np.int16), row.waveform)
        fbank = np.frombuffer(first["fbank_demo"], np.float16).reshape(10, 48, 48)
        np.testing.assert_array_equal(fbank, row.fbanks["demo"])
        assert list(first["event_labels"]) == row.event_labels.tolist()


def test_a_file_with_several_rows_is_decoded_once(config, monkeypatch):
    decoded = []
    real = DecodingProcess.rows

    def counting(self, dataset, refs, *args):
        decoded.append(Path(refs[0].media_uri).name)
        return real(self, dataset, refs, *args)

    monkeypatch.setattr(DecodingProcess, "rows", counting)
    result = preprocess(config)
    assert sorted(decoded) == sorted({f"{video_id}.mp4" for video_id, _ in CLIPS})
    twice = [row for row in all_rows(result) if row.video_id == "bbbbbbbbbbb"]
    assert twice[0].frames == twice[1].frames
    assert {(row.split, row.category) for row in twice} == {("train", "Church bell"), ("test", "Bark")}


def test_second_run_does_nothing(config, monkeypatch):
    first = preprocess(config)
    monkeypatch.setattr(pipelines.shards.execute, "ShardWriter", None)
    second = preprocess(replace(config, num_workers=4))  # nor does it start Ray
    assert second.nothing_to_do
    assert (second.made_shards, second.reused_shards) == (0, first.made_shards)
    assert second.manifest == first.manifest


@pytest.mark.parametrize("interrupt_after", [1, 2, 3, 5])
def test_interrupted_run_goes_on_and_ends_equal(config, tmp_path, interrupt_after):
    whole = preprocess(replace(config, output=str(tmp_path / "whole")))
    with pytest.raises(KeyboardInterrupt):
        preprocess(config, reporter=Recorder(interrupt_after))
    assert find_manifests(config.output, "ave") == {}
    recorder = Recorder()
    resumed = preprocess(config, reporter=recorder)
    assert resumed.manifest.digest == whole.manifest.digest
    assert resumed.manifest.splits == whole.manifest.splits
    assert resumed.made_shards + resumed.reused_shards == whole.made_shards
    assert resumed.reused_shards == {1: 0, 2: 1, 3: 2, 5: 3}[interrupt_after]
    assert sum(made for made, _ in recorder.calls) == 8 - recorder.started[1]


def test_leftovers_of_a_killed_run_are_removed(config):
    with pytest.raises(KeyboardInterrupt):
        preprocess(config, reporter=Recorder(3))
    folder = next(Path(config.output, "ave").iterdir())
    leftover = folder / "train" / "part-00000-of-00003.parquet.999.tmp"
    leftover.parent.mkdir(exist_ok=True)
    leftover.write_bytes(b"half")
    preprocess(config)
    assert not leftover.exists()


def test_damaged_shard_is_made_again(config):
    first = preprocess(config)
    path = f"{first.uri}/{first.manifest.splits['val'][0].path}"
    with open(path, "ab") as file:
        file.truncate(100)
    again = preprocess(config)
    assert again.made_shards == 1
    assert again.manifest.digest == first.manifest.digest
    assert pq.read_table(path).num_rows == 1


def test_other_settings_go_to_another_folder(config):
    first = preprocess(config)
    second = preprocess(replace(config, channel_mode="left"))
    assert second.uri != first.uri
    assert second.made_shards == first.made_shards
    assert set(find_manifests(config.output, "ave")) == {first.manifest.fingerprint, second.manifest.fingerprint}


def test_limit_and_default_filter_banks(config):
    result = preprocess(replace(config, limit=1, fbank_specs=()))
    assert {split: result.manifest.num_rows(split) for split in result.manifest.splits} == {
        "train": 1,
        "val": 1,
        "test": 1,
    }
    assert result.manifest.metadata.fbank_specs == ("clip", "swin")


def test_the_budget_stops_the_job_with_a_table_and_a_larger_one_does_not(config, source, tmp_path):
    own = copy_of(source, tmp_path)
    (own / "AVE" / "eeeeeeeeeee.mp4").write_bytes(b"")
    write_clip(own / "AVE" / "ddddddddddd.mp4", seconds=10, audio_codec=None)
    (own / "AVE" / "fffffffffff.mp4").unlink()
    config = replace(config, source=str(own))
    with pytest.raises(FailureBudgetExceededError) as error:
        preprocess(config)
    message = str(error.value)
    for part in ("1 of 5 in train (20.0%)", "1 of 1 in val", "1 of 2 in test", "empty file", "no audio stream"):
        assert part in message
    assert "media file missing" in message
    assert "larger --failure-budget" in message
    assert find_manifests(config.output, "ave") == {}

    accepted = preprocess(replace(config, failure_budget=1.0))
    assert accepted.nothing_to_do  # the shards were made; only the manifest was missing
    assert accepted.manifest.num_failures == {"test": 1, "train": 1, "val": 1}
    assert accepted.manifest.splits["val"] == ()
    check_index(accepted)
    listed = pq.read_table(f"{accepted.uri}/failures.parquet").to_pylist()
    assert [(row["clip_id"], row["stage"], row["reason"]) for row in listed] == [
        ("ddddddddddd:3", "probe", "no audio stream"),
        ("eeeeeeeeeee:4", "probe", "empty file"),
        ("fffffffffff:5", "probe", "media file missing"),
    ]


def test_repaired_files_are_picked_up_and_only_their_shards_made(config, source, tmp_path):
    own = copy_of(source, tmp_path)
    good = (own / "AVE" / "eeeeeeeeeee.mp4").read_bytes()
    (own / "AVE" / "eeeeeeeeeee.mp4").write_bytes(good[: len(good) // 2])
    config = replace(config, source=str(own), failure_budget=1.0)
    broken = preprocess(config)
    assert broken.manifest.num_failures["val"] == 1
    (own / "AVE" / "eeeeeeeeeee.mp4").write_bytes(good)
    repaired = preprocess(config)
    assert repaired.made_shards == 1
    assert repaired.uri == broken.uri
    assert repaired.manifest.num_failures["val"] == 0
    whole = preprocess(replace(config, source=str(source), output=str(tmp_path / "whole")))
    assert repaired.manifest.digest == whole.manifest.digest


def test_full_disk_stops_the_run_and_leaves_no_half_file(config, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        preprocess(config)
    assert not list(Path(config.output).rglob("*.parquet*"))


def test_frames_and_sound_of_a_row_share_one_timeline(config):
    for row in all_rows(preprocess(config)):
        assert len(row.waveform) == round(row.duration_seconds * SAMPLE_RATE)
        assert row.duration_seconds == pytest.approx(10.0, abs=0.01)
        assert row.frame_times_seconds[0] == 0
        assert row.frame_times_seconds[-1] == pytest.approx(9.9, abs=0.01)


def test_clips_of_another_length_are_counted_and_noted(config, tmp_path):
    root = write_ave(tmp_path / "lengths", [("aaaaaaaaaaa", "train"), ("bbbbbbbbbbb", "val"), ("ccccccccccc", "test")])
    for video_id, seconds in (("aaaaaaaaaaa", 12), ("bbbbbbbbbbb", 8), ("ccccccccccc", 20)):
        write_clip(root / "AVE" / f"{video_id}.mp4", seconds=seconds)
    result = preprocess(replace(config, source=str(root), failure_budget=1.0))
    assert [(f.clip_id, f.reason) for f in result.failures] == [("ccccccccccc:2", "clip length differs")]
    assert {row.clip_id: row.source.length_note for row in all_rows(result)} == {
        "aaaaaaaaaaa:0": "cut from 12.00 s",
        "bbbbbbbbbbb:1": "filled up from 8.00 s",
    }
    assert "1 clips were cut to the length of the dataset's clips" in result.manifest.notes
    assert "1 clips were filled up to the length of the dataset's clips" in result.manifest.notes


def test_empty_source_is_an_error(config, tmp_path):
    root = write_ave(tmp_path / "empty", [])
    with pytest.raises(DatasetLayoutError, match="lists no clips"):
        preprocess(replace(config, source=str(root)))
