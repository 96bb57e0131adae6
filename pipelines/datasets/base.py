"""What preprocessing needs from a dataset: a list of its clips, and rows made from the media of one clip.

A new dataset is one file with a ``DatasetSource`` and its options, and one line in ``pipelines/datasets/__init__.py``.
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
    """The layout of one dataset; instances have no state and are listed in ``pipelines.datasets.DATASETS``."""

    name: ClassVar[str]
    annotation: ClassVar[AnnotationKind]
    num_segments: ClassVar[int]
    """``S``, as the task that learns the annotation expects: 10 with events or questions, 5 with masks."""
    default_fbanks: ClassVar[tuple[str, ...]]
    """Filter banks that the published models of this dataset read."""
    stores_waveform: ClassVar[bool]
    """Whether rows keep the waveform, which tasks need to mix the audio of clips."""
    options: ClassVar[type[DatasetOptions]] = DatasetOptions
    """Class of the options that only this dataset has; ``config.options_as`` gives their values."""

    @abstractmethod
    def list_clips(self, source: Storage, config: PreprocessConfig) -> ClipListing:
        """List the clips from the annotation files and the names of the media files, without opening media.

        The caller applies ``config.limit``. A clip with missing media is still listed, with ``media_bytes=None``, and
        becomes a failure.

        Raises:
            DatasetLayoutError: If a file of the layout is missing or malformed; the message names file and line.
        """

    @abstractmethod
    def build_rows(self, refs: Sequence[ClipRef], source: Storage, config: PreprocessConfig) -> list[ClipRow]:
        """Make the rows of the clips that share one media file, in the same order; runs in a worker.

        ``config.fbank_specs`` is filled in. Datasets of video files call ``pipelines.media.rows.video_row`` once and
        add the annotation with ``dataclasses.replace``.

        Raises:
            ClipDecodeError: Counted as one ``ClipFailure`` per clip.
        """

    def media_files(self, ref: ClipRef, source: Storage) -> Sequence[str]:
        """Paths, relative to the source, of the files that the rows of a media file are read from.

        Files that do not exist may be among them. When one of them changes, its shard is made anew.
        """
        return (ref.media_uri,)

    def extra_frames(self, config: PreprocessConfig) -> int:
        """Number of frames in a second, denser grid that every row holds; 0: no such grid."""
        return 0

    def metadata(self, config: PreprocessConfig, fingerprint: str) -> ShardMetadata:
        """The description that every shard of a run carries."""
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
