"""Encode and decode safetensors files in memory: tensors and text metadata. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from stgcma.errors import CheckpointError

_LENGTH_BYTES = 8


def encode_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file."""
    return save({name: value.contiguous() for name, value in tensors.items()}, metadata=dict(metadata))


def decode_tensors(data: bytes, where: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU and metadata of a safetensors file.

    Args:
        data: The whole file.
        where: Location of the file, for messages.

    Raises:
        CheckpointError: If the bytes are not a complete safetensors file.
    """
    try:
        tensors = load(data)
        header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")])
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{where} is not a complete safetensors file ({type(error).__name__}: {error}). It may be cut off, or "
            "another program wrote it. Delete it to start again, or restore a copy."
        ) from None
    return tensors, header.get("__metadata__", {})
