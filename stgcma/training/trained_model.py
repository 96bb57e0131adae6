"""Weight files: trained weights and the description of their model in one safetensors file.

The file holds the trained parameters and buffers under their names. Of the frozen backbone it holds only the sha256.
The metadata entry ``stgcma_model`` is the ``ModelInfo`` as JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stgcma.config import ModelConfig
from stgcma.data.manifest import read_first_file
from stgcma.errors import CheckpointError, ConfigError
from stgcma.models.parameters import count_parameters, frozen_sha256, load_trainable_state_dict, trainable_state_dict
from stgcma.models.settings import from_mapping
from stgcma.tasks import build_model, build_task
from stgcma.tasks.base import AudioVisualModel, Task
from stgcma.tensor_file import decode_tensors, encode_tensors

FORMAT_VERSION = 1
METADATA_KEY = "stgcma_model"
RUN_WEIGHTS = "checkpoints/best.safetensors"
"""Path of the weights of the selected epoch in a run folder."""


@dataclass(frozen=True, kw_only=True)
class FbankNormalization:
    """The filter bank that the audio branch reads, and its normalisation."""

    name: str
    """A name in ``stgcma.data.fbank.FBANK_SPECS``."""
    mean: float
    """Of the raw log-mel values."""
    std: float
    """Of the raw log-mel values."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The description of the model in a weight file."""

    task: str
    """A name in ``stgcma.tasks.TASKS``."""
    model: ModelConfig
    backbone_sha256: str
    """``stgcma.models.parameters.frozen_sha256`` of the model; empty if nothing is frozen."""
    seed: int = 0
    """Seed of the frozen weights if ``model.pretrained`` is ``none``."""
    class_names: tuple[str, ...] = ()
    question_words: tuple[str, ...] = ()
    """The question vocabulary, ``<pad>`` first. Only for question answering."""
    fbank: FbankNormalization | None = None
    """None if no audio is read."""
    dataset: str = ""
    data_digest: str = ""
    """``ShardManifest.digest`` of the training shards."""
    decoding: dict[str, Any] = field(default_factory=dict)
    """The preprocessing settings of the training shards. New clips must be decoded with the same settings."""
    protocol: str = ""
    """``val`` or ``paper``: which split selected these weights."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Fractions in [0, 1] by name, e.g. ``val/accuracy``."""
    run_name: str = ""
    fingerprint: str = ""
    """Fingerprint of the run configuration."""
    epoch: int = 0
    """Epoch of these weights, counted from 1; 0 if unknown."""


@dataclass(frozen=True)
class TrainedModel:
    """A model that is ready for use, its task, and its description."""

    model: AudioVisualModel
    """The model on the requested device, in eval mode."""
    task: Task
    info: ModelInfo

    def __repr__(self) -> str:
        trained = count_parameters(self.model).trainable
        return f"TrainedModel(task={self.info.task!r}, backbone={self.info.model.backbone!r}, {trained:,} trained)"

    def save(self, path: str | Path) -> None:
        """Write weights and description to a local file that ``load`` reads."""
        _write(self.model, self.info, path)


def encode_model(model: torch.nn.Module, info: ModelInfo) -> bytes:
    """Encode the trained state of a model and its description: the bytes of a weight file."""
    text = json.dumps({"format_version": FORMAT_VERSION, **asdict(info)})
    return encode_tensors(trainable_state_dict(model), {METADATA_KEY: text})


def decode_model(data: bytes, where: str) -> tuple[dict[str, Tensor], ModelInfo]:
    """Decode a weight file into trained tensors by name and the description.

    Args:
        data: The whole file.
        where: Location of the file, for messages.

    Raises:
        CheckpointError: If the file is damaged, was not written by ``encode_model`` or has another format version.
    """
    tensors, metadata = decode_tensors(data, where)
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{where} does not describe its model: the metadata entry {METADATA_KEY!r} is missing. Give a weight "
            "file of stgcma. stgcma-jobs import converts a checkpoint of the authors' code."
        )
    values = json.loads(metadata[METADATA_KEY])
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{where} has weight format {version}, but this release reads {FORMAT_VERSION}. "
            "Read it with the release that wrote it."
        )
    return tensors, from_mapping(ModelInfo, values, f"The description in {where}")


def save(model: AudioVisualModel, task: Task, path: str | Path, **facts: Any) -> None:
    """Write the trained weights of a model and its description to a file that ``load`` reads.

    Args:
        model: From ``build_model(task)``, with frozen weights in float32.
        task: Task of the model.
        path: A local file, by convention ``*.safetensors``. It is replaced atomically.
        facts: Other fields of ``ModelInfo``. If ``model.pretrained`` is ``none``, ``seed`` must be the number that was
            passed to ``torch.manual_seed`` before the model was built.

    Raises:
        ConfigError: If ``ModelInfo`` has no such field.

    Example:
        >>> import stgcma
        >>> config = stgcma.ModelConfig(backbone="clip_vit_demo", pretrained="builtin", adaptation=stgcma.STGCMA())
        >>> task = stgcma.build_task("ave", config)
        >>> stgcma.save(stgcma.build_model(task), task, "model.safetensors", metrics={"val/accuracy": 0.25})
        >>> stgcma.load("model.safetensors").info.metrics
        {'val/accuracy': 0.25}
    """
    known = sorted({f.name for f in fields(ModelInfo)} - {"task", "model", "backbone_sha256"})
    if unknown := sorted(facts.keys() - set(known)):
        raise ConfigError(f"ModelInfo has no field {', '.join(unknown)}. Fields to give here: {', '.join(known)}.")
    _write(
        model, ModelInfo(task=task.spec.name, model=task.config, backbone_sha256=frozen_sha256(model), **facts), path
    )


def _write(model: AudioVisualModel, info: ModelInfo, path: str | Path) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(encode_model(model, info))
    os.replace(temporary, path)


def load(source: str, *, device: torch.device | str = "cpu", pretrained: str | None = None) -> TrainedModel:
    """Load a trained model, frozen backbone included.

    Args:
        source: A weight file, or a run folder with selected weights: a local path or an ``s3://`` URI.
        device: Device of the model.
        pretrained: Backbone weights, such as a local copy, to use instead of ``model.pretrained`` of the file.

    Raises:
        CheckpointError: If the file is missing or damaged, or the backbone is not the one of the training.
    """
    data, where = read_first_file(source, ("", RUN_WEIGHTS))
    tensors, info = decode_model(data, where)
    return restore(tensors, info, where, device=device, pretrained=pretrained)


def restore(
    tensors: Mapping[str, Tensor],
    info: ModelInfo,
    where: str,
    *,
    device: torch.device | str = "cpu",
    pretrained: str | None = None,
) -> TrainedModel:
    """Build the model that a decoded weight file describes, and load its tensors; see ``load``."""
    # The weights include the grounding layers, so their initial file is not needed.
    config = replace(info.model, grounding_checkpoint=None, pretrained=pretrained or info.model.pretrained)
    task = build_task(info.task, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(info.seed)
        model = build_model(task)
    require_same_backbone(model, info, where)
    load_trainable_state_dict(model, tensors)
    return TrainedModel(model.to(device).eval(), task, info)


def require_same_backbone(model: torch.nn.Module, info: ModelInfo, where: str) -> None:
    """Check that the model has the frozen backbone with which the weights were trained.

    Raises:
        CheckpointError: If the backbones differ. The message has both hashes.
    """
    found = frozen_sha256(model)
    if found != info.backbone_sha256:
        raise CheckpointError(
            f"{where} was trained on a frozen {info.model.backbone!r} with sha256 {info.backbone_sha256[:16]}, but the "
            f"backbone from pretrained: {info.model.pretrained!r} has {found[:16]}. "
            "Give the backbone weights of the training (pretrained=...)."
        )
