"""Checkpoints for resuming a run: one safetensors file.

Names of the tensors: ``model/<name>`` for trained weights and buffers, ``optimizer/<field>/<name>`` for the moments and
step counts of Adam, ``average/<name>`` for the running sum of the weight average. The state of the loop is JSON in the
metadata. Frozen weights are not stored. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from stgcma.errors import CheckpointError
from stgcma.models.parameters import load_trainable_state_dict, trainable_parameters, trainable_state_dict
from stgcma.tensor_file import decode_tensors, encode_tensors
from stgcma.training.engine import WeightAverage

FORMAT_VERSION = 1
METADATA_KEY = "stgcma_checkpoint"


@dataclass(frozen=True, kw_only=True)
class LoopState:
    """The progress of a run. ``epoch`` and ``step`` are the next ones to run, counted from 0."""

    fingerprint: str
    """Fingerprint of the run configuration. A checkpoint continues only the run that wrote it."""
    data_digest: str
    """Digest of the training shards."""
    epoch: int
    step: int
    best_metric: float | None = None
    """Best selection metric so far; None before the first evaluation."""
    best_epoch: int | None = None
    """1-based epoch of ``best_metric``."""
    average_count: int = 0
    """Number of epochs in the running weight average."""
    loss_sum: float = 0.0
    """Sum of the step losses of the unfinished epoch."""
    elapsed_seconds: float = 0.0
    """Wall clock time of all sessions of this run."""
    scaler: dict[str, Any] | None = None
    """State of the fp16 loss scaler; None without one."""


def encode_run(model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage, state: LoopState) -> bytes:
    """Encode a checkpoint: the bytes of a safetensors file."""
    tensors = {f"model/{name}": value for name, value in trainable_state_dict(model).items()}
    for name, parameter in trainable_parameters(model).items():
        for field, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{field}/{name}"] = torch.as_tensor(value).detach().cpu()
    tensors |= {f"average/{name}": value for name, value in average.sums.items()}
    return _encode(tensors, state)


def decode(data: bytes, where: str) -> tuple[dict[str, Tensor], LoopState]:
    """Decode a checkpoint into tensors and loop state.

    Args:
        data: The whole file.
        where: Location of the file, for messages.

    Raises:
        CheckpointError: If the bytes are not a complete checkpoint, or have another format version.
    """
    tensors, metadata = decode_tensors(data, where)
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{where} is not a checkpoint of a run: the metadata entry {METADATA_KEY!r} is missing. "
            "Delete it to start the run again, or restore a copy."
        )
    values = json.loads(metadata[METADATA_KEY])
    version = values.pop("format_version", None)
    known = {field.name for field in fields(LoopState)}
    if version != FORMAT_VERSION or not known >= values.keys():
        raise CheckpointError(
            f"{where} has checkpoint format {version}, but this release reads {FORMAT_VERSION}. "
            "Continue the run with the release that started it, or delete the file to start the run again."
        )
    return tensors, LoopState(**values)


def load_run(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
    tensors: Mapping[str, Tensor],
    state: LoopState,
) -> None:
    """Restore weights, optimiser state and weight average from a decoded checkpoint.

    Raises:
        CheckpointError: If the checkpoint belongs to another model, or its optimiser state does not fit the weights.
    """
    load_trainable_state_dict(model, _section(tensors, "model/"))
    parameters = trainable_parameters(model)
    for key, value in _section(tensors, "optimizer/").items():
        field, _, name = key.partition("/")
        if name not in parameters or (field != "step" and value.shape != parameters[name].shape):
            raise CheckpointError(
                f"The checkpoint holds optimiser state {key!r} {list(value.shape)}, which fits no trained parameter. "
                "Use the run's own config.yaml, or start a new run."
            )
        device = "cpu" if field == "step" else parameters[name].device
        optimizer.state[parameters[name]][field] = value.to(device, copy=True)
    average.sums = _section(tensors, "average/")
    average.count = state.average_count


def _section(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _encode(tensors: Mapping[str, Tensor], state: LoopState) -> bytes:
    metadata = {METADATA_KEY: json.dumps({"format_version": FORMAT_VERSION, **asdict(state)})}
    return encode_tensors(tensors, metadata)
