"""Resolves a run configuration: looks up and checks everything it names, once.

Only ``resolve`` turns a configuration into a backbone spec, a task, shards and loaders. The driver resolves a run
before it starts. Ray Train workers are other processes and resolve it again for their own rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from jobs.runs.config import RunConfig, fingerprint
from stgcma.backbone_spec import BackboneSpec
from stgcma.data.dataset import ClipLoader, build_loaders
from stgcma.data.manifest import ShardManifest
from stgcma.errors import ShardMismatchError
from stgcma.models.backbones import backbone_spec
from stgcma.models.parameters import ParameterCount, count_parameters
from stgcma.tasks import build_model, build_task
from stgcma.tasks.base import AudioVisualModel, Task
from stgcma.training.trained_model import FbankNormalization, ModelInfo

DECODING = ("short_side", "channel_mode", "resample", "gain", "frame_encoding", "jpeg_quality", "fbank_dtype")
"""Preprocessing settings that a new video must share with the training videos."""


@dataclass(frozen=True)
class RunPlan:
    """What a run reads, trains and evaluates, before anything is computed."""

    config: RunConfig
    spec: BackboneSpec
    task: Task
    loaders: Mapping[str, ClipLoader]
    """Split -> loader of this worker's batches."""

    @property
    def run_name(self) -> str:
        return self.config.run_name

    @property
    def selection_split(self) -> str:
        return selection_split(self.config)

    @property
    def train_loader(self) -> ClipLoader:
        return self.loaders["train"]

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train_loader)

    @property
    def num_clips(self) -> dict[str, int]:
        """Split -> number of clips over all workers."""
        return {split: loader.num_clips for split, loader in self.loaders.items()}

    @property
    def manifest(self) -> ShardManifest:
        return next(iter(self.loaders.values())).manifest

    @property
    def source(self) -> str:
        """Folder of the shards."""
        return f"{self.config.data.shards.rstrip('/')}/{self.manifest.dataset}/{self.manifest.fingerprint}"

    @cached_property
    def parameters(self) -> ParameterCount:
        """Parameter counts, from the meta device without weights."""
        return count_parameters(build_model(self.task, device="meta"))

    def new_model(self) -> AudioVisualModel:
        """The model at the start of training: pretrained frozen weights, and the others drawn from the run's seed."""
        torch.manual_seed(self.config.optim.seed)
        return build_model(self.task)

    def model_info(self, backbone_sha256: str) -> ModelInfo:
        """The description that the run's weight files carry, without metrics and epoch.

        Args:
            backbone_sha256: ``frozen_sha256`` of the model that ``new_model`` returns.
        """
        manifest, context = self.manifest, self.train_loader.reader.context
        fbank = None
        if context.reads_audio:
            mean, std = context.fbank_mean_std
            fbank = FbankNormalization(name=context.fbank.name, mean=mean, std=std)
        return ModelInfo(
            task=self.config.task,
            model=self.config.model,
            backbone_sha256=backbone_sha256,
            seed=self.config.optim.seed,
            class_names=manifest.class_names,
            question_words=manifest.question_words,
            fbank=fbank,
            dataset=manifest.dataset,
            data_digest=manifest.digest,
            decoding={name: manifest.settings[name] for name in DECODING if name in manifest.settings},
            protocol=self.config.optim.protocol,
            run_name=self.run_name,
            fingerprint=fingerprint(self.config),
        )

    def facts(self) -> dict[str, Any]:
        """The output of ``--dry-run`` as plain values."""
        return {
            "run_name": self.run_name,
            "parameters": asdict(self.parameters),
            "num_clips": self.num_clips,
            "steps_per_epoch": self.steps_per_epoch,
            "source": self.source,
            "digest": self.manifest.digest,
            "class_names": list(self.manifest.class_names),
        }


def selection_split(config: RunConfig) -> str:
    """The split whose metric selects the checkpoint: ``val``, or ``test`` with the published protocol."""
    return "val" if config.optim.protocol == "val" else "test"


def resolve(config: RunConfig, *, rank: int = 0, world_size: int = 1) -> RunPlan:
    """Look up and check everything a training run needs, without training.

    Args:
        config: The run.
        rank: Number of this worker, from 0.
        world_size: Number of workers that share a batch.

    Raises:
        ShardMismatchError: If the shards are missing or do not fit backbone, task or number of classes.
        ConfigError: If the batch size is not a multiple of the number of workers.
    """
    splits = dict.fromkeys(("train", selection_split(config), "test"))
    return _resolve(config, tuple(splits), trains=True, rank=rank, world_size=world_size)


def resolve_evaluation(config: RunConfig, split: str) -> RunPlan:
    """Resolve a run for one pass over one split, without shuffling and augmentation.

    Args:
        config: The run.
        split: ``train``, ``val`` or ``test``.

    Raises:
        ShardMismatchError: As ``resolve``.
    """
    return _resolve(config, (split,), trains=False, rank=0, world_size=1)


def _resolve(config: RunConfig, splits: tuple[str, ...], *, trains: bool, rank: int, world_size: int) -> RunPlan:
    spec, task = backbone_spec(config.model.backbone), build_task(config.task, config.model)
    loaders = build_loaders(
        config.data,
        config.optim,
        spec,
        task.reading(spec),
        splits,
        training=trains,
        rank=rank,
        world_size=world_size,
        branches=config.model.adaptation.running,
    )
    plan = RunPlan(config, spec, task, loaders)
    names = plan.manifest.class_names
    if task.spec.predicts_class_names and names and len(names) != config.model.num_classes:
        raise ShardMismatchError(
            f"The shards of {config.data.dataset!r} have {len(names)} classes ({', '.join(names[:4])}, ...), but the "
            f"model has model.num_classes: {config.model.num_classes}. Set model.num_classes={len(names)}."
        )
    return plan
