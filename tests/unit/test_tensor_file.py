"""Tensors are read as they were written, or not at all."""

from __future__ import annotations

import random

import pytest
import torch
from safetensors.torch import load, save

from stgcma.errors import CheckpointError
from stgcma.tensor_file import content_sha256, decode_tensors, encode_tensors

TENSORS = {
    "weight": torch.linspace(-1, 1, 12).reshape(3, 4),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "step": torch.tensor(3.0),
    "flags": torch.tensor([True, False]),
    "none": torch.zeros(0, 4),
    "ids": torch.tensor([1, 2], dtype=torch.int64),
}
METADATA = {"info": '{"mean": -6.65}'}


def test_what_was_written_comes_back():
    tensors, metadata = decode_tensors(encode_tensors(TENSORS, METADATA), "here")
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    assert all(
        torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype for name, value in TENSORS.items()
    )


def test_every_flipped_bit_is_found():
    data = encode_tensors(TENSORS, METADATA)
    rng = random.Random(0)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.randrange(8)
        try:
            tensors, metadata = decode_tensors(bytes(damaged), "here")
        except CheckpointError:
            continue
        # a blank of the header's padding, or an escape: other bytes, the same content
        assert content_sha256(tensors, metadata) == content_sha256(TENSORS, METADATA)


def test_a_flipped_exponent_swapped_tensors_and_changed_metadata_are_named():
    data = encode_tensors({"a": torch.ones(3), "b": torch.full((3,), 2.0)}, METADATA)
    exponent = bytearray(data)
    exponent[-1] ^= 0x40
    swapped = data.replace(b'"a"', b'"x"').replace(b'"b"', b'"a"').replace(b'"x"', b'"b"')
    assert load(swapped)["a"][0] == 2
    for damaged in (bytes(exponent), swapped, data.replace(b"-6.65", b"-10.4")):
        assert damaged != data
        with pytest.raises(CheckpointError, match=r"best is damaged: its content has sha256 \w{16}, .* Restore a copy"):
            decode_tensors(damaged, "best")


def test_a_file_of_another_program_is_read_only_where_it_may_be():
    data = save(TENSORS)
    with pytest.raises(CheckpointError, match="there carries no sha256 of its content: stgcma did not write it"):
        decode_tensors(data, "there")
    assert decode_tensors(data, "there", foreign=True)[0].keys() == TENSORS.keys()
    damaged = encode_tensors(TENSORS, {})[:-1] + b"\xff"
    with pytest.raises(CheckpointError, match="there is damaged"):
        decode_tensors(damaged, "there", foreign=True)
