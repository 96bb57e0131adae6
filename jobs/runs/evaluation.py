"""Metrics of saved weights on one split, and the files an evaluation leaves in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jobs.runs.config import RunConfig, fingerprint, with_shards
from jobs.runs.configfile import build, parse_yaml
from jobs.runs.confusion_picture import confusion_picture
from jobs.runs.folder import AVERAGED, BEST, CONFIG, FACTS, RunFolder, open_run
from jobs.runs.gallery import Gallery, new_gallery
from jobs.runs.plan import resolve_evaluation
from stgcma.data.batch import AVBatch
from stgcma.data.dataset import ClipLoader
from stgcma.errors import CheckpointError, ConfigError
from stgcma.models.parameters import load_trainable_state_dict
from stgcma.tasks.base import AudioVisualModel, Outputs, Task
from stgcma.tasks.spec import TaskSpec
from stgcma.tensor_file import decode_tensors, encode_tensors
from stgcma.training.engine import Evaluation, Precision, evaluate, place_model, resolve_device
from stgcma.training.trained_model import ModelInfo, TrainedModel, decode_model, restore

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
    """Class name -> accuracy over its segments (segmentation: mIoU); classes that do not occur are left out."""
    files: tuple[str, ...]
    """Written below the run folder."""
    data_digest: str
    """Of the shards evaluated on."""
    trained_on: str
    """Digest of the shards the run was trained on. Where the two differ, files go to ``evaluation/<split>-on-<digest>``
    and the run's own result stays what it is."""


def read_weights(folder: RunFolder, name: str, config: RunConfig) -> tuple[dict[str, Tensor], ModelInfo]:
    """A weight file of the run with that configuration.

    Raises:
        CheckpointError: If it is missing or damaged, or belongs to another run.
    """
    where = f"{folder.uri}/{name}"
    tensors, info = decode_model(folder.read(name), where)
    expected = fingerprint(config)
    if info.fingerprint != expected:
        raise CheckpointError(
            f"{where} holds weights of the run {info.run_name!r}, the configuration of this run has fingerprint "
            f"{expected}. Restore the run's own weights and {CONFIG}, or evaluate the folder of that run."
        )
    return tensors, info


def evaluate_weights(
    model: AudioVisualModel,
    task: Task,
    folder: RunFolder,
    weights: str,
    config: RunConfig,
    batches: Iterable[AVBatch],
    *,
    precision: Precision,
    on_batch: Callable[[AVBatch, Outputs], None] | None = None,
) -> Evaluation:
    """Load a weight file of the run into its model and evaluate it in detail."""
    tensors, _ = read_weights(folder, weights, config)
    load_trainable_state_dict(model, tensors)
    return evaluate(model, task, batches, precision=precision, detailed=True, on_batch=on_batch)


@dataclass(frozen=True, kw_only=True)
class RunEvaluator:
    """A run's trained model and the clips of one split."""

    folder: RunFolder
    config: RunConfig
    loader: ClipLoader
    trained: TrainedModel
    precision: Precision

    @classmethod
    def open(cls, uri: str, split: str, weights: str, *, shards: str | None, device: str) -> RunEvaluator:
        folder = open_run(uri)
        config = with_shards(read_config(folder), shards)
        loader = resolve_evaluation(config, split).loaders[split]
        precision = Precision.choose(config.optim.mixed_precision, resolve_device(device))
        name = WEIGHTS[weights]
        trained = restore(*read_weights(folder, name, config), f"{folder.uri}/{name}")
        place_model(trained.model, config.model, precision)
        return cls(folder=folder, config=config, loader=loader, trained=trained, precision=precision)

    def evaluate(
        self, batches: Iterable[AVBatch], on_batch: Callable[[AVBatch, Outputs], None] | None = None
    ) -> Evaluation:
        trained = self.trained
        return evaluate(
            trained.model, trained.task, batches, precision=self.precision, detailed=True, on_batch=on_batch
        )


def evaluate_run(
    uri: str,
    *,
    split: str = "test",
    weights: str = "best",
    shards: str | None = None,
    device: str = "auto",
    baseline: str | None = None,
) -> EvaluationResult:
    """Evaluate a run's weights on one split and write the tables and pictures into its folder.

    Args:
        uri: Run folder.
        split: ``train``, ``val`` or ``test``.
        weights: ``best`` or ``averaged``.
        shards: Root of the shards when not where the run was trained.
        device: ``auto``, ``cpu`` or ``cuda``.
        baseline: Another run of a task with the same gallery and on the same data, drawn below this one's pictures.

    Raises:
        ConfigError: If there is no such run, split or kind of weights.
        CheckpointError: If the run has no such weights yet.
    """
    for option, given, choices in (("--split", split, SPLITS), ("--weights", weights, tuple(WEIGHTS))):
        if given not in choices:
            raise ConfigError(f"{option} needs one of {', '.join(choices)}; got {given!r}.")
    folder = open_run(uri)
    if not folder.exists(WEIGHTS[weights]):
        why = (
            "an epoch has not ended yet; the same stgcma-jobs train goes on"
            if weights == "best"
            else "weights are averaged where optim.average_epochs is set, when the run is complete"
        )
        raise CheckpointError(f"{folder.uri} has no {weights} weights ({WEIGHTS[weights]}): {why}.")
    run = RunEvaluator.open(uri, split, weights, shards=shards, device=device)
    task = run.trained.task.spec
    gallery = new_gallery(task, run.trained.model.encoder.spec)
    if baseline is not None and gallery is None:
        raise ConfigError(f"--baseline is drawn below the clips of a gallery, and task {task.name!r} has no gallery.")
    evaluation = run.evaluate(run.loader.epoch(0), gallery and gallery.add)
    digest, trained_on = run.loader.manifest.digest, folder.read_json(FACTS)["data"]["digest"]
    label = split if weights == "best" else f"{split}-{weights}"
    if digest != trained_on:
        label += f"-on-{digest[:12]}"
    pictures: dict[str, bytes] = {}
    if gallery is not None:
        compared = None if baseline is None else _watch_baseline(baseline, gallery, split, shards, device)
        pictures = gallery.pictures(
            title=f"{run.folder.uri.rpartition('/')[2]}, {label}",
            baseline=compared,
            baseline_name=read_config(open_run(baseline)).name if baseline else "",
        )
    names = run.loader.manifest.class_names
    files = write_evaluation(run.folder, label, evaluation, task=task, class_names=names, pictures=pictures)
    metrics, classes = task.split_by_class(evaluation.metrics.compute(), names)
    return EvaluationResult(
        run=run.folder.uri,
        split=split,
        weights=weights,
        num_clips=evaluation.num_clips,
        metrics=metrics,
        classes=classes,
        files=files,
        data_digest=digest,
        trained_on=trained_on,
    )


def _watch_baseline(uri: str, gallery: Gallery, split: str, shards: str | None, device: str) -> Gallery:
    """What another run predicts on the gallery's clips; its model sees no other clips."""
    other = RunEvaluator.open(uri, split, "best", shards=shards, device=device)
    seen = new_gallery(other.trained.task.spec, other.trained.model.encoder.spec, only=gallery.clip_ids)
    if seen is None or type(seen) is not type(gallery):
        raise ConfigError(
            f"--baseline needs a run whose clips are drawn alike, {uri} has the task {other.config.task!r}."
        )
    other.evaluate((b for b in other.loader.epoch(0) if seen.only & set(b.clip_ids)), seen.add)
    return seen


def read_config(folder: RunFolder) -> RunConfig:
    """The configuration a run was started with."""
    where = f"{folder.uri}/{CONFIG}"
    return build(RunConfig, parse_yaml(folder.read(CONFIG).decode(), where), where)


def write_evaluation(
    folder: RunFolder,
    label: str,
    evaluation: Evaluation,
    *,
    task: TaskSpec,
    class_names: tuple[str, ...],
    pictures: Mapping[str, bytes] | None = None,
) -> tuple[str, ...]:
    """Write ``evaluation/<label>/``: metrics.json, per_clip.safetensors and the pictures, confusion.png among them."""
    metrics, classes = task.split_by_class(evaluation.metrics.compute(), class_names)
    files: dict[str, bytes] = dict(pictures or {})
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
    name = f"evaluation/{label}/per_clip.safetensors"
    tensors, metadata = decode_tensors(folder.read(name), f"{folder.uri}/{name}")
    return tuple(json.loads(metadata["clip_ids"])), tensors


def _encode_per_clip(per_clip: dict[str, dict[str, Tensor]]) -> bytes:
    names = next(iter(per_clip.values())).keys()
    stacked = {name: torch.stack([scores[name] for scores in per_clip.values()]) for name in names}
    return encode_tensors(stacked, {"clip_ids": json.dumps(list(per_clip))})
