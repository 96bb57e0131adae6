"""A fake training for tests of sweeps: writes a run folder that depends only on the configuration."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from jobs.runs.config import fingerprint
from jobs.runs.configfile import dump_run_config
from jobs.runs.folder import BEST, CONFIG, FACTS, RESULT
from jobs.sweeps.executors import Job
from jobs.tables.trials import trial_folder
from stgcma.errors import RunFailedError
from stgcma.tensor_file import encode_tensors
from stgcma.training.trained_model import METADATA_KEY, ModelInfo

NUM_CLIPS, NUM_SEGMENTS, NUM_BLOCKS = 40, 10, 4


def write_run(job: Job, *, is_complete: bool = True) -> None:
    """Write a run whose test accuracy depends on the fusion and, a little, on the seed."""
    folder = trial_folder(job.output, job.config)
    digest = fingerprint(job.config)
    rng = np.random.default_rng(int(hashlib.sha256(digest.encode()).hexdigest()[:8], 16))
    fusion = job.config.model.adaptation.fusion
    level = 0.8 if fusion == "both" else 0.6
    selected = "val/accuracy" if job.config.optim.protocol == "val" else "test/accuracy"
    folder.write(CONFIG, dump_run_config(job.config).encode())
    folder.write_json(
        FACTS, {"experiment": job.experiment, "tags": dict(job.tags), "parameters": {"trainable": 61_199}}
    )
    correct = (rng.random((NUM_CLIPS, NUM_SEGMENTS)) < level).astype(np.uint8)
    for epoch in range(1, job.config.optim.epochs + 1):
        metrics = {selected: level - 0.3 / epoch, "best/metric": level - 0.3 / epoch}
        row = {"kind": "epoch", "step": 3 * epoch, "epoch": float(epoch), "time": time.time(), "metrics": metrics}
        folder.append_row(row)
    names = [f"encoder.stages.0.{block}.gates" for block in range(NUM_BLOCKS)]
    scale = 0.0 if fusion == "none" else 0.1
    gates = {
        f"{name}.{way}": torch.tensor([scale * (block + 1)])
        for block, name in enumerate(names)
        for way in ("audio_to_visual", "visual_to_audio")
    }
    info = ModelInfo(task=job.config.task, model=job.config.model, backbone_sha256="", fingerprint=digest)
    folder.write(BEST, encode_tensors(gates, {METADATA_KEY: json.dumps({"format_version": 1, **asdict(info)})}))
    if not is_complete:
        return
    ids = json.dumps([f"clip{index}" for index in range(NUM_CLIPS)])
    scores = encode_tensors({"correct": torch.from_numpy(correct)}, {"clip_ids": ids})
    folder.write("evaluation/test/per_clip.safetensors", scores)
    folder.write_json(
        RESULT,
        {
            "run_name": job.config.run_name,
            "fingerprint": digest,
            "protocol": job.config.optim.protocol,
            "metrics": {selected: level, "test/accuracy": float(correct.mean())},
            "parameters": {"trainable": 61_199, "total": 290_000, "by_role": {}},
            "data_digest": "d" * 64,
            "git_commit": "0" * 40,
            "best_epoch": job.config.optim.epochs,
            "epochs_run": job.config.optim.epochs,
            "stopped_early": False,
            "num_averaged_epochs": 0,
            "elapsed_seconds": time.time() % 100,
        },
    )


def check(waiting: list[Job], done: list[Job]) -> None:
    """Does nothing, as there are no shards."""


def log(job: Job) -> None:
    """Add a line to the list of started trials."""
    with (Path(job.output) / "started.log").open("a") as stream:
        stream.write(f"{job.row} {job.seed}\n")


def started(output: Path) -> list[str]:
    path = output / "started.log"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def train(job: Job) -> list[str]:
    log(job)
    write_run(job)
    return []


def train_but_fail_no_interaction(job: Job) -> list[str]:
    log(job)
    if job.row == "none":
        raise RunFailedError("The training loss is nan at epoch 1")
    write_run(job)
    return []


def interrupt_third(job: Job) -> list[str]:
    log(job)
    if len((Path(job.output) / "started.log").read_text().splitlines()) == 3:
        write_run(job, is_complete=False)
        raise KeyboardInterrupt
    write_run(job)
    return []


def die_on_seed_1(job: Job) -> list[str]:
    log(job)
    if job.seed == 1:
        os.kill(os.getpid(), 9)
    write_run(job)
    return []


def sleep_forever(job: Job) -> list[str]:
    (Path(job.output) / f"pid-{os.getpid()}").touch()
    time.sleep(600)
    return []
