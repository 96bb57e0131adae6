"""The row: one clip as it lies in a Parquet shard. The only place that knows its physical encoding.

Shards read with plain pyarrow, polars or pandas; ``decode_rows`` turns a table into ``ClipRow`` objects.

| column | Arrow type | meaning |
|---|---|---|
| clip_id | string | unique within the dataset; AVE: ``<video_id>:<row in Annotations.txt>`` |
| dataset, split, video_id | string | ``ave``; ``train``/``val``/``test`` (MUSIC-AVQA: ``videos``); id of the media file |
| source | struct | uri, size, probe facts, decoders used (``SOURCE_FIELDS``) |
| duration_seconds | float64 | length of the clip that the segments divide |
| frames | list<binary> [S] | JPEG (q95 4:4:4) or raw uint8 RGB ``H*W*3``; the schema metadata says which |
| frame_height, frame_width | int32 | pixels |
| frame_times_seconds | list<float32> [S] | presentation time of each frame |
| waveform | list<int16> | 16 kHz mono, where the task mixes audio; null otherwise |
| fbank_<spec> | fixed_shape_tensor [S, T, F] | log-mel, not normalised; rows past ``fbank_<spec>_frames`` are zero |
| fbank_<spec>_frames | int16 | valid time frames of every segment (at most T) |
| event_labels, category | list<int8> [S], string | AVE: class per second (28 = background), category of the event |
| masks, mask_frames | list<binary>, list<int8> | AVSBench: 1-bit PNG masks and the frame index of each |
| extra_frames | list<binary> | MUSIC-AVQA: frames of the 60-frame grid for negatives, when stored |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
import pyarrow as pa

from stgcma.data.fbank import FBANK_SPECS
from stgcma.errors import ShardMismatchError

SCHEMA_VERSION = 1
SAMPLE_RATE = 16_000
METADATA_KEY = b"stgcma"
"""Key of the Parquet key-value metadata; its value is the JSON of ``ShardMetadata``."""

FrameEncoding = Literal["jpeg", "raw"]
FbankDtype = Literal["float16", "float32"]
AnnotationKind = Literal["events", "masks", "questions"]


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """Where a clip came from and what the probe saw. Times in seconds, sizes in bytes and pixels."""

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
    """``decord``, ``pyav`` or ``png``."""
    audio_decoder: str = ""
    padded_audio_samples: int = 0
    """Zeros appended so that the waveform covers ``duration_seconds``; 0 when the audio was long enough."""


@dataclass(frozen=True, kw_only=True)
class ShardMetadata:
    """What every shard says of itself in its Parquet key-value metadata."""

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
        """Read it back from a Parquet schema.

        Raises:
            ShardMismatchError: If the file is not one of our shards or of another schema version.
        """
        raw = (schema.metadata or {}).get(METADATA_KEY)
        if raw is None:
            raise ShardMismatchError(
                f"{where} is no stgcma shard: its Parquet metadata has no {METADATA_KEY.decode()!r} key. "
                "Point data.shards at the output of stgcma-jobs preprocess."
            )
        values = json.loads(raw)
        if values.get("schema_version") != SCHEMA_VERSION:
            raise ShardMismatchError(
                f"{where} has schema version {values.get('schema_version')}, this release reads {SCHEMA_VERSION}. "
                "Run stgcma-jobs preprocess again with this release."
            )
        values["fbank_specs"] = tuple(values["fbank_specs"])
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class ClipRow:
    """One clip, in memory. ``S`` segments, ``T`` time frames, ``F`` mel bins."""

    clip_id: str
    dataset: str
    split: str
    video_id: str
    source: ClipSource
    duration_seconds: float
    frames: Sequence[bytes]
    """``S`` encoded frames (JPEG), or raw RGB bytes of ``frame_height * frame_width * 3``."""
    frame_height: int
    frame_width: int
    frame_times_seconds: Sequence[float]
    waveform: np.ndarray | None = None
    """``[num_samples]`` int16, 16 kHz mono."""
    fbanks: dict[str, np.ndarray] = field(default_factory=dict)
    """Spec name -> ``[S, T, F]`` log-mel, padded with zeros past the valid frames."""
    fbank_frames: dict[str, int] = field(default_factory=dict)
    """Spec name -> valid time frames per segment."""
    event_labels: np.ndarray | None = None
    """``[S]`` int8."""
    category: str | None = None
    masks: Sequence[bytes] | None = None
    """1-bit PNG files."""
    mask_frames: Sequence[int] | None = None
    extra_frames: Sequence[bytes] | None = None

    def __repr__(self) -> str:
        fbanks = {name: list(value.shape) for name, value in self.fbanks.items()}
        samples = None if self.waveform is None else len(self.waveform)
        return (
            f"ClipRow({self.dataset}/{self.split}/{self.clip_id}, frames={len(self.frames)}x"
            f"{self.frame_height}x{self.frame_width}, waveform={samples}, fbanks={fbanks})"
        )


_SOURCE_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
SOURCE_FIELDS = pa.struct([(f.name, _SOURCE_TYPES[str(f.type)]) for f in fields(ClipSource)])


def fbank_column(spec_name: str) -> str:
    return f"fbank_{spec_name}"


def _fbank_type(spec_name: str, num_segments: int, dtype: FbankDtype) -> pa.DataType:
    spec = FBANK_SPECS[spec_name]
    value_type = pa.float16() if dtype == "float16" else pa.float32()
    return pa.fixed_shape_tensor(value_type, [num_segments, spec.target_frames, spec.num_mel_bins])


def arrow_schema(metadata: ShardMetadata) -> pa.Schema:
    """The Parquet schema of shards with this metadata: only the columns that the dataset stores."""
    columns: list[tuple[str, pa.DataType]] = [
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
        columns.append(("waveform", pa.list_(pa.int16())))
    for name in metadata.fbank_specs:
        columns.append((fbank_column(name), _fbank_type(name, metadata.num_segments, metadata.fbank_dtype)))
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
    """Rows -> one Arrow table with ``arrow_schema(metadata)``, ready for ``pyarrow.parquet.write_table``."""
    schema = arrow_schema(metadata)
    columns: dict[str, pa.Array] = {}
    plain = {
        "clip_id", "dataset", "split", "video_id", "duration_seconds", "frame_height", "frame_width",
        "frame_times_seconds", "frames", "category", "masks", "mask_frames", "extra_frames",
    }  # fmt: skip
    for column in schema:
        if column.name in plain:
            columns[column.name] = pa.array([getattr(row, column.name) for row in rows], type=column.type)
        elif column.name == "source":
            values = [{f.name: getattr(row.source, f.name) for f in fields(ClipSource)} for row in rows]
            columns["source"] = pa.array(values, type=SOURCE_FIELDS)
        elif column.name in ("waveform", "event_labels"):
            columns[column.name] = pa.array([getattr(row, column.name) for row in rows], type=column.type)
    for name in metadata.fbank_specs:
        tensor_type = schema.field(fbank_column(name)).type
        flat = np.ascontiguousarray(
            np.stack([row.fbanks[name] for row in rows]) if rows else np.zeros((0, *tensor_type.shape)),
            dtype=metadata.fbank_dtype,
        )
        if flat.shape[1:] != tuple(tensor_type.shape):
            raise ShardMismatchError(
                f"fbank {name!r} needs [S, T, F] = {list(tensor_type.shape)}, got {list(flat.shape[1:])}."
            )
        storage = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), int(np.prod(tensor_type.shape)))
        columns[fbank_column(name)] = pa.ExtensionArray.from_storage(tensor_type, storage)
        frames = [row.fbank_frames[name] for row in rows]
        columns[f"{fbank_column(name)}_frames"] = pa.array(frames, type=pa.int16())
    return pa.Table.from_arrays([columns[column.name] for column in schema], schema=schema)


def decode_rows(table: pa.Table) -> list[ClipRow]:
    """A table (or slice of one) -> rows. Columns that were not read stay at their defaults."""
    names = set(table.column_names)
    fbank_names = [n.removeprefix("fbank_") for n in table.column_names if n.startswith("fbank_") and n + "_frames" in names]
    fbanks = {
        name: table.column(fbank_column(name)).combine_chunks().to_numpy_ndarray() for name in fbank_names
    }  # fmt: skip
    arrays = {name: _list_values(table, name) for name in ("waveform", "event_labels") if name in names}
    scalars = {
        name: table.column(name).to_pylist()
        for name in names
        if name not in arrays and not (name.startswith("fbank_") and not name.endswith("_frames"))
    }
    rows = []
    for index in range(table.num_rows):
        values = {name: column[index] for name, column in scalars.items() if not name.startswith("fbank_")}
        source = values.pop("source", None)
        rows.append(
            ClipRow(
                source=ClipSource(**source) if source else ClipSource(uri="", size_bytes=0),
                fbanks={name: fbanks[name][index] for name in fbank_names},
                fbank_frames={name: scalars[f"{fbank_column(name)}_frames"][index] for name in fbank_names},
                **{name: column[index] for name, column in arrays.items()},
                **{**_ROW_DEFAULTS, **values},
            )
        )
    return rows


_ROW_DEFAULTS = {
    "clip_id": "", "dataset": "", "split": "", "video_id": "", "duration_seconds": 0.0, "frames": (),
    "frame_height": 0, "frame_width": 0, "frame_times_seconds": (),
}  # fmt: skip


def _list_values(table: pa.Table, name: str) -> list[np.ndarray | None]:
    """A list column as numpy views, without a Python object per element."""
    values: list[np.ndarray | None] = []
    for chunk in table.column(name).chunks:
        flat = chunk.values.to_numpy(zero_copy_only=False)
        offsets = chunk.offsets.to_numpy()
        valid = chunk.is_valid().to_pylist()
        values += [flat[offsets[i] : offsets[i + 1]] if valid[i] else None for i in range(len(chunk))]
    return values


def read_columns(metadata: ShardMetadata, *, frames: bool, waveform: bool, fbank: str | None) -> list[str]:
    """The columns a reader needs, so that the heavy ones nobody asked for are never touched."""
    skip: set[str] = set()
    for column in arrow_schema(metadata).names:
        heavy_fbank = column.startswith("fbank_") and (
            fbank is None or column not in (fbank_column(fbank), f"{fbank_column(fbank)}_frames")
        )
        if heavy_fbank or (column in ("frames", "extra_frames") and not frames) or (column == "waveform" and not waveform):
            skip.add(column)
    return [column for column in arrow_schema(metadata).names if column not in skip]


def require_columns(metadata: ShardMetadata, *, fbank: str, where: str, command: str) -> None:
    """Raise ``ShardMismatchError`` when the shards lack the fbank a backbone reads."""
    if fbank not in metadata.fbank_specs:
        spec = FBANK_SPECS[fbank]
        stored: Iterable[str] = (
            f"{name} {[metadata.num_segments, FBANK_SPECS[name].target_frames, FBANK_SPECS[name].num_mel_bins]}"
            for name in metadata.fbank_specs
        )
        raise ShardMismatchError(
            f"{where} stores fbank {', '.join(stored) or 'nothing'} (segments, frames, mel bins), but the backbone reads "
            f"{fbank} {[metadata.num_segments, spec.target_frames, spec.num_mel_bins]}.\n"
            f"Either: {command} --fbank {fbank}\nor choose a backbone that reads what is stored."
        )
