"""Weight files that describe themselves: trained weights, and all that is needed to use them, in one file.

A weight file is a safetensors file. It holds the trained parameters and buffers under their own names; the frozen
backbone is not in it, only its sha256. The metadata entry ``stgcma_model`` is the ``ModelInfo`` as JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stgcma.config import ModelConfig
from stgcma.data.manifest import read_first_file
from stgcma.errors import CheckpointError
from stgcma.models.parameters import frozen_sha256, load_trainable_state_dict, trainable_state_dict
from stgcma.models.settings import from_mapping
from stgcma.tasks import build_model, build_task
from stgcma.tasks.base import AudioVisualModel, Task
from stgcma.tensor_file import decode_tensors, encode_tensors

FORMAT_VERSION = 1
METADATA_KEY = "stgcma_model"
RUN_WEIGHTS = "checkpoints/best.safetensors"
"""Where a run folder keeps the weights of its selected epoch."""


@dataclass(frozen=True, kw_only=True)
class FbankNormalization:
    """The filter bank that the audio branch reads, and the numbers that normalise it."""

    name: str
    """A name in ``stgcma.data.fbank.FBANK_SPECS``."""
    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a weight file says of itself."""

    task: str
    model: ModelConfig
    backbone_sha256: str
    """``stgcma.models.parameters.frozen_sha256`` of the model before training; empty where nothing is frozen."""
    seed: int = 0
    """Draws the frozen weights where ``model.pretrained`` is ``none``."""
    class_names: tuple[str, ...] = ()
    question_words: tuple[str, ...] = ()
    """The question vocabulary, ``<pad>`` first; question answering only."""
    fbank: FbankNormalization | None = None
    """None where no audio is read."""
    dataset: str = ""
    data_digest: str = ""
    """sha256 of the training shards."""
    decoding: dict[str, Any] = field(default_factory=dict)
    """The preprocessing settings of the training shards; a new clip must be decoded alike."""
    protocol: str = ""
    """``val`` or ``paper``: which split selected these weights."""
    metrics: dict[str, float] = field(default_factory=dict)
    """``val/<metric>`` and the like, fractions in [0, 1]."""
    run_name: str = ""
    fingerprint: str = ""
    """Of the run configuration."""
    epoch: int = 0
    """1-based epoch of these weights; 0 where unknown."""


@dataclass(frozen=True)
class TrainedModel:
    """A model ready for use, and what its file says of it."""

    model: AudioVisualModel
    """On the requested device, in eval mode."""
    task: Task
    info: ModelInfo


def encode_model(model: torch.nn.Module, info: ModelInfo) -> bytes:
    """The weight file of a model's trained state."""
    text = json.dumps({"format_version": FORMAT_VERSION, **asdict(info)})
    return encode_tensors(trainable_state_dict(model), {METADATA_KEY: text})


def decode_model(data: bytes, where: str) -> tuple[dict[str, Tensor], ModelInfo]:
    """Trained tensors by name and the description in a weight file.

    Args:
        data: The whole file.
        where: Its location, for messages.

    Raises:
        CheckpointError: If the file is damaged, was not written by ``encode_model`` or has another format version.
    """
    tensors, metadata = decode_tensors(data, where)
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{where} does not describe its model: the metadata entry {METADATA_KEY!r} is missing. Needed: weights "
            "that stgcma wrote. stgcma-jobs import reads a checkpoint of the authors' code."
        )
    values = json.loads(metadata[METADATA_KEY])
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{where} has weight format {version}, this release reads {FORMAT_VERSION}. "
            "Read it with the release that wrote it."
        )
    return tensors, from_mapping(ModelInfo, values, f"The description in {where}")


def save(model: AudioVisualModel, task: Task, path: str | Path, **facts: Any) -> None:
    """Write the trained weights of a model to a file that describes itself; ``load`` reads it.

    Args:
        model: Built by ``build_model(task)``, its frozen weights in float32.
        task: What it was trained on.
        path: A local file, by convention ``*.safetensors``. It is replaced at once.
        facts: Other fields of ``ModelInfo``. Where ``model.pretrained`` is ``none``, ``seed`` must be the number that
            ``torch.manual_seed`` was given before the model was built.

    Example:
        >>> import stgcma
        >>> config = stgcma.ModelConfig(backbone="clip_vit_demo", pretrained="builtin", adaptation=stgcma.STGCMA())
        >>> task = stgcma.build_task("ave", config)
        >>> stgcma.save(stgcma.build_model(task), task, "model.safetensors", metrics={"val/accuracy": 0.25})
        >>> stgcma.load("model.safetensors").info.metrics
        {'val/accuracy': 0.25}
    """
    info = ModelInfo(task=task.spec.name, model=task.config, backbone_sha256=frozen_sha256(model), **facts)
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(encode_model(model, info))
    os.replace(temporary, path)


def load(source: str, *, device: torch.device | str = "cpu", pretrained: str | None = None) -> TrainedModel:
    """A trained model from a weight file, its frozen backbone included.

    Args:
        source: A weight file, or a run folder, whose selected weights are meant; a local path or an ``s3://`` URI.
        device: Where the model is placed.
        pretrained: Backbone weights to use instead of ``model.pretrained`` as it was in training, such as a local copy.

    Raises:
        CheckpointError: If the file is missing or damaged, or the backbone is not the one it was trained on.
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
    """The model that a decoded weight file describes; see ``load``."""
    # The weights hold the grounding layers; the file those began from is not needed any more.
    config = replace(info.model, grounding_checkpoint=None, pretrained=pretrained or info.model.pretrained)
    task = build_task(info.task, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(info.seed)
        model = build_model(task)
    require_same_backbone(model, info, where)
    load_trainable_state_dict(model, tensors)
    return TrainedModel(model.to(device).eval(), task, info)


def require_same_backbone(model: torch.nn.Module, info: ModelInfo, where: str) -> None:
    """Refuse weights that were trained on another frozen backbone than the model has.

    Raises:
        CheckpointError: With both hashes.
    """
    found = frozen_sha256(model)
    if found != info.backbone_sha256:
        raise CheckpointError(
            f"{where} was trained on a frozen {info.model.backbone!r} with sha256 {info.backbone_sha256[:16]}, the "
            f"backbone from pretrained: {info.model.pretrained!r} has {found[:16]}. "
            "Give the backbone weights it was trained on (pretrained=...)."
        )
