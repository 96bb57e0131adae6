"""Settings of a preprocessing run. Fields marked *content* decide what the rows hold and enter the fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from pipelines.options import DatasetOptions
from stgcma.data.fbank import FBANK_SPECS
from stgcma.data.schema import SCHEMA_VERSION, FbankDtype, FrameEncoding
from stgcma.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.clips import ClipRef

OptionsT = TypeVar("OptionsT", bound=DatasetOptions)
ChannelMode = Literal["mean", "left"]
Resample = Literal["sinc", "nearest_moviepy"]

CODE_VERSION = 1
"""Increased when the same settings give different rows than in the previous release; part of the fingerprint."""

RUNTIME_FIELDS = ("source", "output", "num_workers", "ray_address", "failure_budget", "clip_timeout")
"""Fields that decide where and how fast rows are made; they change no row."""

_CHOICES = {
    "channel_mode": get_args(ChannelMode),
    "resample": get_args(Resample),
    "frame_encoding": get_args(FrameEncoding),
    "fbank_dtype": get_args(FbankDtype),
}


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """What to read, how to turn it into rows, and where to write them."""

    dataset: str
    """A name in ``pipelines.datasets.DATASETS``."""
    source: str
    """Root of the official layout: a folder or an ``s3://`` URI."""
    output: str = "data/shards"
    """Root of the shards; the run writes to ``<output>/<dataset>/<fingerprint>/``."""
    num_workers: int | None = None
    """Ray actors with one CPU each. None: one per CPU. 0: this process makes all shards, without Ray."""
    ray_address: str = "local"
    """``local`` starts Ray on this machine for this run; ``auto`` or an address joins a cluster."""
    failure_budget: float = 0.01
    """Largest fraction of a split that may be lost to bad media."""
    clip_timeout: float = 300.0
    """Seconds that one media file may take, download included. After that its decoder is killed and the clip fails."""

    options: DatasetOptions | None = None
    """*Content.* Options of this dataset alone, such as ``AVEOptions(labels="right_labels.h5")``. None: defaults."""
    fbank_specs: tuple[str, ...] = ()
    """*Content.* Filter banks to store. Empty: those that the dataset's published models read."""
    fbank_dtype: FbankDtype = "float16"
    """*Content.* Number type of the stored filter banks."""
    frame_encoding: FrameEncoding = "jpeg"
    """*Content.* ``raw`` stores uint8 RGB: seven times the bytes, a tenth of the decoding time."""
    jpeg_quality: int = 95
    """*Content.* Quality from 1 to 100. Chroma is always 4:4:4, because subsampling loses saturated colours."""
    short_side: int = 256
    """*Content.* Frames are scaled down until their shorter side has this many pixels, and never up."""
    channel_mode: ChannelMode = "mean"
    """*Content.* ``mean``: average of all channels. ``left``: the first one, which the reference's fbank reads."""
    resample: Resample = "sinc"
    """*Content.* ``sinc``: windowed sinc. ``nearest_moviepy``: nearest samples of 44.1 kHz stereo; aliased, but the
    published statistics were measured on it."""
    gain: float = 1.0
    """*Content.* Factor on the waveform after the downmix. 1 keeps the file's level; levels are never normalised."""
    limit: int | None = None
    """*Content.* Only the first N clips of each split, in id order."""
    clips_per_shard: int | None = None
    """*Content.* Media files per shard. None: 32, more where the set is large (``default_clips_per_shard``)."""
    row_group_size: int | None = None
    """*Content.* Rows per row group, the smallest unit that a reader can load. None: 16, or 1 if rows hold extra
    frames, because training reads single frames of random videos."""

    def __post_init__(self) -> None:
        problems = []
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                problems.append(f"{name} needs one of {', '.join(choices)}; got {getattr(self, name)!r}.")
        unknown = [name for name in self.fbank_specs if name not in FBANK_SPECS]
        if unknown:
            problems.append(f"fbank needs names from {', '.join(FBANK_SPECS)}; got {', '.join(unknown)}.")
        if len(set(self.fbank_specs)) != len(self.fbank_specs):
            problems.append(f"fbank needs different names, got {', '.join(self.fbank_specs)}.")
        if not 0 <= self.failure_budget <= 1:
            problems.append(f"failure_budget needs a fraction in [0, 1], got {self.failure_budget}.")
        if self.clip_timeout <= 0:
            problems.append(f"clip_timeout needs a positive number of seconds, got {self.clip_timeout}.")
        if self.num_workers is not None and self.num_workers < 0:
            problems.append(f"num_workers needs 0 (no Ray) or more, got {self.num_workers}.")
        if not 1 <= self.jpeg_quality <= 100:
            problems.append(f"jpeg_quality needs 1 to 100, got {self.jpeg_quality}.")
        if self.gain <= 0:
            problems.append(f"gain needs a positive factor, got {self.gain}.")
        for name in ("short_side", "clips_per_shard", "row_group_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} needs at least 1, got {value}.")
        if problems:
            raise ConfigError(*problems)

    def options_as(self, record: type[OptionsT]) -> OptionsT:
        """The dataset's own options, or their defaults if none were given.

        Args:
            record: Class of the dataset's options.

        Raises:
            ConfigError: If the options belong to another dataset.
        """
        if self.options is None:
            return record()
        if type(self.options) is not record:
            raise ConfigError(f"options of dataset {self.dataset} must be {record.__name__}, got {self.options!r}.")
        return self.options

    @property
    def rows_per_group(self) -> int:
        """``row_group_size``, which preprocessing fills in.

        Raises:
            ConfigError: If it is still None.
        """
        if self.row_group_size is None:
            raise ConfigError("Making shards needs row_group_size, got None. Call preprocess, which chooses it.")
        return self.row_group_size

    def content(self) -> dict[str, Any]:
        """The fields that decide what the rows hold, as JSON values; the manifest records them."""
        chosen = {name: value for name, value in asdict(self).items() if name not in RUNTIME_FIELDS}
        values: dict[str, Any] = json.loads(json.dumps(chosen))
        return values


def fingerprint(config: PreprocessConfig, clips: Sequence[ClipRef]) -> str:
    """Name of the output folder: 12 hex digits of a hash of settings, code version, clips and annotations.

    The location, size and presence of media files do not enter. After moving a dataset or adding missing files, a run
    continues in the same folder.
    """
    encode = json.JSONEncoder(sort_keys=True, default=_field_values).encode
    fbanks = [asdict(FBANK_SPECS[name]) for name in config.fbank_specs]
    head = encode([SCHEMA_VERSION, CODE_VERSION, config.content(), fbanks, []])
    digest = hashlib.sha256(head.removesuffix("]]").encode())  # one list; clip by clip, because there may be millions
    separator = ""
    for clip in sorted(clips, key=lambda clip: clip.clip_id):
        values = [clip.clip_id, clip.split, clip.media_uri, clip.counts_in_stats, clip.budget, clip.annotation]
        digest.update(f"{separator}{encode(values)}".encode())
        separator = ", "
    digest.update(b"]]")
    return digest.hexdigest()[:12]


def _field_values(annotation: Any) -> dict[str, Any]:
    """The dataclass of an annotation as JSON sees it."""
    return {field.name: getattr(annotation, field.name) for field in fields(annotation)}
