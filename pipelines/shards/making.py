"""Makes one shard: decodes its clips and writes its Parquet files, then its state.

The state is written last and in one step. If it exists with the right digest, the Parquet files are complete. A shard
whose making was interrupted has no such state and is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipelines.clips import ClipRef
from pipelines.config import PreprocessConfig
from pipelines.datasets import dataset_source
from pipelines.shards.decoder import DecodingProcess, Limits, decoding_process
from pipelines.shards.failures import ClipFailure
from pipelines.shards.media import MediaFile, record_media
from pipelines.shards.parts import PartWriter
from pipelines.shards.plan import ShardSpec
from pipelines.shards.stats import FbankSums
from pipelines.storage import Storage
from stgcma.data.fbank import SAMPLE_RATE
from stgcma.data.manifest import MaskCounts, ShardEntry
from stgcma.data.png import encode_bits
from stgcma.data.schema import ClipRow, ShardMetadata
from stgcma.errors import ClipDecodeError, ShardMismatchError

OnClip = Callable[[int, int], None]
"""Called after each media file with the numbers of clips made and lost."""

_NOTABLE_PADDING = SAMPLE_RATE // 10


@dataclass(frozen=True, kw_only=True)
class ShardState:
    """What a finished shard holds."""

    spec_digest: str
    entries: dict[str, ShardEntry]
    """Split -> its Parquet file; a split without a good clip has none."""
    failures: tuple[ClipFailure, ...]
    sums: dict[str, FbankSums]
    """Filter bank -> sums over the training clips."""
    decoders: dict[str, int]
    """Frame decoder -> number of clips."""
    padded_clips: int
    """Number of clips whose sound ends more than 0.1 s before their pictures."""
    other_lengths: dict[str, int] = field(default_factory=dict)
    """``cut`` or ``filled up`` to the length of the dataset's clips -> number of clips."""
    masks: dict[str, MaskCounts] = field(default_factory=dict)
    """Split -> masks; empty for a dataset without masks."""
    media: dict[str, MediaFile] = field(default_factory=dict)
    """Path relative to the source -> the file as it was decoded."""

    def to_json(self) -> str:
        values = asdict(self)
        return json.dumps({"digest": _digest(values), **values}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: bytes, where: str) -> ShardState:
        """Read it back.

        Args:
            text: Of ``to_json``.
            where: Its location, for messages.

        Raises:
            ShardMismatchError: If it is not what was written.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            digest = values.pop("digest")
            if _digest(values) != digest:
                raise ValueError("its content does not have its digest")
            values["entries"] = {split: ShardEntry(**entry) for split, entry in values["entries"].items()}
            values["failures"] = tuple(ClipFailure(**failure) for failure in values["failures"])
            values["sums"] = {name: FbankSums(**sums) for name, sums in values["sums"].items()}
            values["masks"] = {split: MaskCounts(**counts) for split, counts in values["masks"].items()}
            values["media"] = {path: MediaFile(**file) for path, file in values["media"].items()}
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ShardMismatchError(f"{where} is damaged ({error}).") from None


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def state_path(shard: str) -> str:
    return f"_state/{shard}.json"


class ShardWriter:
    """Turns shard specs into files; each worker has one.

    Args:
        config: Settings of the run, with ``fbank_specs`` and ``row_group_size`` filled in.
        metadata: The description that every shard carries.
        output: URI of the folder ``<output>/<dataset>/<fingerprint>``.
    """

    def __init__(self, config: PreprocessConfig, metadata: ShardMetadata, output: str) -> None:
        self._config = config
        self._metadata = metadata
        self._dataset = dataset_source(config.dataset)
        self._source = Storage(config.source)
        self._output = Storage(output)

    def write(self, spec: ShardSpec, on_clip: OnClip | None = None) -> ShardState:
        """Decode the clips of a shard, write its Parquet files, then its state.

        Args:
            spec: The shard.
            on_clip: Called after each media file.

        Raises:
            OSError: If the disk or the network fails; the shard is then incomplete.
            RunFailedError: If no decoding process starts.
        """
        failures: list[ClipFailure] = []
        sums = {name: FbankSums() for name in self._config.fbank_specs}
        decoders: Counter[str] = Counter()
        other_lengths: Counter[str] = Counter()
        masks: dict[str, MaskCounts] = {}
        media: dict[str, MediaFile] = {}
        padded = 0
        with ExitStack() as stack:
            decoder = stack.enter_context(decoding_process(Limits(seconds=self._config.clip_timeout)))
            parts = {
                split: stack.enter_context(PartWriter(self._output, path, self._metadata, self._config.rows_per_group))
                for split, path in spec.parts.items()
            }
            for group in spec.groups:
                rows, lost = self._rows(group, decoder)
                media |= record_media(self._source, self._dataset.media_files(group[0], self._source))
                failures += lost
                for clip, row in zip(group[: len(rows)], rows, strict=True):
                    parts[clip.split].add(row)
                    decoders[row.source.frame_decoder] += 1
                    if row.source.length_note:
                        other_lengths[row.source.length_note.partition(" from ")[0]] += 1
                    if row.masks is not None:
                        masks[clip.split] = masks.get(clip.split, MaskCounts()) + count_masks(row)
                    padded += row.source.padded_audio_samples > _NOTABLE_PADDING
                    if clip.counts_in_stats:
                        for name in sums:
                            sums[name] += FbankSums.of(row.fbanks[name], row.fbank_frames[name])
                if on_clip:
                    on_clip(len(rows), len(lost))
        state = ShardState(
            spec_digest=spec.digest,
            entries={split: part.entry for split, part in parts.items() if part.entry},
            failures=tuple(failures),
            sums=sums,
            decoders=dict(decoders),
            padded_clips=padded,
            other_lengths=dict(other_lengths),
            masks=masks,
            media=media,
        )
        self._output.write_bytes(state_path(spec.name), state.to_json().encode())
        return state

    def _rows(self, group: Sequence[ClipRef], decoder: DecodingProcess) -> tuple[Sequence[ClipRow], list[ClipFailure]]:
        """All rows of one media file, or one failure for each of them."""
        try:
            if group[0].media_bytes is None:
                raise ClipDecodeError("probe", "media file missing", group[0].media_uri)
            return decoder.rows(self._dataset, group, self._config.source, self._config), []
        except ClipDecodeError as error:
            return [], [ClipFailure.of(clip, error) for clip in group]


def count_masks(row: ClipRow) -> MaskCounts:
    """Count the masks of one row. Equal masks have equal bytes, so empty ones are recognised without decoding."""
    masks = list(row.masks or ())
    empty = encode_bits(np.zeros((row.frame_height, row.frame_width), dtype=bool))
    return MaskCounts(masks=len(masks), empty=masks.count(empty), non_binary_pixels=row.source.non_binary_mask_pixels)
