"""Turns a checkpoint of the authors' code into a run folder, which can be evaluated, asked and loaded like any other.

The checkpoint holds the whole network. Its trained weights become ``checkpoints/best.safetensors``. Its frozen backbone
must be the one that the recipe's ``model.pretrained`` names. With ``pretrained: none``, the backbone is written to a
file beside the run folders, and the run's configuration names that file.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from jobs.runs.config import RunConfig, fingerprint, flatten, to_mapping
from jobs.runs.configfile import dump_run_config
from jobs.runs.folder import BEST, CONFIG, FACTS, RunFolder
from pipelines.storage import Storage
from stgcma.data.fbank import FBANK_SPECS
from stgcma.data.vocab import AVE_CLASSES
from stgcma.errors import CheckpointError, ConfigError
from stgcma.models.backbones import backbone_spec, build_backbone
from stgcma.models.backbones.weights import AUDIO_PREFIX, read_weight_file
from stgcma.models.encoder import SharedEncoder
from stgcma.models.parameters import (
    count_parameters,
    frozen_sha256,
    load_trainable_state_dict,
    trainable_state_dict,
)
from stgcma.models.reference.encoder import RULES, import_state
from stgcma.tasks import build_model, build_task, task_spec
from stgcma.tasks.base import AudioVisualModel
from stgcma.training.trained_model import FbankNormalization, ModelInfo, encode_model

BACKBONES = "backbones"
"""Folder beside the run folders with the frozen backbones of imported checkpoints, named by their sha256."""

_DERIVED = ("relative_position_index", "attn_mask")
"""Buffers that can be computed from the geometry, which our models do not store."""

_SAME = 1e-5
"""Largest difference between equal frozen weights, relative and absolute: they may have been stored in float16."""


@dataclass(frozen=True, kw_only=True)
class ImportedRun:
    """What ``stgcma-jobs import`` prints."""

    run: str
    """Path or URI of the run folder."""
    trainable: int
    """Number of trained parameters read from the checkpoint."""
    backbone: str
    """``model.pretrained`` of the run: that of the recipe, or the file that was written."""


def import_checkpoint(config: RunConfig, file: Path, *, output: str) -> ImportedRun:
    """Write the run folder of a reference checkpoint.

    Args:
        config: The recipe that the checkpoint was trained with: task, backbone, adaptation, classes.
        file: A ``.pth``, ``.pt`` or ``.safetensors`` file with the reference's parameter names.
        output: Folder of the runs, a local directory.

    Raises:
        CheckpointError: If the file cannot be read, lacks a weight that the recipe trains, or has another backbone.
        ConfigError: If the reference has no such backbone, or the run folder already exists.
    """
    spec = backbone_spec(config.model.backbone)
    rules = RULES.get(spec.family)
    if rules is None:
        raise ConfigError(f"The reference has models of {' and '.join(RULES)}, not of {spec.family!r}.")
    if not file.is_file():
        raise CheckpointError(f"{file} does not exist. Give a checkpoint that the authors' code wrote.")
    state = import_state(read_weight_file(file), rules)
    state = {name: value for name, value in state.items() if not name.endswith(_DERIVED)}
    model = _new_model(config)
    _require_same_names(model, state, file)
    if config.model.pretrained == "none":
        path = _write_backbone(config, model, state, file, output)
        config = replace(config, model=replace(config.model, pretrained=str(path)))
        model = _new_model(config)
    _require_same_backbone(model, state, file, config)
    folder = RunFolder(f"{output.rstrip('/')}/{config.run_name}")
    if folder.exists(CONFIG):
        raise ConfigError(f"{folder.uri} exists. Give the run another name with --set name=..., or delete the folder.")
    sha256 = frozen_sha256(model)
    load_trainable_state_dict(model, {name: state[name] for name in trainable_state_dict(model)})
    folder.write(BEST, encode_model(model, _describe(config, sha256)))
    folder.write_json(FACTS, _facts(config, model, file))
    folder.write(CONFIG, dump_run_config(config).encode())
    return ImportedRun(run=folder.uri, trainable=count_parameters(model).trainable, backbone=config.model.pretrained)


def _new_model(config: RunConfig) -> AudioVisualModel:
    torch.manual_seed(config.optim.seed)
    return build_model(build_task(config.task, config.model))


def _require_same_names(model: AudioVisualModel, state: Mapping[str, Tensor], file: Path) -> None:
    """Check that the checkpoint has all trained tensors of the model and no others that the model does not have."""
    own, trained = model.state_dict(), trainable_state_dict(model)
    missing, unknown = sorted(trained.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name}: file {list(state[name].shape)}, model {list(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    if missing or unknown or shapes:
        raise CheckpointError(
            f"{file} is not a checkpoint of this recipe: {len(missing)} trained tensors missing {missing[:3]}, "
            f"{len(unknown)} that the model does not have {unknown[:3]}, {len(shapes)} of another shape {shapes[:3]}. "
            "Give the recipe that it was trained with; --set changes single settings."
        )


def _write_backbone(
    config: RunConfig, model: AudioVisualModel, state: Mapping[str, Tensor], file: Path, output: str
) -> Path:
    """Write the frozen backbone of a checkpoint to a file for ``model.pretrained``. Returns its path."""
    module = build_backbone(backbone_spec(config.model.backbone), config.model).pretrained_module
    own = {id(value): name for name, value in model.state_dict(keep_vars=True).items()}
    encoder = model.encoder
    assert isinstance(encoder, SharedEncoder)
    backbone = encoder.backbone
    places = {name: own[id(value)] for name, value in backbone.pretrained_module.state_dict(keep_vars=True).items()}
    if encoder.ln_post is not None:  # trained, so the encoder took it out of the backbone
        norm = encoder.ln_post.norm
        taken = [name.rpartition(".")[0] for name in module.state_dict().keys() - places.keys()]
        places |= {f"{taken[0]}.{name}": f"encoder.ln_post.norm.{name}" for name in norm.state_dict()}
    if absent := [name for name, place in places.items() if place not in state]:
        raise CheckpointError(
            f"{file} does not hold the whole frozen backbone ({len(absent)} tensors missing, e.g. {absent[:3]}). "
            "Set model.pretrained to the weights that it was trained on."
        )
    audio = {
        f"{AUDIO_PREFIX}{name}": f"encoder.backbone.{name}"
        for name in backbone.state_dict()
        if f"encoder.backbone.{name}" not in places.values() and f"encoder.backbone.{name}" in state
    }
    data = save({name: state[place].float().contiguous() for name, place in (places | audio).items()})
    storage, name = Storage(output), f"{BACKBONES}/{hashlib.sha256(data).hexdigest()[:12]}.safetensors"
    storage.write_bytes(name, data)
    return Path(storage.full_path(name))


def _require_same_backbone(model: AudioVisualModel, state: Mapping[str, Tensor], file: Path, config: RunConfig) -> None:
    """Check that the checkpoint's frozen tensors, audio input layer included, are those that training starts from."""
    trained, own = trainable_state_dict(model), model.state_dict()
    differing = [
        name
        for name, value in state.items()
        if name not in trained and not torch.allclose(own[name], value.float(), rtol=_SAME, atol=_SAME)
    ]
    if differing:
        raise CheckpointError(
            f"{file} has another frozen backbone than model.pretrained: {config.model.pretrained!r}; "
            f"{len(differing)} tensors differ, e.g. {differing[:3]}. Set model.pretrained to the weights that it was "
            "trained on, or to none to take them from the file. If only audio_* differ, set model.audio_patch_weights."
        )


def _describe(config: RunConfig, sha256: str) -> ModelInfo:
    """What the weight file says of itself: filter banks with the published normalization, weights selected on test."""
    task, fbank = task_spec(config.task), None
    if "audio" in config.model.adaptation.running:
        spec = FBANK_SPECS[backbone_spec(config.model.backbone).fbank_for(task.fbank)]
        fbank = FbankNormalization(name=spec.name, mean=spec.published_mean, std=spec.published_std)
    names = AVE_CLASSES if task.predicts_class_names and config.model.num_classes == len(AVE_CLASSES) else ()
    return ModelInfo(
        task=config.task,
        model=config.model,
        backbone_sha256=sha256,
        seed=config.optim.seed,
        class_names=names,
        fbank=fbank,
        dataset=config.data.dataset,
        protocol="paper",
        run_name=config.run_name,
        fingerprint=fingerprint(config),
    )


def _facts(config: RunConfig, model: AudioVisualModel, file: Path) -> dict[str, Any]:
    """``run.json`` as a training session writes it, with what is known of an imported run."""
    count, run_id = count_parameters(model), uuid.uuid4().hex
    return {
        "run_id": run_id,
        "run_name": config.run_name,
        "experiment": config.data.dataset,
        "config": flatten(to_mapping(config)),
        "parameters": asdict(count),
        "parameter_metrics": {"params/trainable": count.trainable, "params/total": count.total},
        "data": {"dataset": config.data.dataset, "source": file.name, "digest": "", "num_clips": {}, "class_names": []},
        "steps_per_epoch": 0,
        "sessions": [{"started": time.time(), "imported_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}],
        "tags": {
            "stgcma.run_id": run_id,
            "stgcma.run_name": config.run_name,
            "stgcma.fingerprint": fingerprint(config),
            "stgcma.task": config.task,
            "mlflow.source.name": f"stgcma-jobs import {file.name}",
        },
    }
