"""Load pretrained weights of any family by tag or from a file. Keys must match exactly. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from stgcma.backbone_spec import BackboneSpec
from stgcma.errors import CheckpointError
from stgcma.models.backbones.base import Backbone

BUILTIN_FOLDER = files("stgcma") / "weights"

AUDIO_PREFIX = "stgcma_audio."
"""Prefix of tensors of the audio input layer in our own files, if they are not derived from the visual one."""


def load_pretrained(backbone: Backbone, pretrained: str) -> None:
    """Load the weights of the image transformer and derive the audio input layer from them.

    Args:
        backbone: A new backbone that still has its final norm.
        pretrained: ``none``, ``builtin`` (a file of this package), a ``.safetensors``, ``.pt`` or ``.pth`` file with
            the state dict of the vision tower or of the whole model, or a tag that the library of the family downloads.

    Raises:
        CheckpointError: If the tag is unknown, the download fails, the file is damaged, or the weights belong to
            another model.
    """
    if pretrained == "none":
        return
    module, found = backbone.pretrained_module, _read(backbone, pretrained)
    audio = {name.removeprefix(AUDIO_PREFIX): found.pop(name) for name in [*found] if name.startswith(AUDIO_PREFIX)}
    state = {name: value.float() for name, value in backbone.convert_weights(found).items()}
    _check_keys(module.state_dict(), state, backbone.spec, pretrained)
    module.load_state_dict(state)
    backbone.derive_audio_embedding()
    if audio:
        own = {name: value for name, value in backbone.state_dict().items() if name in audio}
        _check_keys(own, audio, backbone.spec, pretrained)
        backbone.load_state_dict(audio, strict=False)


def _read(backbone: Backbone, pretrained: str) -> dict[str, Tensor]:
    spec = backbone.spec
    if pretrained == "builtin":
        path = Path(str(BUILTIN_FOLDER / f"{spec.name}.safetensors"))
        if not path.exists():
            raise CheckpointError(
                f"No weights are included for backbone {spec.name!r}. "
                f"Set model.pretrained to {spec.default_tag!r} or a local file."
            )
        return load_file(path)
    path = Path(pretrained).expanduser()
    if path.exists() or path.suffix in (".safetensors", ".pt", ".pth", ".bin"):
        return read_weight_file(path)
    if not spec.library_name:
        raise CheckpointError(
            f"Backbone {spec.name!r} has no pretrained tag {pretrained!r}. Use builtin, none or a file."
        )
    try:
        return backbone.download_weights(pretrained)
    except CheckpointError:
        raise
    except Exception as error:  # clients of hubs raise many types; all mean that there are no weights
        raise CheckpointError(
            f"Could not download the {spec.library_name} weights {pretrained!r}: {error}\n"
            "Check the network, or download the file elsewhere and set model.pretrained to its path."
        ) from error


def download_timm_weights(library_name: str, tag: str) -> dict[str, Tensor]:
    """State dict of timm's ``<library_name>.<tag>`` without its classifier.

    Raises:
        CheckpointError: If timm has no such weights. The message lists those it has.
    """
    name = f"{library_name}.{tag}"
    if not timm.is_model_pretrained(name):
        known = timm.list_models(f"{library_name}.*", pretrained=True)
        raise CheckpointError(f"timm has no weights {name!r}; it knows: {', '.join(known)}.")
    return timm.create_model(name, pretrained=True, num_classes=0).state_dict()


def read_weight_file(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` or torch file. Wrappers ``state_dict``, ``model`` and ``module.`` are removed.

    Raises:
        CheckpointError: If the file is missing or damaged, or holds code.
    """
    if not path.exists():
        raise CheckpointError(f"Weight file {path} does not exist. Give an existing file, a pretrained tag, or none.")
    try:
        if path.suffix == ".safetensors":
            state: Mapping = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many types for files that are damaged or hold code
        reason = str(error).strip().partition("\n")[0]  # what follows is advice on unpickling
        raise CheckpointError(
            f"{path} cannot be read as plain tensors: {reason}\nGive a .safetensors file, or a torch file of tensors "
            "alone. OpenAI's TorchScript archives hold code: use the tag 'openai', or convert them."
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    return {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}


def _check_keys(own: Mapping[str, Tensor], given: Mapping[str, Tensor], spec: BackboneSpec, source: str) -> None:
    missing = sorted(own.keys() - given.keys())
    unexpected = sorted(given.keys() - own.keys())
    shapes = [
        f"{key}: file {list(given[key].shape)}, model {list(own[key].shape)}"
        for key in sorted(own.keys() & given.keys())
        if own[key].shape != given[key].shape
    ]
    if missing or unexpected or shapes:
        lines = [
            f"{len(keys)} {what}, e.g. {keys[:3]}"
            for what, keys in (
                ("missing", missing),
                ("unknown", unexpected),
                ("of another shape", shapes),
            )
            if keys
        ]
        raise CheckpointError(
            f"Weights {source!r} do not fit backbone {spec.name!r} ({spec.library_name or 'own geometry'}): "
            f"{'; '.join(lines)}.\nGive weights of this architecture, or choose the backbone to which they belong."
        )
