"""Pre-trained grounding layers: reading other projects' files and our own (``stgcma-jobs pretrain-grounding``)."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from stgcma.errors import CheckpointError
from stgcma.models.grounding import Grounding
from stgcma.models.reference.avqa import GROUNDING_NAMES
from stgcma.tensor_file import decode_tensors

logger = logging.getLogger(__name__)


def load_grounding(grounding: Grounding, file: str | Path) -> list[str]:
    """Initialise grounding layers from a checkpoint; everything stays trainable.

    Known names are ``fc_a1``, ``fc_a2``, ``fc_gl`` and ``fc1 .. fc4`` with any prefix that MUSIC-AVQA, LAVISH or DG-SCT
    write (``module.``, ``avqatask_``), and our own. Other tensors of the file are ignored, and so are the layers that
    this variant does not have (``fc_a1`` in ``b_lavish`` and ``l``).

    Args:
        grounding: Layers to initialise, in place; on the meta device the file is checked only.
        file: A ``.safetensors`` file, or a torch file of tensors; nothing else in it is ever executed.

    Returns:
        Names of our parameters that were set.

    Raises:
        CheckpointError: If the file cannot be read, holds no known name, or tensors of another width.
    """
    file = Path(file)
    own = grounding.state_dict()
    found: dict[str, Tensor] = {}
    for name, value in _read(file).items():
        target = _our_name(name, own)
        if target is not None:
            found[target] = value
    if not found:
        known = ", ".join(f"{name}.weight" for name in GROUNDING_NAMES)
        raise CheckpointError(f"{file} holds no grounding layer; known names are {known}, or those of our own files.")
    wrong = [f"{n} {list(v.shape)} (needs {list(own[n].shape)})" for n, v in found.items() if v.shape != own[n].shape]
    if wrong:
        raise CheckpointError(
            f"{file} was made for another width: {'; '.join(wrong)}. Checkpoints of MUSIC-AVQA and LAVISH fit "
            "model.avqa_variant b_released (and, apart from fc_a1, b_lavish), those of DG-SCT fit l on a Swin-L."
        )
    if not grounding.audio_output.weight.is_meta:
        grounding.load_state_dict({**own, **found})
    logger.info("grounding layers from %s: %s", file, ", ".join(sorted(found)))
    return sorted(found)


def _our_name(name: str, own: Mapping[str, Tensor]) -> str | None:
    for prefix in ("module.", "avqatask_", "head.", "grounding."):
        name = name.removeprefix(prefix)
    layer, _, kind = name.rpartition(".")
    target = f"{GROUNDING_NAMES.get(layer, layer)}.{kind}"
    return target if target in own else None


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise CheckpointError(
            f"No grounding checkpoint {file}. Give an existing file, leave model.grounding_checkpoint empty to start "
            "from random layers, or make one: stgcma-jobs pretrain-grounding."
        )
    try:
        if file.suffix == ".safetensors":
            return decode_tensors(file.read_bytes(), str(file), foreign=True)[0]
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as weights: {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} holds a {type(state).__name__}, not a dictionary of tensors.")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
