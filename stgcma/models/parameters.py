"""Which parameters are trained, how many there are, and the state dict of a checkpoint.

A parameter of a backbone is trained if it is in ``Backbone.released``. Any other parameter is trained if it belongs to
a ``TrainableModule``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stgcma.errors import CheckpointError
from stgcma.models.adapters import TrainableModule
from stgcma.models.backbones.base import Backbone


@dataclass(frozen=True)
class ParameterCount:
    """Exact numbers of parameters."""

    trainable: int
    total: int
    by_role: dict[str, int]
    """Role -> number; the sum is ``total``. Roles of frozen parameters begin with ``frozen_``, roles of trained
    parameters of the backbone with ``released_``."""


def _owned(
    module: nn.Module, prefix: str = "", owner: TrainableModule | None = None
) -> Iterator[tuple[str, str, bool]]:
    """Yield (full name, role, trained) of every parameter and persistent buffer; shared ones appear under each name."""
    if isinstance(module, TrainableModule):
        owner = module
    for name in [n for n, p in module._parameters.items() if p is not None] + [
        n for n in module._buffers if n not in module._non_persistent_buffers_set and module._buffers[n] is not None
    ]:
        yield prefix + name, owner.role if owner else "", owner is not None
    for name, child in module.named_children():
        if isinstance(child, Backbone):
            for key in child.state_dict():
                role, released = child.frozen_role(key), key in child.released
                yield f"{prefix}{name}.{key}", role.replace("frozen", "released", 1) if released else role, released
        else:
            yield from _owned(child, f"{prefix}{name}.", owner)


def _trained_names(model: nn.Module) -> set[str]:
    return {name for name, _, trained in _owned(model) if trained}


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Full name -> parameter, for all trained parameters."""
    names = _trained_names(model)
    return {name: parameter for name, parameter in model.named_parameters() if name in names}


def parameter_roles(model: nn.Module) -> dict[str, str]:
    """Full name -> role of every parameter."""
    roles = {name: role for name, role, _ in _owned(model)}
    return {name: roles.get(name) or "frozen_backbone" for name, _ in model.named_parameters()}


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count trained and all parameters, in total and by role. It also works on the meta device.

    The counts do not include the text tower and the projection of CLIP, which are not built. They include the frozen
    audio input layers.
    """
    roles = parameter_roles(model)
    by_role: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        by_role[roles[name]] += parameter.numel()
    trainable = sum(parameter.numel() for parameter in trainable_parameters(model).values())
    return ParameterCount(trainable, sum(by_role.values()), dict(by_role))


def trainable_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a checkpoint: trained parameters and the buffers of ``TrainableModule``s, on the CPU."""
    names = _trained_names(model)
    return {name: value.detach().cpu() for name, value in model.state_dict().items() if name in names}


@torch.no_grad()
def load_trainable_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict of ``trainable_state_dict``.

    Raises:
        CheckpointError: If names or shapes differ. The message names the first few.
    """
    names = _trained_names(model)
    own = {name: value for name, value in model.state_dict().items() if name in names}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or unexpected or shapes:
        raise CheckpointError(
            f"The checkpoint is of another model: {len(missing)} tensors missing {missing[:3]}, {len(unexpected)} "
            f"unknown {unexpected[:3]}, {len(shapes)} of another shape {shapes[:3]}. "
            "Use the run's own config.yaml, or start a new run."
        )
    for name, value in own.items():
        value.copy_(state[name])


def frozen_sha256(model: nn.Module) -> str:
    """sha256 over names, shapes and values of all parameters and buffers that are not trained.

    Models with the same frozen backbone have the same hash. The frozen weights must still be in float32.

    Returns:
        Hex digits; empty if nothing is frozen.
    """
    trained = _trained_names(model)
    digest, found = hashlib.sha256(), False
    for name, value in sorted(model.state_dict().items()):
        if name not in trained:
            found = True
            digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest() if found else ""


def cast_frozen_matrices(model: nn.Module, dtype: torch.dtype) -> None:
    """Store frozen matrices and their biases in ``dtype``. LayerNorms, embeddings and tables stay in float32.

    Under autocast a forward pass then casts no frozen weight (method section 10).
    """
    trained = {id(parameter) for parameter in trainable_parameters(model).values()}
    for module in model.modules():
        if not isinstance(module, Backbone):
            continue
        for layer in module.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d, nn.MultiheadAttention)):
                for parameter in layer.parameters(recurse=False):
                    if id(parameter) not in trained:
                        parameter.data = parameter.data.to(dtype)
