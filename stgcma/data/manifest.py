"""The manifest of one preprocessed dataset. It is written last, so its presence means that the data is complete.

Layout: ``<root>/<dataset>/<fingerprint>/manifest.json`` beside ``index.parquet``, ``<split>/part-00000.parquet``,
``failures.parquet`` and ``stats.json``. The fingerprint identifies the settings. Other settings are stored in another
folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs

from stgcma.data.schema import SCHEMA_VERSION, ShardMetadata, require_columns
from stgcma.errors import CheckpointError, ConfigError, ShardMismatchError

MANIFEST_NAME = "manifest.json"

_REWRITE = "Run the same stgcma-jobs preprocess again: it writes the manifest anew from the shards."

_URI_SYNTAX = ":/?&=@%"
"""Characters of a URI that are not quoted for Arrow. Others, such as a space in the name of a folder, are quoted."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One Parquet file of a split."""

    path: str
    """Path relative to the manifest, e.g. ``train/part-00000-of-00007.parquet``."""
    num_rows: int
    size_bytes: int
    digest: str
    """sha256 over the decoded rows in order. It does not depend on the compression or the machine."""
    footer_sha256: str
    """sha256 of the Parquet footer. Together with the checksums of the pages it covers all that a reader uses."""


@dataclass(frozen=True, kw_only=True)
class FbankStats:
    """Mean and standard deviation of one fbank column over the valid frames of the training split."""

    mean: float
    std: float
    count: int


@dataclass(frozen=True, kw_only=True)
class MaskCounts:
    """Numbers of masks in one split."""

    masks: int = 0
    empty: int = 0
    """Masks without foreground."""
    non_binary_pixels: int = 0
    """Pixels of the mask files that were neither black nor white."""

    def __add__(self, other: MaskCounts) -> MaskCounts:
        return MaskCounts(
            masks=self.masks + other.masks,
            empty=self.empty + other.empty,
            non_binary_pixels=self.non_binary_pixels + other.non_binary_pixels,
        )


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """The files of one preprocessed dataset, how they were made, and what they hold."""

    dataset: str
    fingerprint: str
    metadata: ShardMetadata
    splits: dict[str, tuple[ShardEntry, ...]]
    num_failures: dict[str, int]
    stats: dict[str, FbankStats]
    class_names: tuple[str, ...] = ()
    """AVE: 29 class names, background last. AVSBench: categories. MUSIC-AVQA: answers."""
    mask_counts: dict[str, MaskCounts] = field(default_factory=dict)
    """AVSBench only: split -> counts."""
    question_words: tuple[str, ...] = ()
    """MUSIC-AVQA only: the question vocabulary, ``<pad>`` first."""
    tables: dict[str, str] = field(default_factory=dict)
    """Tables beside the shards that readers join to the rows: path -> ``stgcma.data.side_table.table_digest``."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The preprocessing settings that decide what the rows hold, as plain values."""
    source: str = ""
    """Where the media lay. No number depends on it."""
    notes: tuple[str, ...] = ()
    """Remarks of the dataset source, e.g. about clips in several splits or labels that differ."""
    schema_version: int = SCHEMA_VERSION

    @cached_property
    def digest(self) -> str:
        """sha256 over everything a number depends on: equal for equal data, whatever was interrupted in between.

        Left out are the location of the media, notes, failures, and how the rows are stored. Mean and standard
        deviation count with nine digits, because the last ones differ between processors.
        """
        values = {
            "dataset": self.dataset,
            "fingerprint": self.fingerprint,
            "metadata": asdict(self.metadata),
            "splits": {s: [[e.path, e.num_rows, e.digest] for e in entries] for s, entries in self.splits.items()},
            "stats": {name: [f"{s.mean:.9g}", f"{s.std:.9g}", s.count] for name, s in self.stats.items()},
            "class_names": self.class_names,
            "mask_counts": {split: asdict(counts) for split, counts in self.mask_counts.items()},
            "question_words": self.question_words,
            "tables": self.tables,
            "settings": self.settings,
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def num_rows(self, split: str) -> int:
        return sum(entry.num_rows for entry in self.splits.get(split, ()))

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "digest": self.digest}, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> ShardManifest:
        """Read it back.

        Args:
            text: Of ``to_json``.
            where: Its location, for messages.

        Raises:
            ShardMismatchError: If it is damaged or of another schema version.
        """
        try:
            values = json.loads(text)
            version = values.get("schema_version")
        except (ValueError, AttributeError) as error:
            raise ShardMismatchError(f"{where} is damaged ({type(error).__name__}: {error}). {_REWRITE}") from None
        if version != SCHEMA_VERSION:
            raise ShardMismatchError(
                f"{where} has schema version {version}, but this release reads {SCHEMA_VERSION}. "
                "Run stgcma-jobs preprocess again with this release."
            )
        try:
            digest = values.pop("digest")
            manifest = cls._from_values(values)
            found = manifest.digest
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ShardMismatchError(f"{where} is damaged ({type(error).__name__}: {error}). {_REWRITE}") from None
        if found != digest:
            raise ShardMismatchError(
                f"{where} was changed: its content has digest {found[:12]}, it says {str(digest)[:12]}. {_REWRITE}"
            )
        return manifest

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> ShardManifest:
        metadata = values["metadata"]
        values["metadata"] = ShardMetadata(**{**metadata, "fbank_specs": tuple(metadata["fbank_specs"])})
        values["splits"] = {
            split: tuple(ShardEntry(**entry) for entry in entries) for split, entries in values["splits"].items()
        }
        values["stats"] = {name: FbankStats(**stat) for name, stat in values["stats"].items()}
        values["mask_counts"] = {split: MaskCounts(**numbers) for split, numbers in values["mask_counts"].items()}
        for name in ("class_names", "question_words", "notes"):
            values[name] = tuple(values[name])
        return cls(**values)


def _with_single_put(uri: str) -> str:
    """The URI with the option that makes Arrow send a small object as one atomic PUT instead of three requests."""
    if not uri.startswith("s3://"):
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


def open_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """A directory or ``s3://`` URI -> (filesystem, path). S3 settings come from the usual ``AWS_*`` variables.

    Raises:
        ConfigError: If the URI is malformed or the place cannot be reached.
    """
    if "://" in uri:
        try:
            filesystem, path = pafs.FileSystem.from_uri(_with_single_put(quote(uri, safe=_URI_SYNTAX)))
        except (pa.ArrowException, ValueError) as error:
            raise ConfigError(f"{uri} cannot be read: {error}. Give a directory or s3://BUCKET/FOLDER.") from None
        except OSError as error:
            raise ConfigError(
                f"{uri} cannot be reached: {error}. Check AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and the credentials."
            ) from None
        return filesystem, path.rstrip("/")
    return pafs.LocalFileSystem(), str(Path(uri).expanduser().resolve())


def read_first_file(uri: str, names: Sequence[str]) -> tuple[bytes, str]:
    """Content and location of the first of the files ``<uri>/<name>`` that exists. The name ``""`` stands for ``uri``.

    Raises:
        CheckpointError: If none of them exists.
    """
    filesystem, path = open_filesystem(uri)
    for name in names:
        place = f"{path}/{name}".rstrip("/")
        if filesystem.get_file_info(place).type == pafs.FileType.File:
            with filesystem.open_input_stream(place, compression=None) as stream:
                return stream.read(), f"{uri.rstrip('/')}/{name}".rstrip("/")
    inside = " or ".join(name for name in names if name)
    raise CheckpointError(f"No weights at {uri}. Give a weight file, or a folder that holds {inside}.")


def find_manifests(root: str, dataset: str, fingerprint: str | None = None) -> dict[str, ShardManifest]:
    """Fingerprint -> manifest of every complete preprocessing of ``dataset`` under ``root``.

    Args:
        root: Root of the shards: a directory or URI.
        dataset: Folder under it.
        fingerprint: Read only this one; None: all.

    Raises:
        ShardMismatchError: If a manifest is damaged, or lies in the folder of another one.
    """
    filesystem, _ = open_filesystem(root)
    found = {}
    for name, path in _manifest_paths(root, dataset).items():
        if fingerprint not in (None, name):
            continue
        where = f"{root.rstrip('/')}/{dataset}/{name}/{MANIFEST_NAME}"
        with filesystem.open_input_stream(path) as stream:
            manifest = ShardManifest.from_json(stream.read(), where)
        if (manifest.dataset, manifest.fingerprint) != (dataset, name):
            raise ShardMismatchError(
                f"{where} is the manifest of {manifest.dataset}/{manifest.fingerprint}. Move its folder back to that "
                "name, or remove it."
            )
        found[name] = manifest
    return found


def _manifest_paths(root: str, dataset: str) -> dict[str, str]:
    """Fingerprint -> manifest on the file system of ``root``."""
    filesystem, path = open_filesystem(root)
    folders = filesystem.get_file_info(pafs.FileSelector(f"{path}/{dataset}", allow_not_found=True))
    names = [info.base_name for info in folders if info.type == pafs.FileType.Directory]
    paths = {name: f"{path}/{dataset}/{name}/{MANIFEST_NAME}" for name in names}
    return {name: p for name, p in paths.items() if filesystem.get_file_info(p).type == pafs.FileType.File}


def _what_is_there(root: str) -> str:
    """A hint for messages: whether ``root`` is itself a preprocessing, or which datasets are there."""
    filesystem, path = open_filesystem(root)
    if filesystem.get_file_info(f"{path}/{MANIFEST_NAME}").type == pafs.FileType.File:
        return f" This folder is one preprocessing; the root is two folders up: {root.rstrip('/').rsplit('/', 2)[0]}"
    folders = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    others = [info.base_name for info in folders if info.type == pafs.FileType.Directory]
    complete = [name for name in sorted(others) if _manifest_paths(root, name)]
    return f" It holds shards of: {', '.join(complete)}." if complete else ""


def select_manifest(root: str, dataset: str, *, fbank: str | None, fingerprint: str | None = None) -> ShardManifest:
    """The manifest of the only preprocessing that fits.

    Args:
        root: Root of the shards: a directory or URI.
        dataset: Folder under it.
        fbank: Name of the filter bank that the backbone reads; None if no audio is read.
        fingerprint: Fingerprint of the preprocessing to choose; None: any.

    Raises:
        ShardMismatchError: If none fits or several fit. The message lists what is there, and the command or option that
            helps.
    """
    found = find_manifests(root, dataset, fingerprint)
    command = f"stgcma-jobs preprocess --dataset {dataset} --output {root}"
    option = f" --fbank {fbank}" if fbank else ""
    if fingerprint is not None and fingerprint not in found:
        raise ShardMismatchError(
            f"No complete shards at {root}/{dataset}/{fingerprint}. Set data.fingerprint to one that exists: "
            f"{', '.join(sorted(_manifest_paths(root, dataset))) or 'none'}."
        )
    if not found:
        raise ShardMismatchError(
            f"No complete shards of {dataset!r} under {root}.{_what_is_there(root)}\n"
            "If they are elsewhere, give their root with --shards (the folder that preprocess --output was given).\n"
            f"If there are none yet, run: {command}{option}   (and --source if the clips are not in data/raw/{dataset})"
        )
    fitting = {k: m for k, m in found.items() if fbank is None or fbank in m.metadata.fbank_specs}
    if not fitting:
        fingerprint, manifest = min(found.items(), key=lambda item: item[0])
        where = f"{root}/{dataset}/{fingerprint}"
        require_columns(manifest.metadata, fbank=fbank, where=where, command=command)  # type: ignore[arg-type]
    if len(fitting) > 1:
        lines = "\n".join(f"  --set data.fingerprint={k}   {m.source} {m.settings}" for k, m in sorted(fitting.items()))
        raise ShardMismatchError(f"{len(fitting)} preprocessings of {dataset!r} fit. Choose one:\n{lines}")
    return next(iter(fitting.values()))
