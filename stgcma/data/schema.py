"""The row: one clip as it is stored in a Parquet shard. No other file knows the physical encoding.

pyarrow, polars and pandas can read the shards. ``decode_rows`` turns a table into ``ClipRow`` objects. Arrays of
numbers are binary columns of little-endian values, because Parquet decodes lists and tensors value by value: reading
one clip from a row group of 16 takes 1 ms of CPU for a binary waveform and 20 ms for a list of int16. The Arrow fields
store dtype and shape, so another reader needs only ``numpy.frombuffer(value, dtype).reshape(shape)``.

| column | Arrow type | meaning |
|---|---|---|
| clip_id | string | unique within the dataset; AVE: ``<video_id>:<row in Annotations.txt>`` |
| dataset, split | string | ``ave``; ``train``/``val``/``test`` (MUSIC-AVQA: ``videos``) |
| video_id | string | id of the media file |
| source | struct | uri, size, probe facts, decoders used (``SOURCE_FIELDS``) |
| duration_seconds | float64 | length of the clip that the segments divide |
| frames | list<binary> [S] | JPEG (q95 4:4:4) or raw uint8 RGB ``H*W*3``; the schema metadata says which |
| frame_height, frame_width | int32 | pixels |
| frame_times_seconds | list<float32> [S] | presentation time of each frame |
| waveform | binary, int16 [num_samples] | 16 kHz mono, where the task mixes audio; null otherwise |
| fbank_<spec> | binary, float16 or float32 [S, T, F] | log-mel, not normalised; zero past ``fbank_<spec>_frames`` |
| fbank_<spec>_frames | int16 | valid time frames of every segment (at most T) |
| event_labels, category | list<int8> [S], string | AVE: class per second (28 = background), category of the event |
| masks, mask_frames | list<binary>, list<int8> | AVSBench: 1-bit PNG masks and the frame index of each |
| extra_frames | list<binary> | MUSIC-AVQA: frames of the 60-frame grid for negatives, when stored |
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from stgcma.data.fbank import FBANK_SPECS
from stgcma.errors import ShardMismatchError

SCHEMA_VERSION = 1
METADATA_KEY = b"stgcma"
"""Key of the Parquet key-value metadata; its value is the JSON of ``ShardMetadata``."""

FrameEncoding = Literal["jpeg", "raw"]
FbankDtype = Literal["float16", "float32"]
AnnotationKind = Literal["events", "masks", "questions"]


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """The media file of a clip and its properties. Times are in seconds, sizes in bytes and pixels."""

    uri: str
    size_bytes: int
    video_codec: str = ""
    width: int = 0
    height: int = 0
    frame_rate: float = 0.0
    num_video_frames: int = 0
    video_start_seconds: float = 0.0
    video_duration_seconds: float = 0.0
    rotation_degrees: int = 0
    audio_codec: str = ""
    sample_rate: int = 0
    num_channels: int = 0
    audio_start_seconds: float = 0.0
    audio_duration_seconds: float = 0.0
    frame_decoder: str = ""
    """``selective``, ``pyav`` or ``png``; see ``pipelines.media.decode``."""
    audio_decoder: str = ""
    padded_audio_samples: int = 0
    """Zeros appended so that the waveform covers ``duration_seconds``; 0 if the audio was long enough."""
    non_binary_mask_pixels: int = 0
    """AVSBench: pixels of the mask files that were neither black nor white before thresholding."""
    length_note: str = ""
    """``cut from 12.00 s`` or ``filled up from 8.00 s`` if the clip did not have the length that its dataset states."""


@dataclass(frozen=True, kw_only=True)
class ShardMetadata:
    """The description of a shard in its Parquet key-value metadata."""

    schema_version: int = SCHEMA_VERSION
    dataset: str
    fingerprint: str
    annotation: AnnotationKind
    num_segments: int
    frame_encoding: FrameEncoding = "jpeg"
    fbank_specs: tuple[str, ...] = ()
    fbank_dtype: FbankDtype = "float16"
    stores_waveform: bool = True
    stores_extra_frames: bool = False

    def encode(self) -> bytes:
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)}).encode()

    @classmethod
    def decode(cls, schema: pa.Schema, where: str) -> ShardMetadata:
        """Read the description from a Parquet schema.

        Args:
            schema: Schema of the file.
            where: Location of the file, for messages.

        Raises:
            ShardMismatchError: If the file is not an stgcma shard or has another schema version.
        """
        raw = (schema.metadata or {}).get(METADATA_KEY)
        if raw is None:
            raise ShardMismatchError(
                f"{where} is not an stgcma shard: its Parquet metadata has no {METADATA_KEY.decode()!r} key. "
                "Point data.shards at the output of stgcma-jobs preprocess."
            )
        values = json.loads(raw)
        if values.get("schema_version") != SCHEMA_VERSION:
            raise ShardMismatchError(
                f"{where} has schema version {values.get('schema_version')}, but this release reads {SCHEMA_VERSION}. "
                "Run stgcma-jobs preprocess again with this release."
            )
        values["fbank_specs"] = tuple(values["fbank_specs"])
        return cls(**values)


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipRow:
    """One clip in memory. ``S`` segments, ``T`` time frames, ``F`` mel bins. Rows are equal if all their values are."""

    clip_id: str
    dataset: str
    split: str
    video_id: str
    source: ClipSource
    duration_seconds: float
    frames: Sequence[bytes]
    """``S`` frames: JPEG files, or raw RGB with ``frame_height * frame_width * 3`` bytes each."""
    frame_height: int
    frame_width: int
    frame_times_seconds: Sequence[float]
    waveform: np.ndarray | None = None
    """``[num_samples]`` int16, 16 kHz mono."""
    fbanks: dict[str, np.ndarray] = field(default_factory=dict)
    """Spec name -> ``[S, T, F]`` log-mel values, zero after the valid frames."""
    fbank_frames: dict[str, int] = field(default_factory=dict)
    """Spec name -> valid time frames per segment."""
    event_labels: np.ndarray | None = None
    """``[S]`` int8."""
    category: str | None = None
    masks: Sequence[bytes] | None = None
    """1-bit PNG files."""
    mask_frames: Sequence[int] | None = None
    extra_frames: Sequence[bytes] | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClipRow):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]  # rows hold arrays; the annotation of object does not allow None

    def __repr__(self) -> str:
        fbanks = {name: list(value.shape) for name, value in self.fbanks.items()}
        samples = None if self.waveform is None else len(self.waveform)
        return (
            f"ClipRow({self.dataset}/{self.split}/{self.clip_id}, frames={len(self.frames)}x"
            f"{self.frame_height}x{self.frame_width}, waveform={samples}, fbanks={fbanks})"
        )


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[name], right[name]) for name in left)
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        both = left is not None and right is not None
        return both and np.array_equal(left, right) and np.asarray(left).dtype == np.asarray(right).dtype
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return list(left) == list(right)
    return left == right


_SOURCE_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
SOURCE_FIELDS = pa.struct([(f.name, _SOURCE_TYPES[str(f.type)]) for f in fields(ClipSource)])


def fbank_column(spec_name: str) -> str:
    return f"fbank_{spec_name}"


def fbank_shape(spec_name: str, num_segments: int) -> tuple[int, int, int]:
    """Shape ``(S, T, F)`` of the filter banks of one clip."""
    spec = FBANK_SPECS[spec_name]
    return num_segments, spec.target_frames, spec.num_mel_bins


def _array_field(name: str, dtype: str, shape: tuple[int, ...]) -> pa.Field:
    """A binary column of little-endian values. -1 in the shape stands for a length that differs from row to row."""
    return pa.field(name, pa.binary(), metadata={"dtype": dtype, "shape": json.dumps(shape)})


def arrow_schema(metadata: ShardMetadata) -> pa.Schema:
    """The Parquet schema of shards with this metadata. It has only the columns that the dataset stores."""
    columns: list[tuple[str, pa.DataType] | pa.Field] = [
        ("clip_id", pa.string()),
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("video_id", pa.string()),
        ("source", SOURCE_FIELDS),
        ("duration_seconds", pa.float64()),
        ("frames", pa.list_(pa.binary())),
        ("frame_height", pa.int32()),
        ("frame_width", pa.int32()),
        ("frame_times_seconds", pa.list_(pa.float32())),
    ]
    if metadata.stores_waveform:
        columns.append(_array_field("waveform", "<i2", (-1,)))
    for name in metadata.fbank_specs:
        dtype = "<f2" if metadata.fbank_dtype == "float16" else "<f4"
        columns.append(_array_field(fbank_column(name), dtype, fbank_shape(name, metadata.num_segments)))
        columns.append((f"{fbank_column(name)}_frames", pa.int16()))
    if metadata.annotation == "events":
        columns += [("event_labels", pa.list_(pa.int8())), ("category", pa.string())]
    elif metadata.annotation == "masks":
        columns += [
            ("masks", pa.list_(pa.binary())),
            ("mask_frames", pa.list_(pa.int8())),
            ("category", pa.string()),
        ]
    if metadata.stores_extra_frames:
        columns.append(("extra_frames", pa.list_(pa.binary())))
    return pa.schema(columns, metadata={METADATA_KEY: metadata.encode()})


def encode_rows(rows: Sequence[ClipRow], metadata: ShardMetadata) -> pa.Table:
    """Rows -> one Arrow table with ``arrow_schema(metadata)``, to be written with ``PARQUET_OPTIONS``.

    Raises:
        ShardMismatchError: If an array has another shape than the schema says.
    """
    schema = arrow_schema(metadata)
    columns = []
    values: list[Any]
    for column in schema:
        name = column.name
        if name == "source":
            values = [{f.name: getattr(row.source, f.name) for f in fields(ClipSource)} for row in rows]
        elif name.endswith("_frames") and name.startswith("fbank_"):
            values = [row.fbank_frames[_spec_name(name)] for row in rows]
        elif column.metadata:
            values = [_encode_array(_array_value(row, name), column, row) for row in rows]
        else:
            values = [getattr(row, name) for row in rows]
        columns.append(pa.array(values, type=column.type))
    return pa.Table.from_arrays(columns, schema=schema)


def decode_rows(table: pa.Table) -> list[ClipRow]:
    """A table, or a slice of one -> rows. Columns that were not read keep their defaults.

    Arrays are read-only views of the memory of the table.
    """
    columns = {column.name: _decode_column(table, column) for column in table.schema}
    columns.setdefault("source", [ClipSource(uri="", size_bytes=0)] * table.num_rows)
    fbanks = [_spec_name(name) for name in columns if name.startswith("fbank_") and not name.endswith("_frames")]
    plain = [name for name in columns if not name.startswith("fbank_")]
    rows = []
    for index in range(table.num_rows):
        values = {name: columns[name][index] for name in plain}
        if isinstance(values["source"], dict):
            values["source"] = ClipSource(**values["source"])
        rows.append(
            ClipRow(
                fbanks={name: columns[fbank_column(name)][index] for name in fbanks},
                fbank_frames={name: columns[f"{fbank_column(name)}_frames"][index] for name in fbanks},
                **{**_ROW_DEFAULTS, **values},
            )
        )
    return rows


_ROW_DEFAULTS = {
    "clip_id": "",
    "dataset": "",
    "split": "",
    "video_id": "",
    "duration_seconds": 0.0,
    "frames": (),
    "frame_height": 0,
    "frame_width": 0,
    "frame_times_seconds": (),
}


def _spec_name(column: str) -> str:
    return column.removeprefix("fbank_").removesuffix("_frames")


def _array_value(row: ClipRow, column: str) -> np.ndarray | None:
    return row.waveform if column == "waveform" else row.fbanks[_spec_name(column)]


def _array_layout(column: pa.Field) -> tuple[str, list[int]]:
    """dtype and shape of the arrays in a binary column."""
    return _parse_layout(column.metadata[b"dtype"], column.metadata[b"shape"])


@lru_cache(maxsize=64)
def _parse_layout(dtype: bytes, shape: bytes) -> tuple[str, list[int]]:
    return dtype.decode(), json.loads(shape)


def _encode_array(value: np.ndarray | None, column: pa.Field, row: ClipRow) -> bytes | None:
    if value is None:
        return None
    dtype, shape = _array_layout(column)
    if value.ndim != len(shape) or any(want not in (-1, got) for want, got in zip(shape, value.shape, strict=True)):
        raise ShardMismatchError(
            f"Column {column.name!r} needs arrays of shape {shape} (-1: any length), "
            f"but clip {row.dataset}/{row.clip_id} has {list(value.shape)}. Preprocess it again."
        )
    return np.ascontiguousarray(value, dtype=dtype).tobytes()


def _decode_column(table: pa.Table, column: pa.Field) -> list[Any]:
    """One Python value per row. Arrays are numpy views."""
    values = table.column(column.name)
    if column.metadata and b"dtype" in column.metadata:
        dtype, shape = _array_layout(column)
        buffers = [scalar.as_buffer() for scalar in values]
        return [None if b is None else np.frombuffer(b, dtype).reshape(shape) for b in buffers]
    if column.name == "event_labels":
        return [None if value is None else np.array(value, np.int8) for value in values.to_pylist()]
    return values.to_pylist()


PARQUET_OPTIONS: dict[str, Any] = {
    "compression": "none",
    "use_dictionary": False,
    "write_statistics": ["clip_id", "video_id", "split"],
    "write_page_checksum": True,
}
"""How shards are written. Compression and dictionaries are off: they save 5 to 10 % on JPEG files and noise-like
numbers, and multiply the reading time by 5. Every page carries a checksum."""

DIGEST_KEY = b"stgcma_rows"
"""Key of the Parquet key-value metadata; its value is the digest of the rows, as the manifest lists it."""


def require_columns(metadata: ShardMetadata, *, fbank: str, where: str, command: str) -> None:
    """Check that the shards hold the filter bank that the backbone reads.

    Args:
        metadata: Description of the shards.
        fbank: Name of the filter bank that is needed.
        where: Folder or URI of the shards.
        command: The preprocessing command without ``--fbank``.

    Raises:
        ShardMismatchError: If the filter bank is missing. The message says how to preprocess it.
    """
    if fbank in metadata.fbank_specs:
        return
    stored = (f"{list(fbank_shape(name, metadata.num_segments))} of spec {name!r}" for name in metadata.fbank_specs)
    others = " or ".join(map(repr, metadata.fbank_specs))
    alternative = f"\nor set model.backbone to one that reads {others}." if others else ""
    raise ShardMismatchError(
        f"{where} stores fbank {' and '.join(stored) or 'nothing'} (segments, frames, mel bins), but the backbone "
        f"reads {list(fbank_shape(fbank, metadata.num_segments))} of spec {fbank!r}.\n"
        f"Either: {command} --fbank {fbank}{alternative}"
    )
