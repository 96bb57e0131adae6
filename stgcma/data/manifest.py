"""The manifest of one preprocessed dataset: written last, so its presence means the data is complete.

Layout: ``<root>/<dataset>/<fingerprint>/manifest.json`` beside ``index.parquet``, ``<split>/part-00000.parquet``,
``failures.parquet`` and ``stats.json``. The fingerprint names the settings; other settings go to another folder and are
never mixed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs

from stgcma.data.schema import SCHEMA_VERSION, ShardMetadata, require_columns
from stgcma.errors import CheckpointError, ConfigError, ShardMismatchError

MANIFEST_NAME = "manifest.json"

_URI_SYNTAX = ":/?&=@%"
"""Characters of a URI that are left as they are; others, such as a blank in a folder's name, are quoted for Arrow."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One Parquet file of a split."""

    path: str
    """Relative to the manifest: ``train/part-00000-of-00007.parquet``."""
    num_rows: int
    size_bytes: int
    digest: str
    """sha256 over the decoded row contents in order (independent of compression and of the machine)."""
    footer_sha256: str
    """Of the file from its Parquet footer on: with the page checksums, every byte that a reader uses is covered."""


@dataclass(frozen=True, kw_only=True)
class FbankStats:
    """Mean and standard deviation of one fbank column over the valid frames of the training split."""

    mean: float
    std: float
    count: int


@dataclass(frozen=True, kw_only=True)
class MaskCounts:
    """Masks of one split."""

    masks: int = 0
    empty: int = 0
    """Without any foreground."""
    non_binary_pixels: int = 0
    """Grey pixels of the files that were neither black nor white."""

    def __add__(self, other: MaskCounts) -> MaskCounts:
        return MaskCounts(
            masks=self.masks + other.masks,
            empty=self.empty + other.empty,
            non_binary_pixels=self.non_binary_pixels + other.non_binary_pixels,
        )


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """What was made, from what, with which settings."""

    dataset: str
    fingerprint: str
    metadata: ShardMetadata
    splits: dict[str, tuple[ShardEntry, ...]]
    num_failures: dict[str, int]
    stats: dict[str, FbankStats]
    class_names: tuple[str, ...] = ()
    """AVE: 29 names, background last; AVSBench: categories; MUSIC-AVQA: the answers."""
    mask_counts: dict[str, MaskCounts] = field(default_factory=dict)
    """AVSBench only, by split."""
    question_words: tuple[str, ...] = ()
    """MUSIC-AVQA only: the question vocabulary, ``<pad>`` first."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The preprocessing configuration, as plain values."""
    index_sha256: str = ""
    """Of ``index.parquet``, which lies beside the manifest (``stgcma/data/index.py``)."""
    notes: tuple[str, ...] = ()
    """What the dataset source reported: leaks between splits, labels that differ."""
    schema_version: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """sha256 over all shard digests: equal for equal data, whatever was interrupted in between."""
        lines = [f"{split} {e.path} {e.digest}" for split, entries in sorted(self.splits.items()) for e in entries]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def num_rows(self, split: str) -> int:
        return sum(entry.num_rows for entry in self.splits.get(split, ()))

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "digest": self.digest}, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ShardManifest:
        values = json.loads(text)
        values.pop("digest", None)
        if values.get("schema_version") != SCHEMA_VERSION:
            raise ShardMismatchError(
                f"The manifest has schema version {values.get('schema_version')}, this release reads {SCHEMA_VERSION}. "
                "Run stgcma-jobs preprocess again with this release."
            )
        metadata = values["metadata"]
        values["metadata"] = ShardMetadata(**{**metadata, "fbank_specs": tuple(metadata["fbank_specs"])})
        values["splits"] = {
            split: tuple(ShardEntry(**entry) for entry in entries) for split, entries in values["splits"].items()
        }
        values["stats"] = {name: FbankStats(**stat) for name, stat in values["stats"].items()}
        counts = values.get("mask_counts", {})
        values["mask_counts"] = {split: MaskCounts(**numbers) for split, numbers in counts.items()}
        for name in ("class_names", "question_words", "notes"):
            values[name] = tuple(values[name])
        return cls(**values)


def _with_single_put(uri: str) -> str:
    """Let Arrow send a small object as one PUT: one request instead of three, and an atomic one."""
    if not uri.startswith("s3://"):
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


def open_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """A directory or ``s3://`` URI -> (filesystem, path). S3 settings come from the usual ``AWS_*`` variables."""
    if "://" in uri:
        try:
            filesystem, path = pafs.FileSystem.from_uri(_with_single_put(quote(uri, safe=_URI_SYNTAX)))
        except (pa.ArrowException, ValueError) as error:
            raise ConfigError(
                f"{uri} names no place that can be read: {error}. Needed is a directory or s3://BUCKET/FOLDER."
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{uri} cannot be reached: {error}. Check AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and the credentials."
            ) from None
        return filesystem, path.rstrip("/")
    from pathlib import Path

    return pafs.LocalFileSystem(), str(Path(uri).expanduser().resolve())


def read_first_file(uri: str, names: Sequence[str]) -> tuple[bytes, str]:
    """Content and location of the first file that exists among ``<uri>/<name>``; the name ``""`` means ``uri`` itself.

    Raises:
        CheckpointError: If none exists.
    """
    filesystem, path = open_filesystem(uri)
    for name in names:
        place = f"{path}/{name}".rstrip("/")
        if filesystem.get_file_info(place).type == pafs.FileType.File:
            with filesystem.open_input_stream(place, compression=None) as stream:
                return stream.read(), f"{uri.rstrip('/')}/{name}".rstrip("/")
    inside = " or ".join(name for name in names if name)
    raise CheckpointError(f"No weights at {uri}. Needed: a weight file, or a folder that holds {inside}.")


def find_manifests(root: str, dataset: str) -> dict[str, ShardManifest]:
    """All complete preprocessings of ``dataset`` under ``root``, by fingerprint."""
    filesystem, path = open_filesystem(root)
    selector = pafs.FileSelector(f"{path}/{dataset}", allow_not_found=True)
    found = {}
    for info in filesystem.get_file_info(selector):
        if info.type != pafs.FileType.Directory:
            continue
        manifest = f"{info.path}/{MANIFEST_NAME}"
        if filesystem.get_file_info(manifest).type == pafs.FileType.File:
            with filesystem.open_input_stream(manifest) as stream:
                found[info.base_name] = ShardManifest.from_json(stream.read().decode())
    return found


def _what_is_there(root: str) -> str:
    """A hint for who gave one preprocessing instead of its root, or the root of other datasets."""
    filesystem, path = open_filesystem(root)
    if filesystem.get_file_info(f"{path}/{MANIFEST_NAME}").type == pafs.FileType.File:
        return f" This is one preprocessing; the root is two folders up: {root.rstrip('/').rsplit('/', 2)[0]}"
    folders = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    others = [info.base_name for info in folders if info.type == pafs.FileType.Directory]
    complete = [name for name in sorted(others) if find_manifests(root, name)]
    return f" There are shards of: {', '.join(complete)}." if complete else ""


def select_manifest(root: str, dataset: str, *, fbank: str | None, fingerprint: str | None = None) -> ShardManifest:
    """The one preprocessing that fits; several or none are an error that lists them.

    Args:
        root: Shard root, directory or URI.
        dataset: Folder under it.
        fbank: Name of the fbank spec that the backbone reads; None when no audio is read.
        fingerprint: Choose this one.

    Raises:
        ShardMismatchError: With what was needed, what lies there and the command that makes or selects it.
    """
    found = find_manifests(root, dataset)
    command = f"stgcma-jobs preprocess --dataset {dataset} --output {root}"
    option = f" --fbank {fbank}" if fbank else ""
    if fingerprint is not None:
        if fingerprint not in found:
            raise ShardMismatchError(
                f"No complete shards {root}/{dataset}/{fingerprint}; there are: {', '.join(sorted(found)) or 'none'}."
            )
        found = {fingerprint: found[fingerprint]}
    if not found:
        raise ShardMismatchError(
            f"No complete shards of {dataset!r} under {root}.{_what_is_there(root)}\n"
            f"Run: {command}{option}   (with --source where the clips are not in data/raw)"
        )
    fitting = {k: m for k, m in found.items() if fbank is None or fbank in m.metadata.fbank_specs}
    if not fitting:
        fingerprint, manifest = min(found.items(), key=lambda item: item[0])
        where = f"{root}/{dataset}/{fingerprint}"
        require_columns(manifest.metadata, fbank=fbank, where=where, command=command)  # type: ignore[arg-type]
    if len(fitting) > 1:
        lines = "\n".join(f"  --set data.fingerprint={k}   {m.settings}" for k, m in sorted(fitting.items()))
        raise ShardMismatchError(f"{len(fitting)} preprocessings of {dataset!r} fit. Choose one:\n{lines}")
    return next(iter(fitting.values()))
