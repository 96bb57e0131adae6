"""What earlier runs left in an output folder: the shards that can be used, and why the others cannot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa

from pipelines.shards.digest import RowsDigest
from pipelines.shards.making import ShardState, state_path
from pipelines.shards.media import MediaListing
from pipelines.shards.plan import ShardSpec
from pipelines.storage import Storage
from stgcma.data.manifest import ShardEntry
from stgcma.data.schema import ShardMetadata, decode_rows
from stgcma.data.shard_file import MISSING_ROWS, REPAIR, damaged_page, open_shard
from stgcma.errors import ShardMismatchError


@dataclass(frozen=True, kw_only=True)
class FoundShards:
    """Finished shards, and what is wrong with others."""

    states: dict[str, ShardState]
    """Shard -> its state, of the shards that can be used; without the media, which were compared and are many."""
    problems: dict[str, str]
    """Shard that was finished and has to be made anew -> what is damaged or changed, as a sentence."""


def find_shards(
    specs: Sequence[ShardSpec],
    output: Storage,
    metadata: ShardMetadata,
    media: MediaListing,
    *,
    verify: bool,
    num_threads: int | None,
) -> FoundShards:
    """Look for finished shards of a plan.

    Args:
        specs: The plan.
        output: Folder of the run.
        metadata: What every shard says of itself.
        media: What the source holds now.
        verify: Whether every row is read. Otherwise the size of the files is all that is looked at.
        num_threads: Shards that are read at a time; None or 0: one per CPU.
    """
    sizes = output.list_files(recursive=True)
    states: dict[str, ShardState] = {}
    problems: dict[str, str] = {}

    def look_at(spec: ShardSpec) -> tuple[ShardState | None, str]:
        path = state_path(spec.name)
        if path not in sizes:
            return None, ""
        try:
            state = ShardState.from_json(output.read_bytes(path), path)
        except ShardMismatchError as error:
            return None, str(error)
        compared = media.compare(state.media)
        if compared.change or state.spec_digest != spec.digest:
            return None, compared.change
        for entry in state.entries.values():
            found = sizes.get(entry.path)
            if found != entry.size_bytes:
                return None, f"{entry.path} has {found or 'no'} bytes of {entry.size_bytes}."
        for split, entry in state.entries.items() if verify else ():
            if problem := verify_rows(output, entry, split, metadata):
                return None, problem
        if compared.touched:
            state = replace(state, media={**state.media, **compared.touched})
            output.write_bytes(path, state.to_json().encode())
        return replace(state, media={}), ""

    with ThreadPoolExecutor((num_threads or os.cpu_count() or 1) if verify else _requests(output)) as threads:
        for spec, (state, problem) in zip(specs, threads.map(look_at, specs), strict=True):
            if state is not None:
                states[spec.name] = state
            elif problem:
                problems[spec.name] = problem
    return FoundShards(states=states, problems=problems)


def read_states(shards: Sequence[str], output: Storage) -> dict[str, ShardState]:
    """States of shards that were made, by shard; without their media, which are many.

    Raises:
        ShardMismatchError: If one is damaged.
    """

    def read(shard: str) -> ShardState:
        state = ShardState.from_json(output.read_bytes(state_path(shard)), f"{output.uri}/{state_path(shard)}")
        return replace(state, media={})

    with ThreadPoolExecutor(_requests(output)) as threads:
        return dict(zip(shards, threads.map(read, shards), strict=True))


def _requests(output: Storage) -> int:
    """How many small files are read at a time: a bucket answers each request after tens of milliseconds."""
    return 1 if output.is_local else 32


def verify_rows(output: Storage, entry: ShardEntry, split: str, metadata: ShardMetadata) -> str:
    """Read every row of a Parquet file; returns what is wrong with it, or nothing."""
    digest = RowsDigest(metadata)
    try:
        file = open_shard(output.filesystem, output.full_path(entry.path), entry, split, metadata, entry.path)
        for group in range(file.num_row_groups):
            rows = decode_rows(file.read_row_group(group, use_threads=False))
            if len(rows) != file.metadata.row_group(group).num_rows:
                raise pa.ArrowInvalid(MISSING_ROWS)
            digest.update(rows)
    except ShardMismatchError as error:
        return str(error).removesuffix(f" {REPAIR}")
    except Exception as error:  # a damaged page header fails in as many ways as it has bits
        damage = damaged_page(error, entry.path)
        if damage is None:
            raise
        return str(damage).removesuffix(f" {REPAIR}")
    if digest.hexdigest() != entry.digest:
        return f"{entry.path} holds rows with digest {digest.hexdigest()[:12]}, not {entry.digest[:12]}."
    return ""
