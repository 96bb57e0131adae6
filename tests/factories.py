"""The smallest valid rows, shards, manifests and batches for tests."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

from stgcma.data.batch import AVBatch, EventTargets
from stgcma.data.fbank import FBANK_SPECS, SAMPLE_RATE, segment_fbanks
from stgcma.data.index import INDEX_NAME, index_table
from stgcma.data.manifest import MANIFEST_NAME, FbankStats, ShardEntry, ShardManifest
from stgcma.data.question_table import questions_to_table
from stgcma.data.question_text import Question, build_vocabulary
from stgcma.data.schema import ClipRow, ClipSource, ShardMetadata
from stgcma.data.side_table import encode_table, table_digest

NUM_CLASSES = 29
ROW_GROUP_SIZE = 16


def tiny_frame(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """``[H, W, 3]`` uint8: a colour gradient that depends on the seed, and a little noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    ramp = np.stack([rows * 3.0, columns * 2.0, (rows + columns) * 1.5], axis=-1) * rng.uniform(0.4, 1.0, 3)
    return np.clip(ramp + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


def jpeg(frame: np.ndarray) -> bytes:
    """A JPEG file as preprocessing stores it: quality 95, no chroma subsampling."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=95, colorsubsampling="444")


def one_bit_png(mask: np.ndarray) -> bytes:
    """``[H, W]`` bool -> 1-bit PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def tiny_waveform(seed: int, seconds: float) -> np.ndarray:
    """``[num_samples]`` int16: a tone and noise that depend on the seed."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * rng.uniform(200, 4000) * time) * rng.uniform(2000, 8000)
    return np.clip(tone + rng.normal(0, 300, time.size), -32768, 32767).astype(np.int16)


def tiny_metadata(
    annotation: str = "events",
    *,
    dataset: str = "ave",
    num_segments: int = 10,
    fbanks: tuple[str, ...] = ("demo",),
    frame_encoding: str = "jpeg",
    fbank_dtype: str = "float16",
    waveform: bool = True,
    extra_frames: bool = False,
) -> ShardMetadata:
    return ShardMetadata(
        dataset=dataset,
        fingerprint="tiny0000",
        annotation=annotation,
        num_segments=num_segments,
        frame_encoding=frame_encoding,
        fbank_specs=fbanks,
        fbank_dtype=fbank_dtype,
        stores_waveform=waveform,
        stores_extra_frames=extra_frames,
    )


def tiny_row(
    index: int = 0,
    metadata: ShardMetadata | None = None,
    *,
    split: str = "train",
    height: int = 48,
    width: int = 64,
    seconds: float | None = None,
) -> ClipRow:
    """One clip. ``index`` determines its values, and ``metadata`` its columns and shapes."""
    metadata = metadata or tiny_metadata()
    num_segments = metadata.num_segments
    seconds = float(num_segments) if seconds is None else seconds
    rng = np.random.default_rng(1000 + index)
    waveform = tiny_waveform(index, seconds)
    fbanks, fbank_frames = {}, {}
    for name in metadata.fbank_specs:
        fbank, valid_frames = segment_fbanks(torch.from_numpy(waveform), FBANK_SPECS[name], num_segments)
        fbanks[name], fbank_frames[name] = fbank.numpy().astype(metadata.fbank_dtype), valid_frames
    frames = [tiny_frame(100 * index + segment, height, width) for segment in range(num_segments)]
    encoded = [jpeg(f) if metadata.frame_encoding == "jpeg" else f.tobytes() for f in frames]
    annotation: dict[str, Any] = {}
    if metadata.annotation == "events":
        labels = np.full(num_segments, NUM_CLASSES - 1, np.int8)
        start, stop = sorted(rng.choice(num_segments + 1, 2, replace=False))
        labels[start:stop] = index % (NUM_CLASSES - 1)
        annotation = {"event_labels": labels, "category": f"class {index % (NUM_CLASSES - 1)}"}
    elif metadata.annotation == "masks":
        masks = [one_bit_png(rng.random((height, width)) > 0.5) for _ in range(num_segments)]
        annotation = {"masks": masks, "mask_frames": list(range(num_segments)), "category": f"class {index % 3}"}
    if metadata.stores_extra_frames:
        annotation["extra_frames"] = [jpeg(tiny_frame(9000 + 100 * index + k, height, width)) for k in range(4)]
    return ClipRow(
        clip_id=f"clip{index:04d}:{index}",
        dataset=metadata.dataset,
        split=split,
        video_id=f"clip{index:04d}",
        source=ClipSource(
            uri=f"clip{index:04d}.mp4",
            size_bytes=1000 + index,
            width=width,
            height=height,
            frame_rate=25.0,
            sample_rate=SAMPLE_RATE,
            num_channels=1,
            frame_decoder="pyav",
        ),
        duration_seconds=seconds,
        frames=encoded,
        frame_height=height,
        frame_width=width,
        frame_times_seconds=[float(np.float32((k + 0.5) * seconds / num_segments)) for k in range(num_segments)],
        waveform=waveform if metadata.stores_waveform else None,
        fbanks=fbanks,
        fbank_frames=fbank_frames,
        **annotation,
    )


def write_shards(
    root: Path | str,
    *,
    splits: Mapping[str, int] | None = None,
    metadata: ShardMetadata | None = None,
    rows_per_shard: int = 3,
    class_names: tuple[str, ...] = (),
    **row_options: Any,
) -> ShardManifest:
    """Write a complete preprocessed dataset under ``root``. Clips are numbered across the splits.

    Args:
        root: ``DataConfig.shards``.
        splits: Clips per split; 6 train, 3 val and 3 test by default.
        metadata: From ``tiny_metadata``.
        rows_per_shard: Small by default, so that a split has several files.
        class_names: Class names of the manifest.
        row_options: Passed to ``tiny_row``.
    """
    metadata = metadata or tiny_metadata()
    folder = Path(root) / metadata.dataset / metadata.fingerprint
    entries: dict[str, tuple[ShardEntry, ...]] = {}
    ids: dict[str, list[list[str]]] = {}
    values: dict[str, list[np.ndarray]] = {name: [] for name in metadata.fbank_specs}
    index = 0
    for split, num_rows in (splits or {"train": 6, "val": 3, "test": 3}).items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        rows = [tiny_row(index + k, metadata, split=split, **row_options) for k in range(num_rows)]
        index += num_rows
        shards = [rows[k : k + rows_per_shard] for k in range(0, num_rows, rows_per_shard)]
        written: list[ShardEntry] = []
        ids[split] = []
        for number, shard in enumerate(shards):
            path = f"{split}/part-{number:05d}-of-{len(shards):05d}.parquet"
            ids[split].append([row.clip_id for row in shard])
            written.append(write_shard(shard, metadata, folder, path))
        entries[split] = tuple(written)
        if split in ("train", "videos"):
            for name in values:
                values[name] += [row.fbanks[name][:, : row.fbank_frames[name]].astype(np.float64) for row in rows]
    stats = {
        name: FbankStats(mean=float(np.mean(v)), std=float(np.std(v)), count=int(np.size(v)))
        for name, v in values.items()
        if v
    }
    manifest = ShardManifest(
        dataset=metadata.dataset,
        fingerprint=metadata.fingerprint,
        metadata=metadata,
        splits=entries,
        num_failures=dict.fromkeys(entries, 0),
        stats=stats,
        class_names=class_names,
        settings={"made_by": "tests"},
        tables={INDEX_NAME: write_index(folder, ids)},
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return manifest


def write_index(folder: Path, shards: Mapping[str, list[list[str]]]) -> str:
    """The index of shards written by ``write_shard``, from the clip ids of each by split; its digest."""
    table = index_table(shards, ROW_GROUP_SIZE)
    (folder / INDEX_NAME).write_bytes(encode_table(table))
    return table_digest(table)


def write_shard(rows: Sequence[ClipRow], metadata: ShardMetadata, folder: Path, path: str) -> ShardEntry:
    """One Parquet file under ``folder``, and what the manifest says of it."""
    from pipelines.shards.parts import PartWriter  # not above: a test imports this file where there is no pipelines
    from pipelines.storage import Storage

    with PartWriter(Storage(str(folder)), path, metadata, ROW_GROUP_SIZE) as part:
        for row in rows:
            part.add(row)
    assert part.entry is not None, "an empty shard has no file"
    return part.entry


def tiny_batch(
    num_clips: int = 2,
    num_segments: int = 10,
    *,
    image_size: int = 48,
    audio_size: tuple[int, int] = (48, 48),
    num_classes: int = NUM_CLASSES,
    seed: int = 0,
) -> AVBatch:
    """Random tensors with the geometry of the demo backbone and targets of AVE."""
    generator = torch.Generator().manual_seed(seed)
    return AVBatch(
        clip_ids=tuple(f"clip{k:04d}" for k in range(num_clips)),
        frames=torch.randn(num_clips, num_segments, 3, image_size, image_size, generator=generator),
        fbank=torch.randn(num_clips, num_segments, *audio_size, generator=generator),
        targets=EventTargets(labels=torch.randint(num_classes, (num_clips, num_segments), generator=generator)),
    )


_KINDS = (("Audio", "Counting"), ("Visual", "Location"), ("Audio-Visual", "Temporal"))


def tiny_questions(num_videos: int, split: str) -> list[Question]:
    """One to three questions per video. Id: ten times the number of the video, plus the number of the question.

    In the test split, five is added.
    """
    offset = 0 if split == "train" else 5
    return [
        Question(
            question_id=10 * video + offset + k,
            video_id=f"video{video:04d}",
            type=_KINDS[k],
            words=("Is", "a", "video", ("old", "new")[(video + k) % 2]),
            answer=("yes", "no", "two")[(video + k) % 3],
        )
        for video in range(num_videos)
        for k in range(video % 3 + 1)
    ]


def write_question_shards(
    root: Path | str,
    *,
    num_videos: int,
    num_segments: int = 3,
    metadata: ShardMetadata | None = None,
    grey_of_video: Callable[[int], int] | None = None,
    extra_grey: int = 0,
) -> ShardManifest:
    """Write MUSIC-AVQA shards with stored train and test questions.

    Args:
        root: ``DataConfig.shards``.
        num_videos: Videos ``video0000``, ``video0001``, ...
        num_segments: ``S``.
        metadata: Replaces ``tiny_metadata("questions", dataset="music-avqa", ...)``.
        grey_of_video: Grey level of all frames of a video, by which a test recognises the video.
        extra_grey: Grey level of ``extra_frames``, if ``metadata`` stores them.
    """
    metadata = metadata or tiny_metadata("questions", dataset="music-avqa", num_segments=num_segments, waveform=False)
    folder = Path(root) / metadata.dataset / metadata.fingerprint
    rows = []
    for number in range(num_videos):
        row = tiny_row(number, metadata, split="videos", seconds=float(num_segments))
        row = replace(row, clip_id=f"video{number:04d}", video_id=f"video{number:04d}")
        if grey_of_video is not None:
            flat = jpeg(np.full((48, 64, 3), grey_of_video(number), np.uint8))
            extra = [jpeg(np.full((48, 64, 3), extra_grey, np.uint8))] * 4 if metadata.stores_extra_frames else None
            row = replace(row, frames=[flat] * num_segments, extra_frames=extra)
        rows.append(row)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    (folder / "questions").mkdir(exist_ok=True)
    path = "videos/part-00000-of-00001.parquet"
    entry = write_shard(rows, metadata, folder, path)
    tables = {
        f"questions/{split}.parquet": questions_to_table(tiny_questions(num_videos, split))
        for split in ("train", "test")
    }
    for name, table in tables.items():
        (folder / name).write_bytes(encode_table(table))
    vocabulary = build_vocabulary(tiny_questions(num_videos, "train"))
    manifest = ShardManifest(
        dataset=metadata.dataset,
        fingerprint=metadata.fingerprint,
        metadata=metadata,
        splits={"videos": (entry,)},
        num_failures={"videos": 0},
        class_names=vocabulary.answers,
        question_words=vocabulary.words,
        tables={
            INDEX_NAME: write_index(folder, {"videos": [[row.clip_id for row in rows]]}),
            **{name: table_digest(table) for name, table in tables.items()},
        },
        settings={"made_by": "tests"},
        stats={name: FbankStats(mean=-5.0, std=4.0, count=1) for name in metadata.fbank_specs},
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return manifest
