"""Write and read one-bit PNG files with zlib alone.

Masks are stored as such files: any tool shows them, and a 224 x 224 mask takes some hundred bytes. No image library is
used, because each one brings its own libpng and zlib, and a process that also loads a video decoder can mix them up.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from stgcma.errors import ShardMismatchError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ONE_BIT_GREY = (1, 0, 0, 0, 0)
"""Bit depth, colour type, compression, filter method, no interlace."""


def encode_bits(mask: np.ndarray) -> bytes:
    """``[H, W]`` bool -> a one-bit greyscale PNG file."""
    height, width = mask.shape
    lines = np.packbits(np.asarray(mask, dtype=bool), axis=1)
    unfiltered = np.concatenate([np.zeros((height, 1), dtype=np.uint8), lines], axis=1)
    header = struct.pack(">II5B", width, height, *_ONE_BIT_GREY)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(unfiltered.tobytes(), 9)), (b"IEND", b""))
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def decode_bits(data: bytes) -> np.ndarray:
    """A one-bit greyscale PNG file, written by any program -> ``[H, W]`` bool.

    Raises:
        ShardMismatchError: If the file is damaged or of another kind.
    """
    chunks = _chunks(data)
    try:
        width, height, *kind = struct.unpack(">II5B", chunks[b"IHDR"])
        lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(height, -1)
    except (KeyError, struct.error, zlib.error, ValueError) as error:
        raise ShardMismatchError(f"A stored mask is damaged ({error!r}). Preprocess the dataset again.") from error
    if tuple(kind) != _ONE_BIT_GREY:
        raise ShardMismatchError(
            f"A stored mask must be a one-bit greyscale PNG, got bit depth {kind[0]} and colour type {kind[1]}. "
            "Preprocess the dataset with this release."
        )
    packed = _unfiltered(lines) if lines[:, 0].any() else lines[:, 1:]
    return np.unpackbits(packed, axis=1, count=width).astype(bool)


def _unfiltered(lines: np.ndarray) -> np.ndarray:
    """Undo the PNG line filters 0 to 4: ``[H, 1 + bytes]`` with the filter in front -> ``[H, bytes]`` uint8."""
    above = [0] * (lines.shape[1] - 1)
    decoded = []
    for kind, *line in lines.tolist():
        left = corner = 0
        for column, value in enumerate(line):
            up = above[column]
            guess = (0, left, up, (left + up) // 2, _paeth(left, up, corner))[kind]
            left, corner = (value + guess) & 255, up
            line[column] = left
        decoded.append(line)
        above = line
    return np.array(decoded, dtype=np.uint8)


def _paeth(left: int, up: int, corner: int) -> int:
    """The neighbour that is nearest to ``left + up - corner``."""
    target = left + up - corner
    return min((left, up, corner), key=lambda value: abs(target - value))


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """Content by chunk name. Chunks with the same name are joined."""
    found: dict[bytes, bytes] = {}
    position = len(_SIGNATURE)
    while data.startswith(_SIGNATURE) and position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        found[name] = found.get(name, b"") + data[position + 8 : position + 8 + length]
        position += length + 12
    return found
