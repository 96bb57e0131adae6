"""Metrics of saved weights on one split, and the files an evaluation leaves in the run folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from jobs.configfile import build, parse_yaml
from jobs.pictures import confusion_picture
from jobs.run_config import RunConfig, with_shards
from jobs.run_folder import AVERAGED, BEST, CONFIG, RunFolder, open_run
from stgcma.checkpoint import decode, load_weights
from stgcma.data.batch import AVBatch
from stgcma.data.dataset import build_loader
from stgcma.engine import Evaluation, Precision, evaluate, resolve_device
from stgcma.errors import ConfigError
from stgcma.presets import backbone_spec
from stgcma.tasks import AudioVisualModel, Task, build_model, build_task

WEIGHTS = {"best": BEST, "averaged": AVERAGED}
"""Weights a run can be evaluated with."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What ``stgcma-jobs evaluate`` prints."""

    run: str
    split: str
    weights: str
    num_clips: int
    metrics: dict[str, float]
    """Fractions in [0, 1]."""
    classes: dict[str, float]
    """Class name -> accuracy over its segments; classes without segments are left out."""
    files: tuple[str, ...]
    """Written below the run folder."""


def evaluate_weights(
    model: AudioVisualModel,
    task: Task,
    folder: RunFolder,
    weights: str,
    batches: Iterable[AVBatch],
    *,
    precision: Precision,
) -> Evaluation:
    """Load a weight file of the run into the model and evaluate it in detail."""
    tensors, _ = decode(folder.read(weights), f"{folder.uri}/{weights}")
    load_weights(model, tensors)
    return evaluate(model, task, batches, precision=precision, detailed=True)


def evaluate_run(
    uri: str, *, split: str = "test", weights: str = "best", shards: str | None = None, device: str = "auto"
) -> EvaluationResult:
    """Evaluate a run's weights on one split and write the tables and pictures into its folder.

    Raises:
        ConfigError: If there is no such run, split or kind of weights.
        CheckpointError: If the run has no such weights yet.
    """
    if split not in SPLITS or weights not in WEIGHTS:
        raise ConfigError(
            f"--split needs one of {', '.join(SPLITS)}, --weights one of {', '.join(WEIGHTS)}; "
            f"got {split!r} and {weights!r}."
        )
    folder = open_run(uri)
    config = with_shards(read_config(folder), shards)
    loader = build_loader(
        config.data,
        config.optim,
        backbone_spec(config.model.backbone),
        config.task,
        split,
        train=False,
        branches=config.model.adaptation.running,
    )
    task = build_task(config.task, config.model)
    torch.manual_seed(config.optim.seed)
    model = build_model(task).to(resolve_device(device))
    precision = Precision.choose(config.optim.mixed_precision, resolve_device(device))
    evaluation = evaluate_weights(model, task, folder, WEIGHTS[weights], loader.epoch(0), precision=precision)
    names = loader.manifest.class_names
    label = split if weights == "best" else f"{split}-{weights}"
    files = write_evaluation(folder, label, evaluation, class_names=names)
    metrics, classes = split_by_class(evaluation.metrics.compute(), names)
    return EvaluationResult(
        run=folder.uri,
        split=split,
        weights=weights,
        num_clips=evaluation.num_clips,
        metrics=metrics,
        classes=classes,
        files=files,
    )


def read_config(folder: RunFolder) -> RunConfig:
    """The configuration a run was started with."""
    where = f"{folder.uri}/{CONFIG}"
    return build(RunConfig, parse_yaml(folder.read(CONFIG).decode(), where), where)


def write_evaluation(
    folder: RunFolder, label: str, evaluation: Evaluation, *, class_names: tuple[str, ...]
) -> tuple[str, ...]:
    """Write ``evaluation/<label>/``: metrics.json, per_clip.safetensors and, where there is one, confusion.png."""
    metrics, classes = split_by_class(evaluation.metrics.compute(), class_names)
    files: dict[str, bytes] = {}
    values: dict[str, Any] = {"num_clips": evaluation.num_clips, "metrics": metrics, "classes": classes}
    files["metrics.json"] = (json.dumps(values, indent=2) + "\n").encode()
    if evaluation.per_clip:
        files["per_clip.safetensors"] = _encode_per_clip(evaluation.per_clip)
    if "confusion" in evaluation.metrics.sums:
        confusion = evaluation.metrics.sums["confusion"]
        files["confusion.png"] = confusion_picture(
            confusion, class_names, title=f"{folder.uri.rpartition('/')[2]}, {label}"
        )
    for name, data in files.items():
        folder.write(f"evaluation/{label}/{name}", data)
    return tuple(f"evaluation/{label}/{name}" for name in files)


def read_per_clip(folder: RunFolder, label: str) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Clip ids in order, and each score stacked over the clips: ``correct [num_clips, S]``."""
    data = folder.read(f"evaluation/{label}/per_clip.safetensors")
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tuple(json.loads(header["__metadata__"]["clip_ids"])), load_tensors(data)


def split_by_class(values: dict[str, float], class_names: tuple[str, ...]) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics of the whole split, and per-class accuracies by class name."""
    metrics, classes = {}, {}
    for name, value in values.items():
        prefix, _, number = name.partition("/class_")
        if number and prefix == "accuracy":
            index = int(number)
            classes[class_names[index] if index < len(class_names) else f"class {index}"] = value
        else:
            metrics[name] = value
    return metrics, classes


def _encode_per_clip(per_clip: dict[str, dict[str, Tensor]]) -> bytes:
    names = next(iter(per_clip.values())).keys()
    stacked = {name: torch.stack([scores[name] for scores in per_clip.values()]) for name in names}
    return save_tensors(stacked, metadata={"clip_ids": json.dumps(list(per_clip))})
