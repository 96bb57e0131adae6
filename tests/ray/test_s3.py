"""Clips, shards and runs in a bucket of a real S3 server.

The results must be those on a disk: the same digest of the shards and bit-equal trained weights.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from jobs.cli import main
from jobs.runs.configfile import load_run_config
from jobs.runs.folder import BEST, LAST, RESULT, RunFolder, open_run
from pipelines.storage import Storage
from pipelines.synthetic.ave_layout import write_synthetic_ave
from pipelines.synthetic.configs import SyntheticConfig
from stgcma.data.batch import AVBatch
from stgcma.data.dataset import build_loaders
from stgcma.errors import ConfigError
from stgcma.models.backbones import backbone_spec
from stgcma.tasks import build_task
from stgcma.tensor_file import decode_tensors
from stgcma.training.checkpoint import decode
from stgcma.training.trained_model import decode_model
from tests.ray.services import ROOT, s3_server

pytestmark = pytest.mark.ray

BUCKET = "stgcma"
RECIPE = str(ROOT / "jobs" / "recipes" / "demo" / "clip_vit_demo.yaml")
SHORT = (
    "--set",
    "model.drop_path_rate=0",
    "--set",
    "model.head_dropout=0",
    "--set",
    "optim.epochs=2",
    "--set",
    "optim.batch_size=4",
    "--tracking",
    "none",
    "--device",
    "cpu",
)


@dataclass(frozen=True)
class Places:
    """Folders on a disk and in a bucket with the same synthetic clips."""

    disk: str
    bucket: str


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket. Only the ``AWS_*`` variables tell this process and its children about the server."""
    with s3_server() as environment, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        for printed in (f"{BUCKET}: created", f"{BUCKET}: exists"):
            script = [sys.executable, str(ROOT / "infra" / "create_buckets.py"), BUCKET]
            assert subprocess.run(script, capture_output=True, text=True, check=True).stdout.strip() == printed
        yield f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def places(tmp_path_factory, bucket) -> Places:
    """Write 8 training clips and 2 clips of each other split to ``raw/ave``."""
    disk = tmp_path_factory.mktemp("disk")
    raw = disk / "raw" / "ave"
    write_synthetic_ave(SyntheticConfig(num_train=8, num_val=2, num_test=2, num_workers=1), raw)
    there = Storage(f"{bucket}/raw/ave")
    for path in raw.rglob("*.*"):
        there.write_bytes(path.relative_to(raw).as_posix(), path.read_bytes())
    return Places(disk=str(disk), bucket=bucket)


@pytest.fixture(scope="module")
def on_disk(places) -> dict[str, Any]:
    """Shards on the disk, made in this process."""
    return preprocess(places.disk, workers=0)


@pytest.fixture(scope="module")
def in_bucket(places) -> dict[str, Any]:
    """Shards in the bucket, made by Ray workers from the files in the bucket."""
    return preprocess(places.bucket, workers=2)


@pytest.fixture(scope="module")
def trained_on_disk(places, on_disk) -> dict[str, Any]:
    return train(places.disk, "runs")


def stgcma_jobs(*words: str) -> dict[str, Any]:
    """The output of a command with ``--json``. It runs in this process to save the imports."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as end:
        main([*words, "--json"])
    assert not end.value.code, f"stgcma-jobs {' '.join(words)} ended with {end.value.code}"
    return json.loads(printed.getvalue())


def preprocess(root: str, *, workers: int) -> dict[str, Any]:
    return stgcma_jobs(
        "preprocess",
        "--dataset",
        "ave",
        "--source",
        f"{root}/raw/ave",
        "--output",
        f"{root}/shards",
        "--fbank",
        "demo",
        "--clips-per-shard",
        "3",
        "--num-workers",
        str(workers),
    )


def train(root: str, output: str, *options: str) -> dict[str, Any]:
    return stgcma_jobs("train", RECIPE, *SHORT, "--shards", f"{root}/shards", "--output", f"{root}/{output}", *options)


def assert_equal_runs(first: str, second: str) -> None:
    """Check that weights, Adam and loop state are bit-equal except for the elapsed time, and that metrics are equal."""
    folders = [RunFolder(first), RunFolder(second)]
    for name in (BEST, LAST):
        one, other = (decode_tensors(folder.read(name), name)[0] for folder in folders)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    one_state, other_state = (decode(folder.read(LAST), LAST)[1] for folder in folders)
    assert replace(one_state, elapsed_seconds=0) == replace(other_state, elapsed_seconds=0)
    one_info, other_info = (decode_model(folder.read(BEST), BEST)[1] for folder in folders)
    assert one_info == other_info
    assert folders[0].read_json(RESULT)["metrics"] == folders[1].read_json(RESULT)["metrics"]


@pytest.mark.parametrize("kind", ["disk", "bucket"])
def test_a_folder_behaves_alike_on_disk_and_in_a_bucket(kind, bucket, tmp_path):
    storage = Storage(f"{bucket}/a folder (ä)" if kind == "bucket" else str(tmp_path / "a folder (ä)"))
    assert storage.is_local == (kind == "disk")
    assert (storage.exists("x"), storage.size("x")) == (False, None)
    assert (storage.list_files(recursive=True), storage.list_folders()) == ({}, [])

    storage.write_bytes("clips/-leading dash & spâce.mp4", b"123")
    storage.write_bytes("clips/deep/empty", b"")
    (storage / "clips").write_bytes("top", b"\xef\xbb\xbfh\xc3\xa9")
    large = bytes(range(256)) * (11 << 12)  # 11 MiB: more than one part of an upload
    storage.write_bytes("large", large)
    assert storage.list_files() == {"large": len(large)}
    assert storage.list_files("clips") == {"-leading dash & spâce.mp4": 3, "top": 6}
    assert storage.list_files("clips", recursive=True) == {"-leading dash & spâce.mp4": 3, "deep/empty": 0, "top": 6}
    assert (storage.list_folders(), storage.list_folders("clips")) == (["clips"], ["deep"])
    assert storage.size("clips") is None, "a folder is not a file"
    assert storage.read_bytes("large") == large
    assert storage.read_bytes("clips/deep/empty") == b""
    assert storage.read_text("clips/top") == "hé"
    with storage.local_copy("clips/-leading dash & spâce.mp4") as path:
        assert path.read_bytes() == b"123"
        assert path.suffix == ".mp4"

    storage.write_bytes("clips/top", b"new")
    assert storage.read_bytes("clips/top") == b"new"
    with pytest.raises(ZeroDivisionError), storage.new_file("half") as path:  # noqa: PT012
        path.write_bytes(b"half of")
        1 / 0  # noqa: B018
    assert not storage.exists("half"), "an unfinished file must not appear"
    storage.delete("clips/top")
    storage.delete("never there")
    assert "top" not in storage.list_files("clips")
    for missing in (storage.read_bytes, lambda path: storage.local_copy(path).__enter__()):
        with pytest.raises(FileNotFoundError, match=r"no such\.mp4"):
            missing("no such.mp4")


def test_shards_made_in_a_bucket_by_ray_equal_those_made_on_disk(places, on_disk, in_bucket):
    assert in_bucket["uri"] == f"{places.bucket}/shards/ave/{on_disk['fingerprint']}"
    assert in_bucket["digest"] == on_disk["digest"]
    assert in_bucket["clips"] == {"train": 8, "val": 2, "test": 2}
    assert in_bucket["made_shards"] == on_disk["made_shards"] == 5
    assert in_bucket["fbank_stats"] == on_disk["fbank_stats"]
    names = [sorted(Storage(result["uri"]).list_files(recursive=True)) for result in (on_disk, in_bucket)]
    assert names[0] == names[1], "the same files and no temporary ones"


def test_a_second_run_in_a_bucket_does_nothing_and_a_lost_shard_is_made_again(places, in_bucket):
    again = preprocess(places.bucket, workers=2)
    assert (again["made_shards"], again["nothing_to_do"], again["digest"]) == (0, True, in_bucket["digest"])
    storage = Storage(in_bucket["uri"])
    (lost, *_) = [path for path in storage.list_files(recursive=True) if path.startswith("train/")]
    storage.delete(lost)
    repaired = preprocess(places.bucket, workers=0)
    assert (repaired["made_shards"], repaired["reused_shards"]) == (1, 4)
    assert repaired["digest"] == in_bucket["digest"]


def test_training_from_a_bucket_into_a_bucket_survives_an_outage_and_equals_the_run_on_disk(
    places, in_bucket, trained_on_disk, monkeypatch, capsys
):
    write, outages = RunFolder.write, iter([False, True])

    def unreliable(folder: RunFolder, name: str, data: bytes) -> None:
        if name == LAST and next(outages, False):
            raise OSError("AWS Error SLOW_DOWN")
        write(folder, name, data)

    monkeypatch.setattr(RunFolder, "write", unreliable)
    with pytest.raises(AssertionError, match="ended with 1"):
        train(places.bucket, "runs")
    assert "SLOW_DOWN" in capsys.readouterr().err
    run = f"{places.bucket}/runs/{trained_on_disk['run_name']}"
    assert RunFolder(run).exists(LAST)
    assert not RunFolder(run).exists(RESULT)

    resumed = train(places.bucket, "runs")
    assert resumed["run"] == run
    assert resumed["was_complete"] is False
    assert_equal_runs(run, trained_on_disk["run"])
    assert len(RunFolder(run).read_json("run.json")["sessions"]) == 2
    assert train(places.bucket, "runs")["was_complete"] is True


def test_a_run_in_a_bucket_is_evaluated_in_the_bucket(places, in_bucket):
    trained = train(places.bucket, "runs")
    evaluated = stgcma_jobs("evaluate", trained["run"], "--split", "test", "--device", "cpu")
    assert evaluated["num_clips"] == 2
    assert evaluated["metrics"]["accuracy"] == trained["metrics"]["test/accuracy"]
    folder = open_run(trained["run"])
    assert folder.read("evaluation/test/confusion.png").startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=f"Runs beside it: {trained['run_name']}"):
        open_run(f"{places.bucket}/runs/of-another-name")


def test_ray_train_workers_read_and_write_the_bucket(places, in_bucket, trained_on_disk):
    """Two workers sum gradients in another order, so their weights agree only up to rounding."""
    trained = train(places.bucket, "runs-of-two", "--num-workers", "2")
    (one, _), (two, _) = (decode(RunFolder(run).read(LAST), LAST) for run in (trained_on_disk["run"], trained["run"]))
    weights = [key for key in one if key.startswith("model/")]
    for key in weights:
        torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=1e-4)
    rows = [row["kind"] for row in RunFolder(trained["run"]).rows()]
    assert rows.count("epoch") == 2
    assert rows[-1] == "final"


def test_a_bucket_that_is_not_there_is_named(places, capsys):
    with pytest.raises(AssertionError, match=r"ended with [12]"):
        stgcma_jobs("preprocess", "--dataset", "ave", "--source", "s3://no-such-bucket/ave", "--output", places.disk)
    assert "no-such-bucket" in capsys.readouterr().err


def test_a_decoding_process_opens_its_own_connection(places, in_bucket):
    """Object store clients do not survive a fork, so the loader's process is spawned. It must read the same batch."""
    config = load_run_config(RECIPE, ["optim.batch_size=4"])

    def first_batch(loader_workers: int) -> AVBatch:
        data = replace(config.data, shards=f"{places.bucket}/shards", loader_workers=loader_workers)
        spec = backbone_spec(config.model.backbone)
        reading = build_task("ave", config.model).reading(spec)
        return next(iter(build_loaders(data, config.optim, spec, reading, ["train"], training=True)["train"].epoch(0)))

    here, there = first_batch(0), first_batch(1)
    assert here.clip_ids == there.clip_ids
    assert torch.equal(here.frames, there.frames)
    assert torch.equal(here.fbank, there.fbank)
