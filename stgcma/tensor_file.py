"""Encode and decode safetensors files in memory: tensors and text metadata. Nothing is unpickled.

Every file carries the sha256 of its content, so that a flipped bit, swapped tensors or changed metadata are found when
the file is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from stgcma.errors import CheckpointError

SHA256_KEY = "sha256"
"""Metadata entry; its value covers names, types, shapes and values of all tensors, and the other entries."""

_LENGTH_BYTES = 8


def encode_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(tensors, metadata={**metadata, SHA256_KEY: content_sha256(tensors, metadata)})


def decode_tensors(data: bytes, where: str, *, foreign: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU and metadata of a safetensors file.

    Args:
        data: The whole file.
        where: Location of the file, for messages.
        foreign: Accept a file of another program, which carries no sha256.

    Raises:
        CheckpointError: If the bytes are not a complete safetensors file, or not what was written.
    """
    try:
        tensors = load(data)
        header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")])
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{where} is not a complete safetensors file ({type(error).__name__}: {error}). It may be cut off, or "
            "another program wrote it. Restore a copy, or give a file that stgcma wrote."
        ) from None
    metadata: dict[str, str] = header.get("__metadata__", {})
    written = metadata.pop(SHA256_KEY, None)
    if written is None and not foreign:
        raise CheckpointError(
            f"{where} carries no sha256 of its content: stgcma did not write it, or it is damaged. Restore a copy. "
            "stgcma-jobs import reads a checkpoint of the authors' code."
        )
    if written is not None and (found := content_sha256(tensors, metadata)) != written:
        raise CheckpointError(
            f"{where} is damaged: its content has sha256 {found[:16]}, it was written with {written[:16]}. "
            "Restore a copy, or delete it to start again."
        )
    return tensors, metadata


def content_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 over metadata and tensors, in hex digits; independent of their order."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"\n{json.dumps(name)} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
