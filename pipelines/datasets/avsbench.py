"""AVSBench (Zhou et al., ECCV 2022): five frames of each five-second clip, and masks of the objects that sound.

S4, one sounding object (4,932 clips, 23 categories; one mask per training clip, five elsewhere):

    <source>/s4_meta_data.csv                    name,start,category,split
    <source>/s4_data/visual_frames/<split>/<category>/<name>/<name>_{1..5}.png
    <source>/s4_data/audio_wav/<split>/<category>/<name>.wav
    <source>/s4_data/gt_masks/<split>/<category>/<name>/<name>_{k}.png      training: k = 1 only
    <source>/s4_data/raw_videos/<split>/<category>/<name>.mp4               read if a clip has no frames or no wav

MS3, several sounding objects (424 clips, five masks each, no categories):

    <source>/ms3_meta_data.csv                   video_id,split
    <source>/ms3_data/visual_frames/<id>/<id>.mp4_{1..5}.png
    <source>/ms3_data/audio_wav/<split>/<id>.wav
    <source>/ms3_data/gt_masks/<split>/<id>/<id>_{k}.png
    <source>/ms3_data/raw_videos/<id>.mp4        read if a clip has no frames or no wav

``<source>`` may also be the folder that holds ``Single-source`` or ``Multi-sources``. The pickled VGGish features of
the release (``audio_log_mel``) are never opened. A clip that starts at second 6 of its ten-second original is four
seconds long: its last frame is repeated, and its five audio windows divide the four seconds.
"""

from __future__ import annotations

import csv
import io
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar

from pipelines.clips import ClipListing, ClipRef
from pipelines.datasets.base import DatasetSource
from pipelines.datasets.listing import check_spellings, media_variant
from pipelines.media.avs_files import ClipFiles
from stgcma.errors import DatasetLayoutError

if TYPE_CHECKING:
    from pipelines.config import PreprocessConfig
    from pipelines.storage import Storage
    from stgcma.data.schema import ClipRow

NUM_FRAMES = 5
CLIP_SECONDS = 5
ORIGINAL_SECONDS = 10
"""Length of the VGGSound clip; ``start`` is a second of it."""
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class MaskAnnotation:
    """One line of the csv: category (empty in MS3), length in seconds, and the frames (from 0) that have a mask."""

    category: str
    expected_seconds: int
    mask_frames: tuple[int, ...]


class AVSBench(DatasetSource):
    """What S4 and MS3 share; subclasses give the paths."""

    annotation = "masks"
    num_segments = NUM_FRAMES
    default_fbanks = ("swin_avs",)
    stores_waveform = False
    metadata_file: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    data_folder: ClassVar[str]
    parent_folder: ClassVar[str]
    """Folder that holds the csv in the official archive."""

    @abstractmethod
    def annotate(self, line: dict[str, str], where: str) -> MaskAnnotation:
        """Turn one csv line into an annotation.

        Raises:
            DatasetLayoutError: If a value is invalid; ``where`` names the line.
        """

    @abstractmethod
    def files(self, clip_id: str, split: str, annotation: MaskAnnotation) -> ClipFiles:
        """Paths of one clip, relative to the data folder."""

    def list_clips(self, source: Storage, config: PreprocessConfig) -> ClipListing:
        root, prefix = self._find_root(source)
        where = f"{root.uri}/{self.metadata_file}"
        lines = read_table(root.read_text(self.metadata_file), self.columns, where)
        present = root.list_files(self.data_folder, recursive=True)
        clips: list[ClipRef] = []
        splits: dict[str, str] = {}
        for number, line in lines:
            clip_id, split = line[self.columns[0]], line["split"]
            here = f"{where}, line {number}"
            if split not in SPLITS:
                raise DatasetLayoutError(f"{here}: split needs one of {', '.join(SPLITS)}, got {split!r}.")
            if clip_id in splits:
                raise DatasetLayoutError(
                    f"{here}: clip {clip_id!r} is listed twice, in {splits[clip_id]} and {split}. Remove one line."
                )
            splits[clip_id] = split
            annotation = self.annotate(line, here)
            files = self.files(clip_id, split, annotation)
            files = replace(files, video=media_variant(files.video, present))
            clips.append(
                ClipRef(
                    dataset=self.name,
                    clip_id=clip_id,
                    split=split,
                    video_id=clip_id,
                    media_uri=f"{prefix}{self.data_folder}/{files.media(present)}",
                    media_bytes=files.num_bytes(present),
                    annotation=annotation,
                    counts_in_stats=split == "train",
                )
            )
        categories = sorted({clip.annotation.category for clip in clips} - {""})
        check_spellings(categories, where)
        return ClipListing(clips=tuple(clips), class_names=tuple(categories), notes=tuple(_notes(clips, present)))

    def build_rows(self, refs: Sequence[ClipRef], source: Storage, config: PreprocessConfig) -> list[ClipRow]:
        from pipelines.media.avs_rows import build_row

        root, _ = self._find_root(source)
        data = root / self.data_folder
        return [build_row(ref, self._files_there(ref, data), data, config) for ref in refs]

    def media_files(self, ref: ClipRef, source: Storage) -> Sequence[str]:
        root, prefix = self._find_root(source)
        return [f"{prefix}{self.data_folder}/{path}" for path in self._files_there(ref, root / self.data_folder).paths]

    def _files_there(self, ref: ClipRef, data: Storage) -> ClipFiles:
        """The clip's files; if its video will be read, with the suffix that the video has."""
        files = self.files(ref.clip_id, ref.split, ref.annotation)
        folder = PurePosixPath(files.video).parent
        if "raw_videos/" not in ref.media_uri and data.exists(files.sound):
            return files
        present = {f"{folder}/{name}" for name in data.list_files(str(folder))}
        return replace(files, video=media_variant(files.video, present))

    def _find_root(self, source: Storage) -> tuple[Storage, str]:
        """The folder with the csv, and its path relative to the source."""
        for prefix in ("", f"{self.parent_folder}/", f"avsbench_data/{self.parent_folder}/"):
            root = source / prefix.rstrip("/") if prefix else source
            if root.exists(self.metadata_file):
                return root, prefix
        raise DatasetLayoutError(
            f"{self.name} needs {source.uri}/{self.metadata_file} (or {self.parent_folder}/{self.metadata_file}), and "
            f"found neither. Point --source at the folder that holds {self.metadata_file} and {self.data_folder}/."
        )


class AVSBenchS4(AVSBench):
    """One sound source per clip."""

    name = "avs-s4"
    metadata_file = "s4_meta_data.csv"
    columns = ("name", "start", "category", "split")
    data_folder = "s4_data"
    parent_folder = "Single-source"

    def annotate(self, line: dict[str, str], where: str) -> MaskAnnotation:
        start, category = line["start"], line["category"]
        if not start.isdecimal() or int(start) >= ORIGINAL_SECONDS:
            raise DatasetLayoutError(
                f"{where}: start needs a whole second in 0..{ORIGINAL_SECONDS - 1}, got {start!r}."
            )
        if not category or "/" in category:
            raise DatasetLayoutError(f"{where}: category needs the name of a folder, got {category!r}.")
        return MaskAnnotation(
            category=category,
            expected_seconds=min(CLIP_SECONDS, ORIGINAL_SECONDS - int(start)),
            mask_frames=(0,) if line["split"] == "train" else tuple(range(NUM_FRAMES)),
        )

    def files(self, clip_id: str, split: str, annotation: MaskAnnotation) -> ClipFiles:
        folder = f"{split}/{annotation.category}"
        return ClipFiles(
            frames=tuple(f"visual_frames/{folder}/{clip_id}/{clip_id}_{k}.png" for k in range(1, NUM_FRAMES + 1)),
            sound=f"audio_wav/{folder}/{clip_id}.wav",
            video=f"raw_videos/{folder}/{clip_id}.mp4",
            masks=tuple(f"gt_masks/{folder}/{clip_id}/{clip_id}_{k + 1}.png" for k in annotation.mask_frames),
            category_folder=f"gt_masks/{folder}",
        )


class AVSBenchMS3(AVSBench):
    """Several sound sources per clip."""

    name = "avs-ms3"
    metadata_file = "ms3_meta_data.csv"
    columns = ("video_id", "split")
    data_folder = "ms3_data"
    parent_folder = "Multi-sources"

    def annotate(self, line: dict[str, str], where: str) -> MaskAnnotation:
        return MaskAnnotation(category="", expected_seconds=CLIP_SECONDS, mask_frames=tuple(range(NUM_FRAMES)))

    def files(self, clip_id: str, split: str, annotation: MaskAnnotation) -> ClipFiles:
        return ClipFiles(
            frames=tuple(f"visual_frames/{clip_id}/{clip_id}.mp4_{k}.png" for k in range(1, NUM_FRAMES + 1)),
            sound=f"audio_wav/{split}/{clip_id}.wav",
            video=f"raw_videos/{clip_id}.mp4",
            masks=tuple(f"gt_masks/{split}/{clip_id}/{clip_id}_{k + 1}.png" for k in annotation.mask_frames),
        )


def read_table(text: str, columns: Sequence[str], where: str) -> list[tuple[int, dict[str, str]]]:
    """Lines of a csv file as (line number, column -> value).

    Args:
        text: Content of the file.
        columns: The columns to return; others are left out.
        where: Path of the file, for messages.

    Raises:
        DatasetLayoutError: If a column is missing, or a line has more or fewer values than the header.
    """
    reader = csv.reader(io.StringIO(text))
    header = [name.strip() for name in next(reader, [])]
    missing = [name for name in columns if name not in header]
    if missing:
        raise DatasetLayoutError(
            f"{where}: needs the columns {', '.join(columns)}; {', '.join(missing)} missing in the header "
            f"{','.join(header)!r}."
        )
    lines = []
    for values in reader:
        if not values:
            continue
        if len(values) != len(header):
            raise DatasetLayoutError(
                f"{where}, line {reader.line_num}: needs {len(header)} values ({','.join(header)}), "
                f"got {','.join(values)!r}."
            )
        by_name = dict(zip(header, (value.strip() for value in values), strict=True))
        lines.append((reader.line_num, {name: by_name[name] for name in columns}))
    return lines


def _notes(clips: Sequence[ClipRef], present: dict[str, int]) -> list[str]:
    """Notes on short clips, clips without frame files, and files that are not opened."""
    notes = []
    short = Counter(clip.split for clip in clips if clip.annotation.expected_seconds < CLIP_SECONDS)
    if short:
        notes.append(f"{sum(short.values())} clips are shorter than {CLIP_SECONDS} s; their last frame is repeated")
    from_video = sum("raw_videos/" in clip.media_uri for clip in clips)
    if from_video:
        notes.append(f"{from_video} clips have no frame files and are read from raw_videos")
    if any(path.endswith(".pkl") for path in present):
        notes.append("the pickled features in audio_log_mel are not opened")
    return notes
