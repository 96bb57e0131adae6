"""Folders and buckets behave alike: whole files or none, listings, local copies."""

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

import stgcma
from pipelines.config import PreprocessConfig
from pipelines.preprocess import preprocess
from pipelines.storage import Storage
from stgcma.data.manifest import find_manifests, open_filesystem
from stgcma.errors import CheckpointError
from stgcma.models.parameters import frozen_sha256
from stgcma.training.trained_model import encode_model
from tests.media import write_ave
from tests.paths import ROOT
from tests.s3_server import s3_server

pytestmark = pytest.mark.slow


def exercise(storage):
    """The same assertions for every kind of storage."""
    storage.write_bytes("a/one.json", b"{}")
    storage.write_bytes("a/b/-two ü.bin", b"12345")
    assert storage.size("a/b/-two ü.bin") == 5
    assert storage.size("a/none") is None
    assert storage.size("a") is None
    assert storage.list_files("a") == {"one.json": 2}
    assert storage.list_files(recursive=True) == {"a/b/-two ü.bin": 5, "a/one.json": 2}
    assert storage.list_files("absent") == {}
    assert storage.list_folders("a") == ["b"]
    assert (storage / "a").read_text("one.json") == "{}"
    with storage.local_copy("a/b/-two ü.bin") as path:
        assert path.is_absolute()
        assert path.read_bytes() == b"12345"
    with pytest.raises(FileNotFoundError), storage.local_copy("a/none"):
        pass
    with pytest.raises(ZeroDivisionError), storage.new_file("a/half") as path:
        _ = path.write_bytes(b"half") / 0
    assert not storage.exists("a/half")
    storage.write_bytes("a/one.json", b"[1]")
    assert storage.read_bytes("a/one.json") == b"[1]"
    storage.delete("a/one.json")
    storage.delete("a/one.json")
    assert not storage.exists("a/one.json")


def interrupt_an_upload(storage, monkeypatch):
    """A second Ctrl-C in the middle of a copy leaves the old object, and nothing beside it."""
    storage.write_bytes("weights/last", b"old" * 100)

    def half(source, target, length):
        target.write(source.read(length))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.storage.shutil.copyfileobj", half)
        with pytest.raises(KeyboardInterrupt):
            storage.write_bytes("weights/last", b"new" * (2 << 20))
    assert storage.list_files("weights") == {"last": 300}
    assert storage.read_bytes("weights/last") == b"old" * 100


def load_a_model(storage):
    """``stgcma.load`` reads a weight file, and a run folder, from a bucket as from a disk."""
    config = stgcma.ModelConfig(backbone="clip_vit_demo", pretrained="builtin", adaptation=stgcma.STGCMA(size="tiny"))
    task = stgcma.build_task("ave", config)
    model = stgcma.build_model(task)
    info = stgcma.ModelInfo(task="ave", model=config, backbone_sha256=frozen_sha256(model), epoch=3)
    storage.write_bytes("run/checkpoints/best.safetensors", encode_model(model, info))
    for place in ("run/checkpoints/best.safetensors", "run"):
        assert stgcma.load(f"{storage.uri}/{place}").info == info
    with pytest.raises(CheckpointError, match="No weights at"):
        stgcma.load(f"{storage.uri}/elsewhere")


def lock_twice(storage):
    """Only one block holds a lock at a time; after it, the next one gets the lock."""
    with storage.lock("a/only.lock") as first, storage.lock("a/only.lock") as second:
        assert (first, second) == (True, not storage.is_local)
    with storage.lock("a/only.lock") as third:
        assert third


def test_folder(tmp_path):
    exercise(Storage(str(tmp_path)))
    lock_twice(Storage(str(tmp_path)))
    assert not list(tmp_path.rglob("*.tmp"))


def test_text_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "list.txt").write_bytes("\ufeffBark&é".encode())
    assert Storage(str(tmp_path)).read_text("list.txt") == "Bark&é"


def test_relative_and_home_folders_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Storage("data/shards").full_path("x") == str(tmp_path / "data" / "shards" / "x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Storage("~/shards").full_path() == str(tmp_path / "shards")


@pytest.mark.slow
def test_bucket_holds_source_and_shards(tmp_path, monkeypatch):
    """From a bucket into a bucket, twice; the same digest as from disk to disk; read back by the manifest's finder."""
    local = write_ave(tmp_path / "ave", [("-aaaaaaaaaa", "train"), ("bbbbbbbbbbb", "val"), ("ccccccccccc", "test")])
    with s3_server(monkeypatch) as bucket:
        exercise(Storage(f"{bucket}/exercise"))
        interrupt_an_upload(Storage(f"{bucket}/exercise"), monkeypatch)
        lock_twice(Storage(f"{bucket}/exercise"))
        load_a_model(Storage(f"{bucket}/exercise"))
        source = Storage(f"{bucket}/raw/ave")
        for path in sorted(local.rglob("*")):
            if path.is_file():
                source.write_bytes(str(path.relative_to(local)), path.read_bytes())
        config = PreprocessConfig(
            dataset="ave", source=source.uri, output=f"{bucket}/shards", fbank_specs=("demo",), num_workers=0
        )
        first = preprocess(config)
        assert first.made_shards == 3
        assert preprocess(config).nothing_to_do
        on_disk = preprocess(
            PreprocessConfig(
                dataset="ave", source=str(local), output=str(tmp_path / "out"), fbank_specs=("demo",), num_workers=0
            )
        )
        assert first.manifest.digest == on_disk.manifest.digest
        assert find_manifests(f"{bucket}/shards", "ave") == {first.manifest.fingerprint: first.manifest}
        filesystem, root = open_filesystem(first.uri)
        path = first.manifest.splits["train"][0].path
        assert pq.read_table(f"{root}/{path}", filesystem=filesystem).num_rows == 1
        source.delete("AVE/bbbbbbbbbbb.mp4")
        missing = preprocess(
            PreprocessConfig(
                dataset="ave",
                source=source.uri,
                output=f"{bucket}/shards",
                fbank_specs=("demo",),
                num_workers=0,
                failure_budget=1,
            )
        )
        assert (missing.made_shards, [f.reason for f in missing.failures]) == (1, ["media file missing"])


def test_command_reads_defaults_and_prints_json(tmp_path):
    write_ave(tmp_path / "data" / "raw" / "ave")
    command = [sys.executable, "-m", "jobs.cli", "preprocess", "--dataset", "ave", "--fbank", "demo", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        return subprocess.run(
            [*command, "--num-workers", "0", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    done = run()
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["clips"] == {"train": 1, "val": 1, "test": 1}
    assert printed["uri"].startswith("data/shards/ave/")
    assert json.loads(run().stdout)["nothing_to_do"] is True

    (tmp_path / "data" / "raw" / "ave" / "AVE" / "bbbbbbbbbbb.mp4").write_bytes(b"")
    failed = run()
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "empty file" in failed.stderr
    assert "1 of 1 in val (100.0%)" in failed.stderr
    assert run("--channel-mode", "right").returncode == 2
