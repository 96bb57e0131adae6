"""Real Ray Train workers: the same run folder as in process, a killed worker is replaced, a failure keeps its message.

All tests share one local Ray, because starting it takes half a minute.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from jobs.runs.folder import FAILURE, LAST, RESULT, RunFolder
from jobs.runs.progress import Silent
from jobs.runs.session import train_run
from jobs.runs.workers import start_ray
from stgcma.errors import RunFailedError
from stgcma.training.checkpoint import decode
from tests.unit.jobs.helpers import tiny_config, tiny_shards

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def ray():
    import ray

    start_ray(num_workers=2)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny_shards(tmp_path_factory.mktemp("shards"))


class Recorder(Silent):
    def __init__(self):
        super().__init__()
        self.rows, self.starts = [], []

    def start(self, state, steps_per_epoch):
        self.starts.append((state.epoch, state.step))

    def row(self, row):
        self.rows.append(row)


def train(config, output, num_workers, reporter=None):
    return train_run(
        config,
        output=str(output),
        num_workers=num_workers,
        tracking="none",
        device="cpu",
        reporter=reporter or Silent(),
    )


def worker_pids():
    """Ids of the descendants of this process that run the training function. Ray names processes after their work."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has ended
            parents[folder.name] = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            names[folder.name] = (folder / "cmdline").read_bytes()

    def is_ours(pid):
        return pid == str(os.getpid()) or (pid in parents and is_ours(parents[pid]))

    return [int(pid) for pid, name in names.items() if b"RayTrainWorker" in name and is_ours(pid)]


def test_two_workers_train_the_same_run_as_one_process(ray, shards, tmp_path):
    """Without dropout and stochastic depth, only the order of sums differs."""
    config = tiny_config(shards, model__head_dropout=0.0, model__drop_path_rate=0.0, optim__average_epochs=[1, 2])
    here = train(config, tmp_path / "here", 0)
    reporter, on_interrupt = Recorder(), signal.getsignal(signal.SIGINT)
    there = train(config, tmp_path / "there", 2, reporter)
    assert signal.getsignal(signal.SIGINT) is on_interrupt
    assert there.metrics.keys() == here.metrics.keys()
    assert there.parameters == here.parameters
    one, two = (
        [row["metrics"]["train/loss"] for row in RunFolder(result.run).rows() if row["kind"] == "step"]
        for result in (here, there)
    )
    assert two == pytest.approx(one, rel=1e-3)
    assert [row["kind"] for row in reporter.rows] == [row["kind"] for row in RunFolder(there.run).rows()]
    assert reporter.starts == [(0, 0)]
    folder = RunFolder(there.run)
    assert folder.read_json("run.json")["sessions"][0]["num_workers"] == 2
    assert folder.exists("evaluation/test/per_clip.safetensors")
    one, two = (decode(RunFolder(result.run).read(LAST), "")[0] for result in (here, there))
    assert one.keys() == two.keys()
    for name in [name for name in one if name.startswith("model/")]:
        torch.testing.assert_close(one[name], two[name], rtol=0.05, atol=1e-3, msg=name)


def test_a_killed_worker_is_replaced_and_continues_from_the_checkpoint(ray, shards, tmp_path):
    config = tiny_config(shards, optim__epochs=30, optim__batch_size=1, optim__checkpoint_every_steps=1)
    folder = RunFolder(str(tmp_path / "killed" / config.run_name))
    killed = []

    def kill_after_the_third_epoch():
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if folder.exists(LAST) and decode(folder.read(LAST), LAST)[1].epoch >= 3 and not folder.exists(RESULT):
                os.kill(worker_pids()[0], signal.SIGKILL)
                killed.append(decode(folder.read(LAST), LAST)[1].epoch)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=kill_after_the_third_epoch)
    thread.start()
    result = train(config, tmp_path / "killed", 1)
    thread.join()
    assert killed, "the run ended before its worker could be killed"
    assert result.epochs_run == 30
    whole = train(config, tmp_path / "whole", 0)
    one, two = decode(folder.read(LAST), "")[0], decode(RunFolder(whole.run).read(LAST), "")[0]
    assert not [key for key in one if not torch.equal(one[key], two[key])]
    assert result.metrics == whole.metrics


def test_a_loss_that_is_not_finite_fails_once_with_its_message(ray, shards, tmp_path):
    config = tiny_config(shards, optim__learning_rate=1e30, optim__warmup_epochs=0)
    with pytest.raises(RunFailedError, match=r"loss is (nan|inf) at epoch \d, step \d of 3.*Lower optim.learning_rate"):
        train(config, tmp_path, 2)
    folder = RunFolder(str(tmp_path / config.run_name))
    assert not folder.read_json(FAILURE)["interrupted"]
    assert not folder.exists(RESULT)
