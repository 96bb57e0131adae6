"""A run that is small enough to train in a test: the demo backbone with random weights on tiny shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.runs.config import RunConfig
from jobs.runs.configfile import apply_overrides, build
from tests.factories import NUM_CLASSES, write_shards

CLASS_NAMES = tuple(f"event {index}" for index in range(NUM_CLASSES - 1)) + ("Background",)


def tiny_shards(root: Path, **options: Any) -> str:
    """Write six training, three validation and three test clips. Returns the root of the shards."""
    write_shards(root, class_names=CLASS_NAMES, **options)
    return str(root)


def tiny_config(shards: str, **overrides: Any) -> RunConfig:
    """A run of two epochs with three steps each. ``optim__epochs=3`` changes ``optim.epochs``."""
    mapping = {
        "name": "tiny",
        "task": "ave",
        "model": {"backbone": "clip_vit_demo", "pretrained": "none"},
        "data": {"dataset": "ave", "shards": shards},
        "optim": {"epochs": 2, "batch_size": 2, "learning_rate": 1e-3, "warmup_epochs": 1},
    }
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return build(RunConfig, apply_overrides(mapping, dotted, "test"), "test")
