"""Preprocessing with real Ray workers: after a kill, finished shards are kept and the digest is the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.config import PreprocessConfig
from pipelines.preprocess import preprocess
from stgcma.data.manifest import find_manifests
from tests.media import write_ave, write_clip
from tests.paths import ROOT

NUM_FILES = 12
RUN = """
import json, sys
from pipelines.config import PreprocessConfig
from pipelines.preprocess import preprocess
config = json.loads(sys.argv[1])
config["fbank_specs"] = tuple(config["fbank_specs"])
result = preprocess(PreprocessConfig(**config))
print(json.dumps({"digest": result.manifest.digest, "made": result.made_shards, "reused": result.reused_shards,
                  "failures": [f.reason for f in result.failures], "ray": "ray" in sys.modules}))
"""


def start(config, log):
    """Start the run in a process group of its own, so that one kill ends it with all its workers."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps(config)],
        stdout=subprocess.PIPE,
        stderr=log.open("a"),
        text=True,
        start_new_session=True,
        cwd=ROOT,
    )


def finish(process, log):
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, log.read_text()[-3000:]
    return json.loads(output.strip().splitlines()[-1])


def source_of(tmp_path):
    """Twelve clips of six seconds, one of them broken, and how they are preprocessed."""
    clips = [(f"{number:011d}", ("train", "val", "test")[number % 3]) for number in range(NUM_FILES)]
    source = tmp_path / "ave"
    clip = write_clip(tmp_path / "clip.mp4", seconds=6, frame_rate=25, width=320, height=240)
    (source / "AVE").mkdir(parents=True)
    for video_id, _ in clips:
        shutil.copy(clip, source / "AVE" / f"{video_id}.mp4")
    write_ave(source, clips)
    (source / "AVE" / f"{5:011d}.mp4").write_bytes(b"<html>not found</html>")
    return {
        "dataset": "ave",
        "source": str(source),
        "output": str(tmp_path / "shards"),
        "fbank_specs": ["demo"],
        "num_workers": 2,
        "clips_per_shard": 1,
        "failure_budget": 0.3,
    }


def wait_for_shards(config, process, log, number):
    """Until so many shards are finished."""
    states = Path(config["output"], "ave")
    deadline = time.monotonic() + 240
    while len(list(states.glob("*/_state/*-?????.json"))) < number:
        assert process.poll() is None, f"the run ended before it could be killed: {log.read_text()[-3000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return states


@pytest.mark.ray
def test_killed_half_way_then_resumed_with_ray_equals_an_uninterrupted_run(tmp_path):
    config, log = source_of(tmp_path), tmp_path / "stderr.txt"
    process = start(config, log)
    states = wait_for_shards(config, process, log, 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(states.glob("*/_state/*-?????.json")))
    assert find_manifests(config["output"], "ave") == {}

    resumed = finish(start(config, log), log)
    assert resumed["reused"] >= 3
    assert resumed["made"] + resumed["reused"] == NUM_FILES
    assert resumed["made"] >= NUM_FILES - done - 2  # at most two more were finished before the kill
    assert resumed["failures"] == ["not a readable media file"]

    again = finish(start(config, log), log)
    assert (again["made"], again["ray"]) == (0, False)

    whole = preprocess(
        PreprocessConfig(**{**config, "fbank_specs": ("demo",), "output": str(tmp_path / "whole"), "num_workers": 0})
    )
    assert resumed["digest"] == again["digest"] == whole.manifest.digest


@pytest.mark.ray
def test_the_time_limit_of_a_clip_holds_in_the_workers_of_ray(tmp_path):
    source = write_ave(tmp_path / "ave", [("aaaaaaaaaaa", "train"), ("bbbbbbbbbbb", "val")])
    config = {
        "dataset": "ave",
        "source": str(source),
        "output": str(tmp_path / "shards"),
        "fbank_specs": ["demo"],
        "num_workers": 1,
        "failure_budget": 1.0,
        "clip_timeout": 0.001,
    }
    log = tmp_path / "stderr.txt"
    assert finish(start(config, log), log)["failures"] == ["clip time limit reached"] * 2


@pytest.mark.ray
def test_sigterm_ends_the_command_and_its_workers(tmp_path):
    """As Kubernetes stops a pod: one signal to the command alone. It leaves no worker and says what comes next."""
    config, log = source_of(tmp_path), tmp_path / "stderr.txt"
    command = [sys.executable, "-m", "jobs.cli", "preprocess", "--dataset", "ave", "--fbank", "demo"]
    command += ["--source", config["source"], "--output", config["output"], "--num-workers", "2"]
    command += ["--clips-per-shard", "1", "--failure-budget", "0.3"]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream, stdout=stream, start_new_session=True, cwd=ROOT)
    wait_for_shards(config, process, log, 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert log.read_text().splitlines()[-1].startswith("Interrupted. Finished shards are kept")
    assert "SIGABRT" not in log.read_text()
    deadline = time.monotonic() + 60
    while alive := processes_of(process.pid):
        assert time.monotonic() < deadline, f"left behind: {alive}"
        time.sleep(0.2)
    assert finish(start(config, log), log)["reused"] >= 1


def processes_of(session):
    """Command lines of the processes that still run in a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " ")[:120])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
