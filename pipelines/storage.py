"""A folder on a disk or in a bucket, with the few operations that sources and shards need.

Paths are relative to the root and use ``/``. The S3 endpoint and credentials come from the usual ``AWS_*`` variables,
including ``AWS_ENDPOINT_URL``.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import pyarrow.fs as pafs

from stgcma.data.manifest import open_filesystem
from stgcma.errors import DatasetLayoutError

_COPY_BYTES = 1 << 20


class FileFacts(NamedTuple):
    """What a listing says of a file."""

    size: int
    """Bytes."""
    modified_ns: int
    """Nanoseconds since 1970; a bucket counts whole seconds."""

    @classmethod
    def of(cls, info: pafs.FileInfo) -> FileFacts:
        return cls(info.size, info.mtime_ns)


class Storage:
    """Files under one root. Cheap to build: every worker opens its own."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.filesystem, self._root = open_filesystem(uri)
        self.is_local = isinstance(self.filesystem, pafs.LocalFileSystem)

    def __truediv__(self, folder: str) -> Storage:
        """The storage of a folder under this one."""
        return Storage(f"{self.uri}/{folder}")

    def full_path(self, path: str = "") -> str:
        """Path as the file system knows it. Local paths are absolute, so a name may begin with ``-``."""
        return f"{self._root}/{path}" if path else self._root

    def size(self, path: str) -> int | None:
        """Size of a file in bytes, or None if there is no such file."""
        info = self.filesystem.get_file_info(self.full_path(path))
        return info.size if info.type == pafs.FileType.File else None

    def exists(self, path: str) -> bool:
        """Whether there is such a file; false for a folder."""
        return self.size(path) is not None

    def facts(self, paths: Sequence[str]) -> dict[str, FileFacts]:
        """Size and modification time of those of the files that exist, by path."""
        infos = self.filesystem.get_file_info([self.full_path(path) for path in paths])
        return {p: FileFacts.of(i) for p, i in zip(paths, infos, strict=True) if i.type == pafs.FileType.File}

    def list_facts(self, folder: str = "", *, recursive: bool = False) -> dict[str, FileFacts]:
        """Path relative to ``folder`` -> size and modification time, sorted; empty when there is no such folder."""
        return {path: FileFacts.of(info) for path, info in self._list(folder, recursive)}

    def list_files(self, folder: str = "", *, recursive: bool = False) -> dict[str, int]:
        """Path relative to ``folder`` -> bytes, sorted; empty when there is no such folder."""
        return {path: info.size for path, info in self._list(folder, recursive)}

    def _list(self, folder: str, recursive: bool) -> list[tuple[str, pafs.FileInfo]]:
        base = self.full_path(folder)
        selector = pafs.FileSelector(base, allow_not_found=True, recursive=recursive)
        infos = self.filesystem.get_file_info(selector)
        files = [(info.path[len(base) + 1 :], info) for info in infos if info.type == pafs.FileType.File]
        return sorted(files, key=itemgetter(0))

    def list_folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly under ``folder``, sorted."""
        selector = pafs.FileSelector(self.full_path(folder), allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return sorted(i.base_name for i in infos if i.type == pafs.FileType.Directory)

    def read_bytes(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        with self.filesystem.open_input_stream(self.full_path(path), compression=None) as stream:
            return stream.read()

    def sha256(self, path: str) -> str:
        """Of the content of a file, in hex digits."""
        digest = hashlib.sha256()
        with self.filesystem.open_input_stream(self.full_path(path), compression=None) as stream:
            while chunk := stream.read(_COPY_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def read_text(self, path: str) -> str:
        """The text of a file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

        Raises:
            DatasetLayoutError: If the file has another encoding; guessing could silently change names.
        """
        data = self.read_bytes(path)
        encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            guess = "utf-16" if b"\0" in data[:100] else "latin1"
            raise DatasetLayoutError(
                f"{self.uri}/{path} is not UTF-8 (byte {error.start}: {data[error.start]:#04x}); it may be {guess}. "
                f"Convert it: iconv -f {guess} -t utf-8"
            ) from error

    @contextmanager
    def local_copy(self, path: str) -> Iterator[Path]:
        """A local path to the file: the file itself on a disk, a temporary download from a bucket.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        if self.is_local:
            local = Path(self.full_path(path))
            if not local.is_file():
                raise FileNotFoundError(str(local))
            yield local
            return
        with tempfile.TemporaryDirectory(prefix="stgcma-") as folder:
            target = Path(folder) / f"media{Path(path).suffix}"
            with (
                self.filesystem.open_input_stream(self.full_path(path), compression=None) as stream,
                target.open("wb") as file,
            ):
                shutil.copyfileobj(stream, file, _COPY_BYTES)
            yield target

    def write_bytes(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write a small file. Readers see either the old content or the complete new one; see ``new_file``."""
        with self.new_file(path, durable=durable) as temporary:
            temporary.write_bytes(data)

    @contextmanager
    def new_file(self, path: str, *, durable: bool = True) -> Iterator[Path]:
        """A temporary local file that becomes the file at ``path`` if the block ends without an error.

        On a disk it is renamed within its folder. In a bucket it is uploaded under another key and then copied,
        because an interrupted upload publishes what it has sent so far. Readers never see half a file, even if the run
        is killed.

        Args:
            path: The file to write.
            durable: Wait until the disk has the data, so that this also holds after a power failure.
        """
        if self.is_local:
            target = Path(self.full_path(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
            try:
                yield temporary
                if durable:
                    with temporary.open("rb") as file:
                        os.fsync(file.fileno())
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
            return
        with tempfile.TemporaryDirectory(prefix="stgcma-") as folder:
            temporary = Path(folder) / "new"
            yield temporary
            staged = f"{self.full_path(path)}.{uuid.uuid4().hex}.tmp"
            try:
                with (
                    temporary.open("rb") as file,
                    self.filesystem.open_output_stream(staged, compression=None) as stream,
                ):
                    shutil.copyfileobj(file, stream, _COPY_BYTES)
                self.filesystem.move(staged, self.full_path(path))
            except BaseException:
                with contextlib.suppress(OSError):
                    self.filesystem.delete_file(staged)
                raise

    @contextmanager
    def lock(self, path: str, *, wait: bool = False) -> Iterator[bool]:
        """Hold a lock file while the block runs; yield False if another process on this machine holds it.

        The system releases the lock when its process ends. A bucket has no locks, so there the block always gets True.

        Args:
            path: The lock file; created if missing.
            wait: Wait for the other process instead of yielding False.
        """
        if not self.is_local:
            yield True
            return
        file = Path(self.full_path(path))
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    def delete(self, path: str) -> None:
        """Remove a file if it exists."""
        if self.exists(path):
            self.filesystem.delete_file(self.full_path(path))
