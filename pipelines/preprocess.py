"""Media -> shards, the whole graph top to bottom:

    annotation files ──list──▶ clips ──plan──▶ shard specs ──make what is missing──▶ Parquet + state ──▶ manifest, last

    <output>/<dataset>/<fingerprint>/manifest.json           written last: its presence means complete
                                     index.parquet           which clip lies in which row of which file
                                     failures.parquet        one row per lost clip: stage, reason, detail
                                     stats.json              fbank mean and std over the training clips
                                     <split>/part-00000-of-00007.parquet
                                     _state/<shard>.json     what makes a second run do nothing

The shards follow from the clip list and the settings alone; workers, interruptions and restarts change neither the
files' names nor their content.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from pipelines.clips import ClipListing, ClipRef, first_of_each_split
from pipelines.collector import collector_paused
from pipelines.config import PreprocessConfig, fingerprint
from pipelines.datasets import dataset_source
from pipelines.datasets.base import DatasetSource
from pipelines.progress import LogReporter, Reporter
from pipelines.shards.execute import make_shards
from pipelines.shards.failures import FAILURES_NAME, ClipFailure, check_budget, failures_table
from pipelines.shards.making import ShardState, state_path
from pipelines.shards.plan import ShardSpec, default_clips_per_shard, plan_shards
from pipelines.shards.stats import finish
from pipelines.storage import Storage
from stgcma.data.fbank import FBANK_SPECS
from stgcma.data.index import INDEX_NAME, SplitIndex, encode_index
from stgcma.data.manifest import MANIFEST_NAME, MaskCounts, ShardManifest
from stgcma.data.schema import ShardMetadata
from stgcma.errors import DatasetLayoutError

STATS_NAME = "stats.json"
_REQUESTS = 32
"""Small files read at a time from a bucket."""


@dataclass(frozen=True, kw_only=True)
class PreprocessResult:
    """What lies at ``uri`` now, and what this run did for it."""

    manifest: ShardManifest
    uri: str
    made_shards: int
    reused_shards: int
    failures: tuple[ClipFailure, ...]
    seconds: float

    @property
    def nothing_to_do(self) -> bool:
        return self.made_shards == 0


def preprocess(config: PreprocessConfig, *, reporter: Reporter | None = None) -> PreprocessResult:
    """Make all shards of a dataset that are not there yet.

    Args:
        config: What, how and where.
        reporter: Receives the progress; log lines when None.

    Raises:
        DatasetLayoutError: If the source is not laid out as documented.
        FailureBudgetExceededError: If too many clips of a split are lost; the shards are kept, no manifest is written.
        RunFailedError: If workers stopped; finished shards are kept.
    """
    started = time.monotonic()
    reporter = reporter or LogReporter()
    dataset = dataset_source(config.dataset)
    config = _resolved(config, dataset)
    with collector_paused():
        listing = dataset.list_clips(Storage(config.source), config)
        clips = first_of_each_split(listing.clips, config.limit)
        if not clips:
            raise DatasetLayoutError(f"{config.source} lists no clips of {config.dataset}; check --source.")
        clips_per_shard = config.clips_per_shard or default_clips_per_shard(clips)
        config = replace(config, clips_per_shard=clips_per_shard)
        name = fingerprint(config, clips)
        output = Storage(f"{config.output}/{dataset.name}/{name}")
        metadata = dataset.metadata(config, name)
        specs = plan_shards(clips, clips_per_shard=clips_per_shard, fingerprint=name)
        reused = finished_shards(specs, output)
    missing = [spec for spec in specs if spec.name not in reused]

    for note in listing.notes:
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
        index = encode_index(build_index(specs, states, config.row_group_size))
        manifest = build_manifest(config, listing, metadata, clips, states, index)
    has_index = output.exists(INDEX_NAME) and output.read_bytes(INDEX_NAME) == index
    complete = not missing and has_index and output.exists(MANIFEST_NAME)
    if not complete:
        output.write_bytes(FAILURES_NAME, failures_table(failures))
        output.write_bytes(STATS_NAME, json.dumps({k: asdict(v) for k, v in manifest.stats.items()}, indent=2).encode())
    check_budget(clips, failures, config.failure_budget, output.uri)
    if not complete:
        for path, content in listing.files.items():
            output.write_bytes(path, content)
        output.write_bytes(INDEX_NAME, index)
        output.write_bytes(MANIFEST_NAME, manifest.to_json().encode())
    return PreprocessResult(
        manifest=manifest,
        uri=output.uri,
        made_shards=len(missing),
        reused_shards=len(reused),
        failures=failures,
        seconds=time.monotonic() - started,
    )


def _resolved(config: PreprocessConfig, dataset: DatasetSource) -> PreprocessConfig:
    """Defaults filled in, filter banks in one order: equivalent settings get the same fingerprint."""
    chosen = config.fbank_specs or dataset.default_fbanks
    config = replace(config, options=config.options_as(dataset.options))
    return replace(
        config,
        fbank_specs=tuple(name for name in FBANK_SPECS if name in chosen),
        row_group_size=config.row_group_size or (1 if dataset.extra_frames(config) else 16),
    )


def finished_shards(specs: Sequence[ShardSpec], output: Storage) -> dict[str, ShardState]:
    """States of the shards that are there, whole, and made from what the source holds today."""
    sizes = output.list_files(recursive=True)
    states = read_states([spec.name for spec in specs if state_path(spec.name) in sizes], output)

    def is_finished(spec: ShardSpec) -> bool:
        state = states.get(spec.name)
        if state is None or state.spec_digest != spec.digest:
            return False
        return all(sizes.get(entry.path) == entry.size_bytes for entry in state.entries.values())

    return {spec.name: states[spec.name] for spec in specs if is_finished(spec)}


def read_states(shards: Sequence[str], output: Storage) -> dict[str, ShardState]:
    """The states of these shards, many at a time: a bucket answers each request after tens of milliseconds."""

    def read(shard: str) -> ShardState:
        return ShardState.from_json(output.read_text(state_path(shard)))

    with ThreadPoolExecutor(1 if output.is_local else _REQUESTS) as pool:
        return dict(zip(shards, pool.map(read, shards), strict=True))


def build_index(
    specs: Sequence[ShardSpec], states: Sequence[ShardState], row_group_size: int | None
) -> dict[str, SplitIndex]:
    """Where each clip lies, by split: what was planned, less what was lost."""
    shards: dict[str, list[list[str]]] = {split: [] for spec in specs for split in spec.parts}
    for spec, state in zip(specs, states, strict=True):
        lost = {failure.clip_id for failure in state.failures}
        for split in state.entries:
            kept = [clip.clip_id for clip in spec.clips if clip.split == split and clip.clip_id not in lost]
            shards[split].append(kept)
    assert row_group_size is not None
    return {split: SplitIndex.of_shards(ids, row_group_size) for split, ids in shards.items()}


def _remove_leftovers(output: Storage) -> None:
    """Temporary files of a run that was killed. One run at a time works in an output folder."""
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
    index: bytes,
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
        settings={"source": config.source, **config.content()},
        index_sha256=hashlib.sha256(index).hexdigest(),
        notes=(*listing.notes, *_media_notes(states), *_mask_notes(masks)),
    )


def _media_notes(states: Sequence[ShardState]) -> list[str]:
    """What decoding showed and a reader of the numbers may want to know."""
    decoders: Counter[str] = sum((Counter(state.decoders) for state in states), Counter())
    padded = sum(state.padded_clips for state in states)
    notes = [f"frames by {', '.join(f'{decoder} ({n} clips)' for decoder, n in sorted(decoders.items()))}"]
    if padded:
        notes.append(f"{padded} clips have sound that ends more than 0.1 s before their pictures; zeros fill the rest")
    lengths: Counter[str] = sum((Counter(state.other_lengths) for state in states), Counter())
    notes += [f"{n} clips were {change} to the length of the dataset's clips" for change, n in sorted(lengths.items())]
    return notes


def _mask_notes(counts: Mapping[str, MaskCounts]) -> list[str]:
    """How many masks say nothing, and how many pixels neither yes nor no."""
    if not counts:
        return []
    empty = ", ".join(f"{split} {c.empty} of {c.masks}" for split, c in sorted(counts.items()))
    notes = [f"masks without foreground: {empty}"]
    non_binary = sum(c.non_binary_pixels for c in counts.values())
    if non_binary:
        notes.append(f"{non_binary} pixels of the mask files are neither black nor white; half of white divides them")
    return notes
