"""The media files that a shard was made from: recorded with it, and compared when it is to be used again.

Another size means that a file changed. Another modification time alone does not, because copying a data set changes it
too: then the content decides. ``--verify`` compares the content in any case.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock

from pipelines.storage import FileFacts, Storage


@dataclass(frozen=True, kw_only=True)
class MediaFile:
    """A file as it was when its clip was decoded."""

    size_bytes: int
    modified_ns: int
    sha256: str


def record_media(source: Storage, paths: Sequence[str]) -> dict[str, MediaFile]:
    """Describe those of the files that exist.

    Args:
        source: Root of the media.
        paths: Relative to it.
    """
    return {
        path: MediaFile(size_bytes=facts.size, modified_ns=facts.modified_ns, sha256=source.sha256(path))
        for path, facts in source.facts(paths).items()
    }


@dataclass(frozen=True, kw_only=True)
class MediaComparison:
    """Recorded media files against those that are there now."""

    change: str = ""
    """What changed, as a sentence; empty where every file is the same."""
    touched: Mapping[str, MediaFile]
    """Files of the same content that have another modification time, as they are now."""


class MediaListing:
    """The media files that are there now. Folders are listed once, by whichever thread needs them first.

    Args:
        source: Root of the media.
        verify: Compare the content of every file.
        note: Told once when content is compared because modification times differ.
    """

    def __init__(self, source: Storage, *, verify: bool, note: Callable[[str], None]) -> None:
        self._source, self._verify, self._note = source, verify, note
        self._lock = Lock()
        self._folders: dict[str, Future[dict[str, FileFacts]]] = {}
        self._noted = verify

    def compare(self, recorded: Mapping[str, MediaFile]) -> MediaComparison:
        """Compare the files of one shard; reads them only where sizes agree and times do not."""
        touched = {}
        for path, before in recorded.items():
            now = self._facts(path)
            if now is None or now.size != before.size_bytes:
                found = "is gone" if now is None else f"has {now.size} bytes instead of {before.size_bytes}"
                return MediaComparison(change=f"{path} {found}.", touched={})
            is_touched = now.modified_ns != before.modified_ns
            if is_touched:
                self._say_once()
            if (is_touched or self._verify) and self._source.sha256(path) != before.sha256:
                return MediaComparison(change=f"{path} has other content than when its shard was made.", touched={})
            if is_touched:
                touched[path] = MediaFile(size_bytes=now.size, modified_ns=now.modified_ns, sha256=before.sha256)
        return MediaComparison(touched=touched)

    def _facts(self, path: str) -> FileFacts | None:
        folder, name = posixpath.split(path)
        with self._lock:
            is_first = folder not in self._folders
            listing = self._folders.setdefault(folder, Future())
        if is_first:
            try:
                listing.set_result(self._source.list_facts(folder))
            except BaseException as error:
                listing.set_exception(error)
        return listing.result().get(name)

    def _say_once(self) -> None:
        with self._lock:
            is_first, self._noted = not self._noted, True
        if is_first:
            self._note("media files have other modification times than when they were read; comparing their content")
