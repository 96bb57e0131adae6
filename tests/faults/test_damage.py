"""Real files, damaged: each is named and repaired, and no command answers from it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load

from jobs import cli
from jobs.runs.folder import BEST, LAST
from jobs.runs.progress import Silent
from jobs.runs.session import train_run
from stgcma.data.manifest import ShardManifest
from stgcma.data.store import ShardStore
from tests.media import write_ave
from tests.unit.jobs.helpers import tiny_config, tiny_shards

pytestmark = pytest.mark.slow

CLIPS = [(letter * 11, split) for letter, split in zip("abcdef", ("train",) * 3 + ("val", "test", "test"), strict=True)]
COLUMNS = ("frames", "waveform", "fbank_demo", "fbank_demo_frames", "event_labels", "source")


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ave(tmp_path_factory.mktemp("damage") / "ave", CLIPS)


@pytest.fixture(scope="module")
def made(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards as they should be."""
    output = tmp_path_factory.mktemp("made") / "shards"
    with pytest.raises(SystemExit) as end:
        cli.main(preprocess_arguments(clips, output))
    assert not end.value.code
    return output


def preprocess_arguments(clips: Path, output: Path, *more: str) -> list[str]:
    fixed = ["--dataset", "ave", "--fbank", "demo", "--num-workers", "0", "--clips-per-shard", "2", "--json"]
    return ["preprocess", "--source", str(clips), "--output", str(output), *fixed, *more]


class Prepared:
    """A copy of the shards that a test damages."""

    def __init__(self, root: Path, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.clips, self.capsys = root, clips, capsys
        (self.folder,) = (root / "ave").iterdir()
        self.manifest = ShardManifest.from_json((self.folder / "manifest.json").read_text(), "manifest.json")
        self.rows = self.read()

    def shard(self, split: str) -> Path:
        return self.folder / self.manifest.splits[split][0].path

    def read(self) -> list:
        store = ShardStore(str(self.root), self.manifest)
        return [store.row(s, n, COLUMNS) for s in self.manifest.splits for n in range(len(store.clip_ids(s)))]

    def preprocess(self, *more: str) -> dict:
        code, out, err = command(self.capsys, *preprocess_arguments(self.clips, self.root, *more))
        assert code == 0, err
        return {**json.loads(out), "stderr": err}

    def require_whole(self) -> None:
        again = ShardManifest.from_json((self.folder / "manifest.json").read_text(), "manifest.json")
        assert again == self.manifest
        assert self.read() == self.rows
        assert self.preprocess("--verify")["nothing_to_do"]


@pytest.fixture
def prepared(made: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Prepared:
    return Prepared(shutil.copytree(made, tmp_path / "shards"), clips, capsys)


def change(path: Path, place: int, num_bytes: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[place : place + num_bytes] = bytes(byte ^ 0xFF for byte in data[place : place + num_bytes])
    path.write_bytes(data)


@pytest.mark.parametrize("place", ["rows", "footer"])
def test_forty_changed_bytes_of_a_shard_are_repaired_by_verify(prepared, place):
    path = prepared.shard("test")
    change(path, len(path.read_bytes()) // 2 if place == "rows" else len(path.read_bytes()) - 1000, 40)
    assert prepared.preprocess()["nothing_to_do"], "the size is the same, and no row is read"
    result = prepared.preprocess("--verify")
    assert (result["made_shards"], len(result["repairs"])) == (1, 1)
    assert f"{path.relative_to(prepared.folder)} is damaged" in result["repairs"][0]
    assert "Shard test-00000 is made anew." in result["stderr"]
    prepared.require_whole()


def test_a_test_shard_in_place_of_a_train_shard_is_named_and_made_anew(prepared):
    shutil.copy(prepared.shard("test"), prepared.shard("train"))
    result = prepared.preprocess()
    assert result["made_shards"] == 1
    assert "train/part-00000-of-00002.parquet has" in result["repairs"][0]
    prepared.require_whole()


@pytest.mark.parametrize("file", ["manifest.json", "stats.json", "failures.parquet", "_state/train-00000.json"])
@pytest.mark.parametrize("damage", ["cut off", "empty", "changed"])
def test_a_torn_file_beside_the_shards_is_written_anew_and_named(prepared, file, damage):
    path = prepared.folder / file
    data = path.read_bytes()
    changed = data.replace(b'"num_rows": 2', b'"num_rows": 1').replace(b'"mean": -', b'"mean": ')
    if file == "failures.parquet":
        changed = data.replace(b"clip_id", b"clip_xx")
    assert changed != data
    path.write_bytes({"cut off": data[: len(data) // 2], "empty": b"", "changed": changed}[damage])
    result = prepared.preprocess()
    assert result["made_shards"] == (1 if file.startswith("_state") else 0)
    (repair,) = result["repairs"]
    assert file in repair
    assert repair in result["stderr"]
    prepared.require_whole()


@pytest.mark.parametrize("damage", ["mean", "class", "setting", "cut off"])
def test_no_run_reads_a_changed_manifest(prepared, damage):
    path = prepared.folder / "manifest.json"
    values = json.loads(path.read_text())
    if damage == "mean":
        values["stats"]["demo"]["mean"] += 1.0
    elif damage == "class":
        values["class_names"][:2] = values["class_names"][1::-1]
    elif damage == "setting":
        values["settings"]["gain"] = 2.0
    path.write_text(json.dumps(values)[: -40 if damage == "cut off" else None])
    code, _, err = command(prepared.capsys, "train", "jobs/recipes/demo/clip_vit_demo.yaml", *train_options(prepared))
    assert code == 2
    assert f"{path} " in err
    assert "writes the manifest anew from the shards" in err
    assert [file in repair for file, repair in zip(["manifest.json"], prepared.preprocess()["repairs"], strict=True)]
    prepared.require_whole()


def train_options(prepared: Prepared) -> list[str]:
    return ["--shards", str(prepared.root), "--output", str(prepared.root.parent / "runs"), "--tracking", "none"]


def test_moving_the_media_changes_nothing(prepared, tmp_path):
    prepared.clips = shutil.copytree(prepared.clips, tmp_path / "elsewhere")
    assert prepared.preprocess()["nothing_to_do"]
    again = ShardManifest.from_json((prepared.folder / "manifest.json").read_text(), "manifest.json")
    assert again.source == str(prepared.clips)
    assert again.digest == prepared.manifest.digest


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs that differ in their seed."""
    root = tmp_path_factory.mktemp("trained")
    shards = tiny_shards(root / "shards")
    for seed in (0, 1):
        config = tiny_config(shards, optim__epochs=1, optim__seed=seed)
        train_run(config, output=str(root / "runs"), tracking="none", device="cpu", reporter=Silent())
    return root / "runs"


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of them."""
    first, second = sorted(path for path in shutil.copytree(trained, tmp_path / "runs").iterdir() if path.is_dir())
    return first, second


def flip_exponent(run: Path, other: Path) -> None:
    data = bytearray((run / BEST).read_bytes())
    data[-1] ^= 0x40
    (run / BEST).write_bytes(data)


def swap_tensors(run: Path, other: Path) -> None:
    data = (run / BEST).read_bytes()
    tensors = load(data)
    first, second = next(
        (a, b) for a in tensors for b in tensors if a < b and len(a) == len(b) and tensors[a].shape == tensors[b].shape
    )
    one, two, place = f'"{first}":'.encode(), f'"{second}":'.encode(), b"\0" * (len(first) + 3)
    (run / BEST).write_bytes(data.replace(one, place).replace(two, one).replace(place, two))


def take_another_runs_weights(run: Path, other: Path) -> None:
    shutil.copy(other / BEST, run / BEST)


def edit_config(run: Path, other: Path) -> None:
    text = (run / "config.yaml").read_text()
    assert "learning_rate: 0.001" in text
    (run / "config.yaml").write_text(text.replace("learning_rate: 0.001", "learning_rate: 0.002", 1))


def take_another_run(run: Path, other: Path) -> None:
    for name in (BEST, "config.yaml", "run.json"):
        shutil.copy(other / name, run / name)


def edit_facts(run: Path, other: Path) -> None:
    facts = json.loads((run / "run.json").read_text())
    facts["data"]["digest"] = "0" * 64
    (run / "run.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (flip_exponent, "best.safetensors is damaged"),
        (swap_tensors, "best.safetensors is damaged"),
        (take_another_runs_weights, "holds weights of the run 'tiny-"),
        (edit_config, "but the configuration in config.yaml has fingerprint"),
        (take_another_run, "which its name does not end with"),
        (edit_facts, "holds weights trained on data with digest"),
    ],
)
def test_evaluate_refuses_what_is_not_of_one_run_and_touches_nothing(runs, capsys, damage, problem):
    run, other = runs
    damage(run, other)
    before = {path: path.read_bytes() for path in (run / "evaluation").rglob("*") if path.is_file()}
    code, out, err = command(capsys, "evaluate", str(run), "--device", "cpu")
    assert (code, out) == (2, "")
    assert problem in err
    assert str(run) in err
    assert {path: path.read_bytes() for path in (run / "evaluation").rglob("*") if path.is_file()} == before


def test_evaluate_accepts_a_whole_run_by_any_path(runs, capsys, monkeypatch):
    run, _ = runs
    monkeypatch.chdir(run)
    code, _, err = command(capsys, "evaluate", ".", "--device", "cpu")
    assert code == 0, err


def test_training_does_not_go_on_from_a_damaged_checkpoint(runs, capsys):
    run, _ = runs
    (run / "result.json").unlink()
    data = bytearray((run / LAST).read_bytes())
    data[-1] ^= 0x40
    (run / LAST).write_bytes(data)
    more = ("--output", str(run.parent), "--tracking", "none", "--device", "cpu")
    code, _, err = command(capsys, "train", str(run / "config.yaml"), *more)
    assert code == 2
    assert "last.safetensors is damaged" in err
    assert "Restore a copy, or delete it to start again" in err


def test_copied_media_are_compared_once_and_no_shard_is_made(prepared, tmp_path):
    """A copy has new modification times: the content is compared, and the new times are remembered."""
    prepared.clips = shutil.copytree(prepared.clips, tmp_path / "copy", copy_function=shutil.copyfile)
    result = prepared.preprocess()
    assert result["nothing_to_do"]
    assert "comparing their content" in result["stderr"]
    assert "comparing their content" not in prepared.preprocess()["stderr"]


@pytest.mark.parametrize("keeps_time", [False, True])
def test_a_replaced_clip_of_equal_size_makes_its_shard_anew(prepared, tmp_path, keeps_time):
    prepared.clips = shutil.copytree(prepared.clips, tmp_path / "own")
    clip = prepared.clips / "AVE" / f"{CLIPS[0][0]}.mp4"
    times = clip.stat()
    data = clip.read_bytes()
    index = data.rindex(b"mdat") + 4  # a byte of the sound or pictures, not of the index
    changed = data[:index] + bytes(byte ^ 1 for byte in data[index : index + 1]) + data[index + 1 :]
    clip.write_bytes(changed)
    if keeps_time:
        os.utime(clip, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert prepared.preprocess("--failure-budget", "1")["nothing_to_do"], "nothing shows without reading"
    result = prepared.preprocess("--failure-budget", "1", *(["--verify"] if keeps_time else []))
    assert result["made_shards"] == 1
    assert f"AVE/{clip.name} has other content than when its shard was made." in result["stderr"]
    assert "Shard train-00000 is made anew." in result["stderr"]


def test_verify_says_that_everything_is_as_it_was_written(prepared, capsys):
    arguments = [word for word in preprocess_arguments(prepared.clips, prepared.root, "--verify") if word != "--json"]
    code, out, _ = command(capsys, *arguments)
    assert code == 0
    assert "Nothing to do: all 4 shards are as they were written." in out
