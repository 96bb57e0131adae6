"""A digest of row contents: equal rows have equal digests, whatever the compression, row groups or machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from stgcma.data.schema import ClipRow, ClipSource, ShardMetadata


class RowsDigest:
    """sha256 over rows in order, with numbers in their stored precision, as readers will get them."""

    def __init__(self, metadata: ShardMetadata) -> None:
        self._metadata = metadata
        self._hash = hashlib.sha256()

    def update(self, rows: Iterable[ClipRow]) -> None:
        for row in rows:
            for column in fields(row):
                self._hash.update(f"\n{column.name}=".encode())
                self._add(self._stored(column.name, getattr(row, column.name)))

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def _stored(self, name: str, value: Any) -> Any:
        if name == "fbanks":
            return {spec: array.astype(self._metadata.fbank_dtype, copy=False) for spec, array in value.items()}
        if name == "frame_times_seconds":
            return np.asarray(value, dtype=np.float32)
        return _facts(value) if name == "source" else value

    def _add(self, value: Any) -> None:
        if isinstance(value, np.ndarray):
            self._hash.update(f"{value.dtype.str}{value.shape}".encode())
            self._hash.update(np.ascontiguousarray(value).data)
        elif isinstance(value, bytes):
            self._hash.update(f"{len(value)}:".encode())
            self._hash.update(value)
        elif isinstance(value, Mapping):
            for key in sorted(value):
                self._hash.update(f"{key}:".encode())
                self._add(value[key])
        elif isinstance(value, (list, tuple)):
            self._hash.update(f"[{len(value)}]".encode())
            for item in value:
                self._add(item)
        else:
            self._hash.update(repr(value).encode())


_LATER_FACTS = ("length_note",)
"""Fields of ``ClipSource`` that enter only if they are not empty; rows without them keep their earlier digests."""


def _facts(source: ClipSource) -> dict[str, Any]:
    facts = asdict(source)
    return {name: value for name, value in facts.items() if value or name not in _LATER_FACTS}
