"""Evaluates the saved weights of a run on one split and writes metrics and pictures into the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from jobs.runs.config import RunConfig, fingerprint, flatten, to_mapping, with_shards
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
"""Name of weights -> file in the run folder."""

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
    """Class name -> accuracy over its segments (segmentation: mIoU), for classes that occur in the split."""
    files: tuple[str, ...]
    """The files that were written, relative to the run folder."""
    data_digest: str
    """Digest of the shards that were evaluated."""
    trained_on: str
    """Digest of the shards that the run was trained on. If the two differ, the files are written to
    ``evaluation/<split>-on-<digest>`` and the run's own result does not change."""


def read_weights(folder: RunFolder, name: str, config: RunConfig) -> tuple[dict[str, Tensor], ModelInfo]:
    """Read a weight file of a run.

    Args:
        folder: The run folder.
        name: The file in it.
        config: The configuration of the run.

    Returns:
        The trained tensors by name, and the description in the file.

    Raises:
        CheckpointError: If the file is missing or damaged, or file, configuration, folder and ``run.json`` are not
            of one run on one data set.
    """
    where = f"{folder.uri}/{name}"
    tensors, info = decode_model(folder.read(name), where)
    expected = fingerprint(config)
    if info.fingerprint != expected:
        raise CheckpointError(
            f"{where} holds weights of the run {info.run_name!r}, but the configuration in {CONFIG} has fingerprint "
            f"{expected}{_differences(info, config)}. If {CONFIG} was edited, undo that or train anew. If the weights "
            "are those of another run, restore this run's own."
        )
    if folder.name.rpartition("-")[2] != expected:
        raise CheckpointError(
            f"{folder.uri} holds a run with fingerprint {expected}, which its name does not end with. Rename it to "
            f"{config.run_name}, or restore the files of this run."
        )
    trained_on = folder.read_json(FACTS)["data"]["digest"]
    if info.data_digest != trained_on:
        raise CheckpointError(
            f"{where} holds weights trained on data with digest {info.data_digest[:12]}, {FACTS} of the run says "
            f"{trained_on[:12]}. Restore the weights and {FACTS} of this run."
        )
    return tensors, info


def _differences(info: ModelInfo, config: RunConfig) -> str:
    """The model settings that differ between weights and configuration, in brackets; empty if there are none."""
    trained = flatten(json.loads(json.dumps(asdict(info.model))))
    now = flatten(to_mapping(config)["model"])
    texts = [
        f"model.{key}: {trained.get(key)} in the weights, {now.get(key)} in the configuration"
        for key in {**trained, **now}
        if trained.get(key) != now.get(key)
    ]
    return f" ({'; '.join(texts[:3])})" if texts else ""


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
    """Load a weight file of a run into its model and evaluate the model in detail.

    Args:
        model: The run's model.
        task: Its task.
        folder: The run folder.
        weights: Weight file in the folder.
        config: The configuration of the run.
        batches: The clips.
        precision: Number formats of the computation.
        on_batch: Called with each batch and its outputs.

    Raises:
        CheckpointError: As ``read_weights``.
    """
    tensors, _ = read_weights(folder, weights, config)
    load_trainable_state_dict(model, tensors)
    return evaluate(model, task, batches, precision=precision, detailed=True, on_batch=on_batch)


@dataclass(frozen=True, kw_only=True)
class RunEvaluator:
    """The trained model of a run and the clips of one split."""

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
    """Evaluate a run on one split and write metrics and pictures into its folder.

    Args:
        uri: Run folder.
        split: ``train``, ``val`` or ``test``.
        weights: ``best`` or ``averaged``.
        shards: Root of the shards; None: the one of the training.
        device: ``auto``, ``cpu`` or ``cuda``.
        baseline: Another run on the same data, whose task has the same gallery. Its predictions are drawn as well.

    Raises:
        ConfigError: If the run, the split or the kind of weights does not exist, or the baseline does not fit.
        CheckpointError: If the run does not have these weights yet.
    """
    for option, given, choices in (("--split", split, SPLITS), ("--weights", weights, tuple(WEIGHTS))):
        if given not in choices:
            raise ConfigError(f"{option} needs one of {', '.join(choices)}; got {given!r}.")
    folder = open_run(uri)
    if not folder.exists(WEIGHTS[weights]):
        why = (
            "no epoch is complete; run the same stgcma-jobs train to continue"
            if weights == "best"
            else "they are written when a run with optim.average_epochs is complete"
        )
        raise CheckpointError(f"{folder.uri} has no {weights} weights ({WEIGHTS[weights]}): {why}.")
    run = RunEvaluator.open(uri, split, weights, shards=shards, device=device)
    task = run.trained.task.spec
    gallery = new_gallery(task, run.trained.model.encoder.spec)
    if baseline is not None and gallery is None:
        raise ConfigError(f"--baseline needs a task whose evaluation draws clips; task {task.name!r} does not.")
    evaluation = run.evaluate(run.loader.epoch(0), gallery.add if gallery else None)
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
    """The predictions of another run on the clips of a gallery. Its model runs on no other clips."""
    other = RunEvaluator.open(uri, split, "best", shards=shards, device=device)
    seen = new_gallery(other.trained.task.spec, other.trained.model.encoder.spec, only=gallery.clip_ids)
    if seen is None or type(seen) is not type(gallery):
        raise ConfigError(
            f"--baseline needs a run of a task with the same pictures, got {uri} of task {other.config.task!r}."
        )
    other.evaluate((b for b in other.loader.epoch(0) if seen.only & set(b.clip_ids)), seen.add)
    return seen


def read_config(folder: RunFolder) -> RunConfig:
    """The configuration of a run, from its folder.

    Raises:
        CheckpointError: If the file cannot be read.
        ConfigError: If it is not a valid configuration.
    """
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
    """Write the files of an evaluation to ``evaluation/<label>/`` in the run folder.

    Args:
        folder: The run folder.
        label: Split, with the kind of weights or the shards if they are not the usual ones.
        evaluation: Metrics, and scores per clip.
        task: Tells metrics of classes from others.
        class_names: Names of the classes, by index.
        pictures: File name -> PNG bytes, written as well.

    Returns:
        The files relative to the run folder: metrics.json, per_clip.safetensors, confusion.png and the pictures.
    """
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
    """The clip ids of an evaluation, and its scores by name, such as ``correct [num_clips, S]``."""
    name = f"evaluation/{label}/per_clip.safetensors"
    tensors, metadata = decode_tensors(folder.read(name), f"{folder.uri}/{name}")
    return tuple(json.loads(metadata["clip_ids"])), tensors


def _encode_per_clip(per_clip: dict[str, dict[str, Tensor]]) -> bytes:
    names = next(iter(per_clip.values())).keys()
    stacked = {name: torch.stack([scores[name] for scores in per_clip.values()]) for name in names}
    return encode_tensors(stacked, {"clip_ids": json.dumps(list(per_clip))})
