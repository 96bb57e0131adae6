"""Paths of the files of one AVSBench clip. Imports no media library, so that a listing can use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, kw_only=True)
class ClipFiles:
    """Paths of one clip's files in the data folder, whether they exist or not."""

    frames: tuple[str, ...]
    """One per second."""
    sound: str
    video: str
    """Read instead of missing frames or sound."""
    masks: tuple[str, ...]
    """One per annotated frame."""
    category_folder: str = ""
    """Folder with the masks of the clip's category; empty if the dataset has no categories."""

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them, existing or not."""
        return (*self.frames, self.sound, self.video, *self.masks)

    def media(self, present: Mapping[str, int]) -> str:
        """Path that the row is read from: the folder of frames, or the video if there are no frames."""
        if not any(path in present for path in self.frames) and self.video in present:
            return self.video
        return str(PurePosixPath(self.frames[0]).parent)

    def num_bytes(self, present: Mapping[str, int]) -> int | None:
        """Total size of the clip's files that exist; None if none exists."""
        sizes = [present[path] for path in self.paths if path in present]
        return sum(sizes) if sizes else None
