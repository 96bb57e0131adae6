"""Media -> shards, the whole process from top to bottom:

    annotation files ──list──▶ clips ──plan──▶ shard specs ──make what is missing──▶ Parquet + state ──▶ manifest, last

    <output>/<dataset>/<fingerprint>/manifest.json           written last, so shards with a manifest are complete
                                     index.parquet           which clip lies in which row of which file
                                     failures.parquet        one row per lost clip: stage, reason, detail
                                     stats.json              fbank mean and std over the training clips
                                     <split>/part-00000-of-00007.parquet
                                     _state/<shard>.json     says that the shard is complete, so that no run repeats it

The shards depend only on the clip list and the settings. Workers, interruptions and restarts change neither the names
of the files nor their content.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from pipelines.clips import ClipListing, ClipRef, first_of_each_split
from pipelines.collector import collector_paused
from pipelines.config import PreprocessConfig, fingerprint
from pipelines.datasets import dataset_source
from pipelines.datasets.base import DatasetSource
from pipelines.progress import LogReporter, Reporter
from pipelines.shards.execute import make_shards
from pipelines.shards.failures import FAILURES_NAME, ClipFailure, check_budget, failures_table
from pipelines.shards.found import find_shards, read_states
from pipelines.shards.making import ShardState
from pipelines.shards.media import MediaListing
from pipelines.shards.plan import ShardSpec, default_clips_per_shard, plan_shards
from pipelines.shards.stats import finish
from pipelines.storage import Storage
from stgcma.data.fbank import FBANK_SPECS
from stgcma.data.index import INDEX_NAME, index_table
from stgcma.data.manifest import MANIFEST_NAME, MaskCounts, ShardManifest
from stgcma.data.schema import ShardMetadata
from stgcma.data.side_table import encode_table, read_table, table_digest
from stgcma.errors import DatasetLayoutError, ShardMismatchError

STATS_NAME = "stats.json"


@dataclass(frozen=True, kw_only=True)
class PreprocessResult:
    """The shards at ``uri``, and what this run did."""

    manifest: ShardManifest
    uri: str
    made_shards: int
    reused_shards: int
    repairs: tuple[str, ...]
    """What was damaged or came from media that changed, and is right again; one or two sentences each."""
    verified: bool
    """Whether every row that was reused has been read."""
    failures: tuple[ClipFailure, ...]
    seconds: float

    @property
    def nothing_to_do(self) -> bool:
        return self.made_shards == 0 and not self.repairs


def preprocess(config: PreprocessConfig, *, verify: bool = False, reporter: Reporter | None = None) -> PreprocessResult:
    """Make all shards of a dataset that do not exist yet.

    Args:
        config: Settings of the run.
        verify: Read all existing rows and media files, and make damaged or changed shards again.
        reporter: Receives the progress; None: log lines.

    Raises:
        ConfigError: If the options belong to another dataset.
        DatasetLayoutError: If the source does not have the documented layout.
        FailureBudgetExceededError: If a split loses too many clips. The shards are kept; no manifest is written.
        RunFailedError: If workers stop. Finished shards are kept.
    """
    started = time.monotonic()
    reporter = reporter or LogReporter()
    dataset = dataset_source(config.dataset)
    config = _resolved(config, dataset)
    with collector_paused():
        listing = dataset.list_clips(Storage(config.source), config)
        clips = first_of_each_split(listing.clips, config.limit)
        if not clips:
            raise DatasetLayoutError(f"{config.source} lists no clips of {config.dataset}. Check --source.")
        clips_per_shard = config.clips_per_shard or default_clips_per_shard(clips)
        config = replace(config, clips_per_shard=clips_per_shard)
        name = fingerprint(config, clips)
        output = Storage(f"{config.output}/{dataset.name}/{name}")
        metadata = dataset.metadata(config, name)
        specs = plan_shards(clips, clips_per_shard=clips_per_shard, fingerprint=name)
        media = MediaListing(Storage(config.source), verify=verify, note=reporter.note)
        found = find_shards(specs, output, metadata, media, verify=verify, num_threads=config.num_workers)
    reused = found.states
    missing = [spec for spec in specs if spec.name not in reused]
    repairs = [f"{problem} Shard {shard} is made anew." for shard, problem in found.problems.items()]

    for note in (*listing.notes, *repairs):
        reporter.note(note)
    reporter.start(len(clips), sum(len(spec.clips) for spec in specs if spec.name in reused))
    try:
        if missing:
            output.delete(MANIFEST_NAME)
            _remove_leftovers(output)
        make_shards(missing, config, metadata, output.uri, reporter)
    finally:
        reporter.finish()

    with collector_paused():
        new = read_states([spec.name for spec in missing], output)
        states = [reused.get(spec.name) or new[spec.name] for spec in specs]
        failures = tuple(failure for state in states for failure in state.failures)
        tables = {**listing.tables, INDEX_NAME: build_index(specs, states, config.row_group_size)}
        manifest = build_manifest(config, listing, metadata, clips, states, tables)
    stats = json.dumps({name: asdict(numbers) for name, numbers in manifest.stats.items()}, indent=2).encode()
    rewritten = [
        _replace_table(output, FAILURES_NAME, failures_table(failures)),
        _replace(output, STATS_NAME, stats),
    ]
    check_budget(clips, failures, config.failure_budget, output.uri)
    rewritten += [_replace_table(output, path, table) for path, table in tables.items()]
    rewritten += [_replace_manifest(output, manifest)]
    if not missing:
        for repair in filter(None, rewritten):
            repairs.append(repair)
            reporter.note(repair)
    return PreprocessResult(
        manifest=manifest,
        uri=output.uri,
        made_shards=len(missing),
        reused_shards=len(reused),
        repairs=tuple(repairs),
        verified=verify,
        failures=failures,
        seconds=time.monotonic() - started,
    )


def _replace(output: Storage, path: str, data: bytes) -> str:
    """Write a file unless it is there; returns what was there instead, or nothing."""
    there = output.read_bytes(path) if output.exists(path) else None
    if there == data:
        return ""
    output.write_bytes(path, data)
    return "" if there is None else f"{path} was not what the shards and settings say. It is written anew."


def _replace_table(output: Storage, path: str, table: pa.Table) -> str:
    """The same for a table; only its values count, whichever Parquet writer stored them."""
    try:
        read_table(output.filesystem, output.full_path(path), table_digest(table), path)
    except ShardMismatchError:
        return _replace(output, path, encode_table(table))
    return ""


def _replace_manifest(output: Storage, manifest: ShardManifest) -> str:
    """The same for the manifest; that the media lie elsewhere by now is no damage."""
    if output.exists(MANIFEST_NAME):
        with contextlib.suppress(ShardMismatchError):
            there = ShardManifest.from_json(output.read_bytes(MANIFEST_NAME), MANIFEST_NAME)
            if replace(there, source=manifest.source) == manifest:
                output.write_bytes(MANIFEST_NAME, manifest.to_json().encode())
                return ""
    return _replace(output, MANIFEST_NAME, manifest.to_json().encode())


def _resolved(config: PreprocessConfig, dataset: DatasetSource) -> PreprocessConfig:
    """Fill in defaults and sort the filter banks, so that equivalent settings get the same fingerprint."""
    chosen = config.fbank_specs or dataset.default_fbanks
    config = replace(config, options=config.options_as(dataset.options))
    return replace(
        config,
        fbank_specs=tuple(name for name in FBANK_SPECS if name in chosen),
        row_group_size=config.row_group_size or (1 if dataset.extra_frames(config) else 16),
    )


def build_index(specs: Sequence[ShardSpec], states: Sequence[ShardState], row_group_size: int | None) -> pa.Table:
    """Where each clip lies: what was planned, without what was lost."""
    shards: dict[str, list[list[str]]] = {split: [] for spec in specs for split in spec.parts}
    for spec, state in zip(specs, states, strict=True):
        lost = {failure.clip_id for failure in state.failures}
        for split in state.entries:
            kept = [clip.clip_id for clip in spec.clips if clip.split == split and clip.clip_id not in lost]
            shards[split].append(kept)
    assert row_group_size is not None, "filled in by _resolved"
    return index_table(shards, row_group_size)


def _remove_leftovers(output: Storage) -> None:
    """Remove temporary files of a killed run. Only one run at a time may use an output folder."""
    if output.is_local:
        for path in output.list_files(recursive=True):
            if path.endswith(".tmp"):
                output.delete(path)


def build_manifest(
    config: PreprocessConfig,
    listing: ClipListing,
    metadata: ShardMetadata,
    clips: Sequence[ClipRef],
    states: Sequence[ShardState],
    tables: Mapping[str, pa.Table],
) -> ShardManifest:
    """What all shards together are."""
    lost = Counter(failure.split for state in states for failure in state.failures)
    splits = sorted({clip.split for clip in clips})
    sums = {name: finish(state.sums[name] for state in states) for name in metadata.fbank_specs}
    masks: dict[str, MaskCounts] = {}
    for state in states:
        for split, counts in state.masks.items():
            masks[split] = masks.get(split, MaskCounts()) + counts
    return ShardManifest(
        dataset=metadata.dataset,
        fingerprint=metadata.fingerprint,
        metadata=metadata,
        splits={s: tuple(state.entries[s] for state in states if s in state.entries) for s in splits},
        num_failures={split: lost[split] for split in splits},
        stats={name: stats for name, stats in sums.items() if stats},
        class_names=listing.class_names,
        mask_counts=dict(sorted(masks.items())),
        question_words=listing.question_words,
        tables={path: table_digest(table) for path, table in tables.items()},
        settings=config.content(),
        source=config.source,
        notes=(*listing.notes, *_media_notes(states), *_mask_notes(masks)),
    )


def _media_notes(states: Sequence[ShardState]) -> list[str]:
    """Notes on decoders, padded sound and clips of other lengths."""
    decoders: Counter[str] = sum((Counter(state.decoders) for state in states), Counter())
    padded = sum(state.padded_clips for state in states)
    notes = [f"frames by {', '.join(f'{decoder} ({n} clips)' for decoder, n in sorted(decoders.items()))}"]
    if padded:
        notes.append(f"{padded} clips have sound that ends more than 0.1 s before their pictures; zeros fill the gap")
    lengths: Counter[str] = sum((Counter(state.other_lengths) for state in states), Counter())
    notes += [f"{n} clips were {change} to the length of the dataset's clips" for change, n in sorted(lengths.items())]
    return notes


def _mask_notes(counts: Mapping[str, MaskCounts]) -> list[str]:
    """Notes on masks without foreground, and on pixels that are neither black nor white."""
    if not counts:
        return []
    empty = ", ".join(f"{split} {c.empty} of {c.masks}" for split, c in sorted(counts.items()))
    notes = [f"masks without foreground: {empty}"]
    non_binary = sum(c.non_binary_pixels for c in counts.values())
    if non_binary:
        notes.append(
            f"{non_binary} pixels of the mask files are neither black nor white; half of white is the threshold"
        )
    return notes
