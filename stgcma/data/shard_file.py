"""One Parquet file of a shard, opened only where it is what its manifest says.

Page checksums cover the rows. The footer, which says where every column lies, has none of its own, so the manifest
keeps its sha256. The footer holds the digest of the rows, so that another shard of equal size does not pass either.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stgcma.data.manifest import ShardEntry
from stgcma.data.schema import DIGEST_KEY, ShardMetadata
from stgcma.errors import ShardMismatchError

REPAIR = "Run the same stgcma-jobs preprocess with --verify. It makes damaged shards again."
"""What to do about a shard that does not hold what was written."""

MISSING_ROWS = "it has fewer rows than its footer says"
"""What a damaged page header leads to: it has no checksum of its own."""

_TAIL_BYTES = 1 << 16
"""Read from the end at once; most footers fit."""
_LENGTH_BYTES = 8
"""At the end of a Parquet file: length of the footer, and the word PAR1."""


def read_footer(source: pa.NativeFile) -> bytes:
    """The bytes of an open Parquet file from its footer to its end; fewer where the file is cut off."""
    size = source.size()
    length = min(size, _TAIL_BYTES)
    tail = source.read_at(length, size - length)
    needed = min(size, int.from_bytes(tail[-_LENGTH_BYTES:-4], "little") + _LENGTH_BYTES)
    if needed > length:
        tail = source.read_at(needed, size - needed)
    return bytes(tail[len(tail) - needed :])


def footer_sha256(path: str) -> str:
    """Of a local Parquet file, as its manifest lists it."""
    with pa.OSFile(path) as source:
        return hashlib.sha256(read_footer(source)).hexdigest()


def open_shard(
    filesystem: pafs.FileSystem, path: str, entry: ShardEntry, split: str, metadata: ShardMetadata, where: str
) -> pq.ParquetFile:
    """A Parquet file whose pages are verified whenever they are read.

    Args:
        filesystem: Where it lies.
        path: On that file system.
        entry: What the manifest says of it.
        split: Of its rows.
        metadata: What it says of itself.
        where: Its location, for messages.

    Raises:
        ShardMismatchError: If the file is missing, damaged, or another one; names what differs.
    """
    is_local = isinstance(filesystem, pafs.LocalFileSystem)
    try:
        source = pa.memory_map(path) if is_local else filesystem.open_input_file(path)
    except FileNotFoundError:
        raise ShardMismatchError(
            f"{where} is listed in the manifest but missing. Run the same stgcma-jobs preprocess again. It makes only "
            "the missing files."
        ) from None
    if source.size() != entry.size_bytes:
        raise ShardMismatchError(
            f"{where} has {source.size()} bytes, but its manifest says {entry.size_bytes}. {REPAIR}"
        )
    footer = read_footer(source)
    if hashlib.sha256(footer).hexdigest() != entry.footer_sha256:
        raise ShardMismatchError(f"{where} {_difference(footer, entry, split, metadata, where)}. {REPAIR}")
    content = pq.read_metadata(pa.BufferReader(footer))
    _require_same(content, entry, split, metadata, where)
    return pq.ParquetFile(source, metadata=content, pre_buffer=not is_local, page_checksum_verification=True)


def damaged_page(error: Exception, where: str) -> ShardMismatchError | None:
    """The error to raise for damaged rows; None where reading failed for another reason, such as the network."""
    if isinstance(error, OSError) and (error.errno is not None or "AWS Error" in str(error)):
        return None
    return ShardMismatchError(f"{where} is damaged ({_first_line(error)}). {REPAIR}")


def _difference(footer: bytes, entry: ShardEntry, split: str, metadata: ShardMetadata, where: str) -> str:
    """How a file with another footer differs from what the manifest says of it, as far as it can be read."""
    try:
        _require_same(pq.read_metadata(pa.BufferReader(footer)), entry, split, metadata, "It")
    except ShardMismatchError as error:
        return f"is another file than its manifest says ({str(error).removesuffix(f' {REPAIR}').rstrip('.')})"
    except Exception as error:  # a damaged footer fails in as many ways as there are bytes
        return f"is damaged ({_first_line(error)})"
    return "is damaged (its footer is not the one that was written)"


def _require_same(content: pq.FileMetaData, entry: ShardEntry, split: str, metadata: ShardMetadata, where: str) -> None:
    """
    Raises:
        ShardMismatchError: If rows, split, digest or metadata are not those of the manifest.
    """
    if content.num_rows != entry.num_rows:
        raise ShardMismatchError(
            f"{where} has {content.num_rows} rows, but its manifest says {entry.num_rows}. {REPAIR}"
        )
    if others := _splits(content) - {split}:
        raise ShardMismatchError(f"{where} holds rows of {', '.join(sorted(others))}, not of {split}. {REPAIR}")
    stored = ShardMetadata.decode(content.schema.to_arrow_schema(), where)
    if stored != metadata:
        differing = ", ".join(
            f"{f.name} {mine!r} instead of {theirs!r}"
            for f in fields(stored)
            if (mine := getattr(stored, f.name)) != (theirs := getattr(metadata, f.name))
        )
        raise ShardMismatchError(f"{where} was made with {differing} in its manifest. {REPAIR}")
    digest = (content.metadata or {}).get(DIGEST_KEY, b"").decode()
    if digest != entry.digest:
        raise ShardMismatchError(
            f"{where} holds rows with digest {digest[:12] or 'none'}, but its manifest says {entry.digest[:12]}. "
            f"{REPAIR}"
        )


def _splits(content: pq.FileMetaData) -> set[str]:
    """Smallest and largest value of the column ``split``, from the statistics of every row group."""
    number = next(index for index, column in enumerate(content.schema) if column.path == "split")
    found: set[str] = set()
    for group in range(content.num_row_groups):
        statistics = content.row_group(group).column(number).statistics
        found |= {statistics.min, statistics.max}
    return found


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
