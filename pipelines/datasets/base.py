"""What preprocessing needs to know of a dataset: its clips, and how the media of one clip become rows.

A new dataset is one file with one ``DatasetSource``, its options included, and one line in
``pipelines/datasets/__init__.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pipelines.clips import ClipListing, ClipRef
from pipelines.options import DatasetOptions

if TYPE_CHECKING:
    from pipelines.config import PreprocessConfig
    from pipelines.storage import Storage
    from stgcma.data.schema import AnnotationKind, ClipRow, ShardMetadata


class DatasetSource(ABC):
    """One dataset's layout; instances are stateless and listed in ``pipelines.datasets.DATASETS``."""

    name: ClassVar[str]
    annotation: ClassVar[AnnotationKind]
    num_segments: ClassVar[int]
    """``S``; as the task that learns the annotation reads: 10 with events or questions, 5 with masks."""
    default_fbanks: ClassVar[tuple[str, ...]]
    """Specs that the published models of this dataset read."""
    stores_waveform: ClassVar[bool]
    options: ClassVar[type[DatasetOptions]] = DatasetOptions
    """Record of the options that this dataset alone has; ``config.options_as(record)`` gives their values."""

    @abstractmethod
    def list_clips(self, source: Storage, config: PreprocessConfig) -> ClipListing:
        """Read the annotation files and the directory listing, no media.

        ``config.limit`` is applied by the caller. A clip whose media are missing is listed all the same, with
        ``media_bytes=None``: it will be a failure row.

        Raises:
            DatasetLayoutError: If a file of the layout is missing or malformed; names the file and the line.
        """

    @abstractmethod
    def build_rows(self, refs: Sequence[ClipRef], source: Storage, config: PreprocessConfig) -> list[ClipRow]:
        """Rows of the refs of one media file, in the same order; runs in a worker.

        ``config.fbank_specs`` is filled in. Datasets of video files call ``pipelines.media.rows.video_row`` once and
        add the annotation with ``dataclasses.replace``.

        Raises:
            ClipDecodeError: Becomes one ``ClipFailure`` per ref.
        """

    def extra_frames(self, config: PreprocessConfig) -> int:
        """Size of a second, denser grid of frames that every row holds; 0: none."""
        return 0

    def metadata(self, config: PreprocessConfig, fingerprint: str) -> ShardMetadata:
        """The metadata of every shard of a run."""
        from stgcma.data.schema import ShardMetadata

        return ShardMetadata(
            dataset=self.name,
            fingerprint=fingerprint,
            annotation=self.annotation,
            num_segments=self.num_segments,
            frame_encoding=config.frame_encoding,
            fbank_specs=config.fbank_specs,
            fbank_dtype=config.fbank_dtype,
            stores_waveform=self.stores_waveform,
            stores_extra_frames=self.extra_frames(config) > 0,
        )
