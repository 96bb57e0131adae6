"""What several datasets need to list their clips: media files in any container, and a check of class names."""

from __future__ import annotations

import posixpath
from collections.abc import Container, Iterable, Mapping

from stgcma.errors import DatasetLayoutError

MEDIA_SUFFIXES = (
    ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".asf", ".flv",
    ".ogv", ".vob", ".3gp",
)  # fmt: skip
"""Suffixes of video files, in lower or upper case. If a clip has several files, the first in this order is read."""


def media_by_id(files: Mapping[str, int]) -> dict[str, tuple[str, int]]:
    """Video id -> (file name, size in bytes) of the videos among the files of one folder.

    Other files of the same name (``clip.jpg``, ``clip.wav``, ``clip.json``) are ignored.
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
    """The path of a video with the suffix that it has in ``present``; ``path`` itself, an ``.mp4``, if it has none."""
    stem = path.removesuffix(".mp4")
    names = [stem + suffix for lower in MEDIA_SUFFIXES for suffix in (lower, lower.upper())]
    return next((name for name in names if name in present), path)


def check_spellings(names: Iterable[str], where: str) -> None:
    """Refuse names that differ only by capitals or blanks, because each would become a class of its own.

    Raises:
        DatasetLayoutError: If there are such names; the message gives both spellings.
    """
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault("".join(name.casefold().split()), name)
        if other != name:
            raise DatasetLayoutError(
                f"{where}: {other!r} and {name!r} differ only by capitals or blanks and would be two classes. "
                "Use one spelling."
            )
