"""What 10,000, 100,000 and 1,000,000 clips cost apart from decoding: time and memory of every stage.

The source is AVE's layout with empty files; shards hold rows of a few hundred bytes. Everything else is what
``preprocess`` and a training worker do, each in a process of its own. Limits at every size: 30 s of CPU time a stage,
2 GiB for the driver and 1 GiB for a training worker, 0.6 GiB of PyTorch and other libraries included.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import cpu_seconds, reset_peak, status_mib
from pipelines.clips import ClipListing, first_of_each_split
from pipelines.collector import collector_paused
from pipelines.config import PreprocessConfig, fingerprint
from pipelines.datasets import dataset_source
from pipelines.datasets.ave import AVEOptions
from pipelines.preprocess import build_index, build_manifest
from pipelines.shards.execute import pack_task
from pipelines.shards.found import find_shards
from pipelines.shards.making import ShardState, state_path
from pipelines.shards.media import MediaFile, MediaListing
from pipelines.shards.plan import ShardSpec, default_clips_per_shard, plan_shards
from pipelines.storage import FileFacts, Storage
from stgcma.data.index import INDEX_NAME
from stgcma.data.manifest import MANIFEST_NAME, ShardEntry, select_manifest
from stgcma.data.sampler import TrainSampler
from stgcma.data.schema import DIGEST_KEY, PARQUET_OPTIONS, ClipRow, ClipSource, ShardMetadata, encode_rows
from stgcma.data.shard_file import footer_sha256
from stgcma.data.side_table import encode_table
from stgcma.data.store import ShardStore

SIZES = (10_000, 100_000, 1_000_000)
MAX_SECONDS, MAX_DRIVER_MIB, MAX_WORKER_MIB = 30, 2048, 1024
ROW_GROUP_SIZE, BATCH_SIZE, ROWS_READ = 16, 8, 1000
_DIGEST = "0" * 64

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """What one stage took."""

    name: str
    wall_seconds: float
    cpu_seconds: float
    peak_mib: float
    """Resident memory of the whole process at its highest."""
    note: str


class Stages:
    """Runs stages one after the other and keeps what they took."""

    def __init__(self) -> None:
        self.done: list[Stage] = []

    def run(self, name: str, work: Callable[[], T], note: Callable[[T], str] = lambda _: "") -> T:
        """The result of ``work``; ``note`` says how much it was."""
        reset_peak()
        wall, cpu = time.perf_counter(), cpu_seconds()
        result = work()
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
        self.done.append(Stage(name, wall, cpu, status_mib("VmHWM"), note(result)))
        return result


def make_source(root: Path, num_clips: int) -> None:
    """``num_clips`` empty files in AVE's layout, 80 % of them for training."""
    (root / "AVE").mkdir(parents=True)
    ids = [base64.urlsafe_b64encode(hashlib.md5(b"%d" % number).digest())[:11].decode() for number in range(num_clips)]
    for video_id in ids:
        (root / "AVE" / f"{video_id}.mp4").touch()
    lines = [f"Bark&{video_id}&good&{number % 5}&{5 + number % 6}" for number, video_id in enumerate(ids)]
    first, second = num_clips * 8 // 10, num_clips * 9 // 10
    parts = {"trainSet": lines[:first], "valSet": lines[first:second], "testSet": lines[second:]}
    for name, listed in {"Annotations": lines, **parts}.items():
        (root / f"{name}.txt").write_text("\n".join(listed))


def write_states(
    specs: Sequence[ShardSpec], output: Storage, metadata: ShardMetadata, source: Storage, *, with_rows: bool
) -> None:
    """What workers leave behind: states, and files with or without rows."""
    facts = source.list_facts("AVE")
    templates: dict[tuple[str, int], pa.Table] = {}
    for spec in specs:
        entries = {}
        for split, path in spec.parts.items():
            ids = [clip.clip_id for clip in spec.clips if clip.split == split]
            local = Path(output.full_path(path))
            local.parent.mkdir(parents=True, exist_ok=True)
            footer = ""
            if with_rows:
                key = (split, len(ids))
                if key not in templates:
                    templates[key] = encode_rows([_row(split, metadata)] * len(ids), metadata)
                table = templates[key].set_column(0, "clip_id", pa.array(ids))
                with pq.ParquetWriter(local, table.schema, **PARQUET_OPTIONS) as writer:
                    writer.add_key_value_metadata({DIGEST_KEY: _DIGEST})
                    writer.write_table(table, row_group_size=ROW_GROUP_SIZE)
                footer = footer_sha256(str(local))
            else:
                local.touch()
            size = local.stat().st_size
            entries[split] = ShardEntry(
                path=path, num_rows=len(ids), size_bytes=size, digest=_DIGEST, footer_sha256=footer
            )
        state = ShardState(
            spec_digest=spec.digest,
            entries=entries,
            failures=(),
            sums={},
            decoders={"selective": len(spec.clips)},
            padded_clips=0,
            media={clip.media_uri: _media(facts[Path(clip.media_uri).name]) for clip in spec.clips},
        )
        output.write_bytes(state_path(spec.name), state.to_json().encode(), durable=False)


def _media(facts: FileFacts) -> MediaFile:
    return MediaFile(size_bytes=facts.size, modified_ns=facts.modified_ns, sha256=_DIGEST)


def _row(split: str, metadata: ShardMetadata) -> ClipRow:
    return ClipRow(
        clip_id="",
        dataset=metadata.dataset,
        split=split,
        video_id="",
        source=ClipSource(uri="", size_bytes=0),
        duration_seconds=10.0,
        frames=[b"jpeg"] * metadata.num_segments,
        frame_height=1,
        frame_width=1,
        frame_times_seconds=[0.0] * metadata.num_segments,
        event_labels=np.zeros(metadata.num_segments, np.int8),
        category="",
    )


def driver_stages(root: Path, *, clips_per_shard: int | None = None, with_rows: bool = True) -> list[Stage]:
    """What the driver of ``preprocess`` does with the source ``root/source``; shards go to ``root/shards``."""
    with collector_paused():
        return _driver_stages(root, clips_per_shard, with_rows)


def _driver_stages(root: Path, clips_per_shard: int | None, with_rows: bool) -> list[Stage]:
    stages = Stages()
    dataset = dataset_source("ave")
    config = PreprocessConfig(
        dataset="ave", source=f"{root}/source", row_group_size=ROW_GROUP_SIZE, options=AVEOptions()
    )
    listing: ClipListing = stages.run(
        "list", lambda: dataset.list_clips(Storage(config.source), config), lambda found: f"{len(found.clips):,} clips"
    )
    clips = first_of_each_split(listing.clips, None)
    name = stages.run("fingerprint", lambda: fingerprint(config, clips))
    per_shard = clips_per_shard or default_clips_per_shard(clips)
    specs = stages.run(
        "plan",
        lambda: plan_shards(clips, clips_per_shard=per_shard, fingerprint=name),
        lambda made: f"{len(made):,} shards of {per_shard}",
    )
    metadata = replace(dataset.metadata(config, name), stores_waveform=False)
    output = Storage(f"{root}/shards/ave/{name}")
    stages.run(
        "tasks",
        lambda: sum(len(pack_task(spec, config, metadata, output.uri)) for spec in specs),
        lambda size: f"{size / 1e6:.1f} MB",
    )
    write_states(specs, output, metadata, Storage(config.source), with_rows=with_rows)
    media = MediaListing(Storage(config.source), verify=False, note=print)

    def complete() -> tuple[int, int]:
        states = [finished[spec.name] for spec in specs]
        tables = {INDEX_NAME: build_index(specs, states, ROW_GROUP_SIZE)}
        manifest = build_manifest(config, listing, metadata, clips, states, tables).to_json().encode()
        index = encode_table(tables[INDEX_NAME])
        output.write_bytes(INDEX_NAME, index)
        output.write_bytes(MANIFEST_NAME, manifest)
        return len(manifest), len(index)

    finished = stages.run(
        "resume check",
        lambda: find_shards(specs, output, metadata, media, verify=False, num_threads=None).states,
        lambda found: f"{len(found):,} finished",
    )
    assert len(finished) == len(specs)
    stages.run(
        "manifest, index",
        complete,
        lambda sizes: f"{sizes[0] / 1e6:.1f} MB of JSON, {sizes[1] / 1e6:.1f} MB of Parquet",
    )
    return stages.done


def worker_stages(root: Path, *, with_rows: bool = True) -> list[Stage]:
    """What a training worker does with the shards of ``driver_stages``."""
    stages = Stages()

    def start() -> ShardStore:
        store = ShardStore(f"{root}/shards", select_manifest(f"{root}/shards", "ave", fbank=None))
        for split in ("train", "val"):
            store.num_clips(split)
        return store

    store = stages.run("read the index", start, lambda made: f"{made.num_clips('train'):,} training clips")
    sampler = TrainSampler(store.num_clips("train"), BATCH_SIZE, seed=0)
    stages.run(
        "order of an epoch",
        lambda: sum(len(units) for units in sampler.batches(epoch=1)),
        lambda units: f"{units:,} clips in batches of {BATCH_SIZE}",
    )
    if with_rows:
        numbers = np.random.default_rng(0).integers(store.num_clips("train"), size=ROWS_READ).tolist()
        stages.run(
            f"{ROWS_READ:,} rows",
            lambda: [store.row("train", number, ("clip_id", "frames", "event_labels")) for number in numbers],
            lambda _: f"at random; {_open_shards()} shards open after it",
        )
    return stages.done


def _open_shards() -> int:
    links = Path("/proc/self/fd")
    return sum(str(os.readlink(link)).endswith(".parquet") for link in links.iterdir() if link.is_symlink())


def measure_size(num_clips: int) -> tuple[list[Stage], list[Stage]]:
    """Stages of the driver and of a worker, each measured in a fresh process."""
    with tempfile.TemporaryDirectory(prefix="stgcma-") as folder:
        root = Path(folder)
        make_source(root / "source", num_clips)
        measured = []
        for work in (driver_stages, worker_stages):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                measured.append(pool.submit(work, root).result())
    return measured[0], measured[1]


def run(sizes: Sequence[int] = SIZES) -> str:
    """A table of every size; limits that were missed are marked."""
    lines = []
    for num_clips in sizes:
        driver, worker = measure_size(num_clips)
        lines.append(f"{num_clips:,} clips{'':22} wall s   CPU s  peak MiB")
        for who, stages, max_mib in (("driver", driver, MAX_DRIVER_MIB), ("worker", worker, MAX_WORKER_MIB)):
            for stage in stages:
                missed = "  MISSED" if stage.cpu_seconds > MAX_SECONDS or stage.peak_mib > max_mib else ""
                numbers = f"{stage.wall_seconds:8.2f}{stage.cpu_seconds:8.2f}{stage.peak_mib:10.0f}"
                lines.append(f"  {who} {stage.name:22} {numbers}  {stage.note}{missed}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, metavar="CLIPS", help="default: all three")
    print(run(parser.parse_args().sizes))
