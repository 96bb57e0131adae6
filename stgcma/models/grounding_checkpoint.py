"""Read pre-trained grounding layers, from other projects or from ``stgcma-jobs pretrain-grounding``."""

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
    """Initialise grounding layers from a checkpoint. All layers remain trainable.

    Known names are our own and those of MUSIC-AVQA, LAVISH and DG-SCT: ``fc_a1``, ``fc_a2``, ``fc_gl`` and
    ``fc1 .. fc4``, with the prefixes ``module.`` or ``avqatask_``. Other tensors are ignored, and so are layers that
    the variant does not have (``fc_a1`` in ``b_lavish`` and ``l``).

    Args:
        grounding: Layers to initialise in place. On the meta device the file is only checked.
        file: A ``.safetensors`` file or a torch file of tensors. No code in the file is executed.

    Returns:
        Names of the parameters that were set.

    Raises:
        CheckpointError: If the file cannot be read, has no known name, or has tensors of another width.
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
        raise CheckpointError(
            f"{file} holds no grounding layer. Known names are {known}, and those of stgcma-jobs pretrain-grounding."
        )
    wrong = [f"{n} {list(v.shape)} (needs {list(own[n].shape)})" for n, v in found.items() if v.shape != own[n].shape]
    if wrong:
        raise CheckpointError(
            f"{file} was made for another width: {'; '.join(wrong)}. Checkpoints of MUSIC-AVQA and LAVISH fit "
            "model.avqa_variant b_released and, except for fc_a1, b_lavish. Those of DG-SCT fit l on a Swin-L."
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
            f"No grounding checkpoint at {file}. Give an existing file, unset model.grounding_checkpoint to "
            "start from random layers, or make a file with stgcma-jobs pretrain-grounding."
        )
    try:
        if file.suffix == ".safetensors":
            return decode_tensors(file.read_bytes(), str(file), foreign=True)[0]
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{file} cannot be read as weights: {error}. Give a .safetensors file or a torch file of tensors."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} needs a dictionary of tensors, got {type(state).__name__}. Give a state dict.")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
