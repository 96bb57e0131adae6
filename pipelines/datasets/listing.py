"""What the listings of several datasets need: media files of any container, and class names that are meant."""

from __future__ import annotations

import posixpath
from collections.abc import Container, Iterable, Mapping

from stgcma.errors import DatasetLayoutError

MEDIA_SUFFIXES = (
    ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".asf", ".flv",
    ".ogv", ".vob", ".3gp",
)  # fmt: skip
"""Of video files, in any case of letters; where several lie beside each other, the first in this order is read."""


def media_by_id(files: Mapping[str, int]) -> dict[str, tuple[str, int]]:
    """Video id -> (file name, bytes) of the media among the files of one folder.

    Side files of the same name (``clip.jpg``, ``clip.wav``, ``clip.json``) are never taken for the clip.
    """
    order = {suffix: rank for rank, suffix in enumerate(MEDIA_SUFFIXES)}
    found = []
    for name in files:
        stem, suffix = posixpath.splitext(name)
        if suffix.lower() in order:
            found.append((posixpath.basename(stem), order[suffix.lower()], name))
    found.sort(reverse=True)  # the last of a stem stays, which is the first in the order
    chosen = {video_id: name for video_id, _, name in found}
    return {video_id: (name, files[name]) for video_id, name in sorted(chosen.items())}


def media_variant(path: str, present: Container[str]) -> str:
    """The path of a video as it is there, whatever its container; ``path`` itself, an ``.mp4``, where none is."""
    stem = path.removesuffix(".mp4")
    names = [stem + suffix for lower in MEDIA_SUFFIXES for suffix in (lower, lower.upper())]
    return next((name for name in names if name in present), path)


def check_spellings(names: Iterable[str], where: str) -> None:
    """Refuse names that differ by capitals or blanks alone: one of them would be a class of its own.

    Raises:
        DatasetLayoutError: With both spellings.
    """
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault("".join(name.casefold().split()), name)
        if other != name:
            raise DatasetLayoutError(
                f"{where}: {other!r} and {name!r} differ by capitals or blanks only and would be two classes. "
                "Write both alike."
            )
