"""AVE (Tian et al., ECCV 2018): 4,097 ten-second clips, 4,143 annotated events, one label per second.

    <source>/Annotations.txt               Category&VideoID&Quality&StartTime&EndTime, with or without a header
    <source>/{train,val,test}Set.txt       rows of Annotations.txt; or {train,val,test}_order.h5 with row numbers
    <source>/AVE/<VideoID>.mp4             or .mkv, .webm, ...: see ``pipelines.datasets.listing``
    <source>/labels.h5                     optional, [rows, 10, 29] one-hot: see ``--labels``

``<source>`` may also be the folder that holds ``AVE_Dataset/``. An id may occur in several rows of Annotations.txt (the
same clip in another category): the clip is decoded once and gives one row for each. ``clip_id`` is
``<VideoID>:<row in Annotations.txt>``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from pipelines.clips import ClipListing, ClipRef
from pipelines.datasets.base import DatasetSource
from pipelines.datasets.listing import check_spellings, media_by_id
from pipelines.options import DatasetOptions, option
from stgcma.data.vocab import AVE_CLASSES
from stgcma.errors import ConfigError, DatasetLayoutError

if TYPE_CHECKING:
    import numpy as np

    from pipelines.config import PreprocessConfig
    from pipelines.storage import Storage
    from stgcma.data.schema import ClipRow

NUM_SECONDS = 10
SPLITS = ("train", "val", "test")
_FIELDS = ("Category", "VideoID", "Quality", "StartTime", "EndTime")


@dataclass(frozen=True, kw_only=True)
class AVEOptions(DatasetOptions):
    """Options that only AVE has."""

    labels: str = option("auto", "annotations, an .h5 file in SOURCE, or auto: labels.h5 if it exists.")

    def __post_init__(self) -> None:
        if self.labels not in ("auto", "annotations") and not self.labels.endswith(".h5"):
            raise ConfigError(
                f"--labels needs auto, annotations or the name of an .h5 file in the source; got {self.labels!r}."
            )


@dataclass(frozen=True, kw_only=True)
class EventAnnotation:
    """One row of Annotations.txt and the class of each second, ``labels [10]``."""

    category: str
    labels: tuple[int, ...]


class AnnotationRow(NamedTuple):
    """One parsed line. ``start`` and ``end`` are whole seconds, half-open; equal means background throughout."""

    category: str
    video_id: str
    start: int
    end: int


class AVE(DatasetSource):
    """Audio-visual event localization."""

    name = "ave"
    annotation = "events"
    num_segments = NUM_SECONDS
    default_fbanks = ("clip", "swin")
    stores_waveform = True
    options = AVEOptions

    def list_clips(self, source: Storage, config: PreprocessConfig) -> ClipListing:
        root = find_root(source)
        rows = parse_rows(read_lines(root, "Annotations.txt"), f"{root.uri}/Annotations.txt")
        splits = read_splits(root, rows)
        class_names = class_order((row.category for row in rows), f"{root.uri}/Annotations.txt")
        labels, notes = choose_labels(root, rows, class_names, config.options_as(AVEOptions).labels)
        prefix = "" if root is source else "AVE_Dataset/"
        media = find_media(root)
        clips = []
        annotations: dict[EventAnnotation, EventAnnotation] = {}  # many rows are alike, and share one
        for index, row in enumerate(rows):
            if index not in splits:
                continue
            name = media.get(row.video_id)
            annotation = EventAnnotation(category=row.category, labels=tuple(labels[index].tolist()))
            clips.append(
                ClipRef(
                    dataset=self.name,
                    clip_id=f"{row.video_id}:{index}",
                    split=splits[index],
                    video_id=row.video_id,
                    media_uri=f"{prefix}AVE/{name[0] if name else row.video_id + '.mp4'}",
                    media_bytes=name[1] if name else None,
                    annotation=annotations.setdefault(annotation, annotation),
                    counts_in_stats=splits[index] == "train",
                )
            )
        notes += _layout_notes(rows, splits, media)
        return ClipListing(clips=tuple(clips), class_names=class_names, notes=tuple(notes))

    def build_rows(self, refs: Sequence[ClipRef], source: Storage, config: PreprocessConfig) -> list[ClipRow]:
        import numpy as np

        from pipelines.media.rows import video_row
        from pipelines.media.span import NominalLength

        row = video_row(
            refs[0],
            source,
            config,
            num_segments=self.num_segments,
            with_waveform=self.stores_waveform,
            nominal=NominalLength(seconds=NUM_SECONDS),
        )
        return [
            replace(
                row,
                clip_id=ref.clip_id,
                split=ref.split,
                event_labels=np.array(ref.annotation.labels, dtype=np.int8),
                category=ref.annotation.category,
            )
            for ref in refs
        ]


def find_root(source: Storage) -> Storage:
    """The folder that holds ``Annotations.txt``: the source itself or ``AVE_Dataset`` in it.

    Raises:
        DatasetLayoutError: If neither holds it.
    """
    for root in (source, source / "AVE_Dataset"):
        if root.exists("Annotations.txt"):
            return root
    raise DatasetLayoutError(
        f"AVE needs {source.uri}/Annotations.txt (or {source.uri}/AVE_Dataset/Annotations.txt); neither exists. "
        "Unzip AVE_Dataset.zip there, or point --source at the folder that holds Annotations.txt, "
        "trainSet.txt, valSet.txt, testSet.txt and AVE/."
    )


def read_lines(root: Storage, path: str) -> list[str]:
    """Non-empty lines of an annotation file."""
    return [line for line in root.read_text(path).splitlines() if line.strip()]


def parse_rows(lines: Sequence[str], where: str) -> list[AnnotationRow]:
    """Parse lines into rows; the published files with and without a header give the same row numbers.

    Args:
        lines: Lines of the file.
        where: Path of the file, for messages.

    Raises:
        DatasetLayoutError: If a line is malformed.
    """
    has_header = bool(lines) and lines[0].split("&")[0].strip() == _FIELDS[0]
    rows = []
    for number, line in enumerate(lines[has_header:], start=1 + has_header):
        category, _, rest = line.strip().partition("&")
        values = rest.rsplit("&", 3)  # from the right: a file name may hold an "&"
        times = [value.strip() for value in values[2:]]
        if len(values) != len(_FIELDS) - 1 or not (times[0].isdecimal() and times[1].isdecimal()):
            raise DatasetLayoutError(f"{where}, line {number}: needs {'&'.join(_FIELDS)}, got {line!r}.")
        start, end = int(times[0]), int(times[1])
        if not 0 <= start <= end <= NUM_SECONDS:
            raise DatasetLayoutError(
                f"{where}, line {number}: needs 0 <= StartTime <= EndTime <= {NUM_SECONDS}, got {start} and {end}."
            )
        rows.append(AnnotationRow(category.strip(), values[0].strip(), start, end))
    return rows


def read_splits(root: Storage, rows: Sequence[AnnotationRow]) -> dict[int, str]:
    """Row number -> split, from the text lists, or from the order files if there are no lists.

    Raises:
        DatasetLayoutError: If a list is missing, names an unknown row, or repeats a row of another split.
    """
    splits: dict[int, str] = {}
    numbers: dict[AnnotationRow, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        numbers[row].append(index)
    for split in SPLITS:
        for index in _split_rows(root, split, numbers, len(rows)):
            if index in splits:
                raise DatasetLayoutError(
                    f"{root.uri}: row {index} ({rows[index].video_id}) is listed in {splits[index]} and in {split}. "
                    "Remove it from one of the two lists."
                )
            splits[index] = split
    return splits


def _split_rows(root: Storage, split: str, numbers: dict[AnnotationRow, list[int]], num_rows: int) -> list[int]:
    text, order = f"{split}Set.txt", f"{split}_order.h5"
    if root.exists(text):
        where = f"{root.uri}/{text}"
        listed = parse_rows(read_lines(root, text), where)
        unknown = [row.video_id for row in listed if row not in numbers]
        if unknown:
            raise DatasetLayoutError(
                f"{where}: {len(unknown)} rows are not in Annotations.txt; the first is that of {unknown[0]!r}. "
                "Use the split lists that came with this Annotations.txt."
            )
        return [index for row in dict.fromkeys(listed) for index in numbers[row]]
    if root.exists(order):
        indices = read_h5(root, order, "order").astype(int).tolist()
        outside = [index for index in indices if not 0 <= index < num_rows]
        if outside:
            raise DatasetLayoutError(
                f"{root.uri}/{order} needs rows of Annotations.txt, 0..{num_rows - 1}, got {outside[0]}. "
                "Use the order files that came with this Annotations.txt."
            )
        return indices
    raise DatasetLayoutError(f"AVE needs {root.uri}/{text} (or {order}); neither exists. Copy one of them there.")


def class_order(categories: Iterable[str], where: str) -> tuple[str, ...]:
    """Class names, background last: in the official order, or by first appearance if the set has other categories.

    Args:
        categories: Category of every row.
        where: Path of the file, for messages.

    Raises:
        DatasetLayoutError: If two names, official ones included, differ only by capitals or blanks.
    """
    appearing = tuple(dict.fromkeys(categories))
    official = AVE_CLASSES if set(appearing) & set(AVE_CLASSES) else AVE_CLASSES[-1:]
    check_spellings((*official, *appearing), where)
    if set(appearing) <= set(AVE_CLASSES[:-1]):
        return AVE_CLASSES
    return (*appearing, AVE_CLASSES[-1])


def derived_labels(rows: Sequence[AnnotationRow], class_names: Sequence[str]) -> np.ndarray:
    """Labels ``[rows, 10]`` int8: the category in seconds ``start .. end - 1``, background elsewhere.

    They agree with the official event times and video classes in all 41,430 seconds of AVE.
    """
    import numpy as np

    labels = np.full((len(rows), NUM_SECONDS), len(class_names) - 1, dtype=np.int8)
    for index, row in enumerate(rows):
        labels[index, row.start : row.end] = class_names.index(row.category)
    return labels


def choose_labels(
    root: Storage, rows: Sequence[AnnotationRow], class_names: Sequence[str], choice: str
) -> tuple[np.ndarray, list[str]]:
    """Labels ``[rows, 10]`` int8 from the file that ``AVEOptions.labels`` names, and notes on where they differ.

    Raises:
        DatasetLayoutError: If the file is missing or belongs to another Annotations.txt.
    """
    derived = derived_labels(rows, class_names)
    if choice == "annotations" or (choice == "auto" and not root.exists("labels.h5")):
        return derived, []
    name = "labels.h5" if choice == "auto" else choice
    if not root.exists(name):
        raise DatasetLayoutError(
            f"--labels {choice} needs {root.uri}/{name}, which does not exist. Copy it there, or use "
            "--labels annotations."
        )
    one_hot = read_h5(root, name, "avadataset")
    needed = (len(rows), NUM_SECONDS, len(class_names))
    if one_hot.shape != needed:
        raise DatasetLayoutError(
            f"{root.uri}/{name} needs shape {list(needed)} (rows, seconds, classes), got {list(one_hot.shape)}. "
            "The file belongs to another Annotations.txt. Use --labels annotations."
        )
    labels = one_hot.argmax(axis=-1).astype(derived.dtype)
    differing = labels != derived
    several = int(((one_hot > 0).sum(axis=-1) > 1).sum())
    notes = [f"labels come from {name}; {int(differing.sum())} seconds differ from Annotations.txt"]
    if differing.any():
        where = ", ".join(f"{rows[i].video_id} (row {i})" for i in differing.any(axis=1).nonzero()[0][:10])
        notes[0] += f", in {int(differing.any(axis=1).sum())} rows: {where}"
    if several:
        notes.append(f"{name} marks several classes in {several} seconds; the first is used")
    return labels, notes


def read_h5(root: Storage, path: str, key: str) -> np.ndarray:
    """One array of an HDF5 file.

    Raises:
        ConfigError: If h5py is not installed.
        DatasetLayoutError: If the file has no such array.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConfigError(
            f"Reading {root.uri}/{path} needs h5py, which is not installed. Run pip install h5py, "
            "or use --labels annotations and the text lists."
        ) from error
    with root.local_copy(path) as local, h5py.File(local, "r") as file:
        if key not in file:
            raise DatasetLayoutError(
                f"{root.uri}/{path} needs an array {key!r}, got {', '.join(file)}. Use the published file."
            )
        return file[key][()]


def find_media(root: Storage) -> dict[str, tuple[str, int]]:
    """Video id -> (file name, size in bytes) in ``AVE/``; an ``.mp4`` is preferred to other containers."""
    return media_by_id(root.list_files("AVE"))


def _layout_notes(
    rows: Sequence[AnnotationRow], splits: dict[int, str], media: dict[str, tuple[str, int]]
) -> list[str]:
    """Notes on ids in two splits, on missing files, and on rows or files that are not used."""
    notes = []
    ids = {s: {rows[i].video_id for i, split in splits.items() if split == s} for s in SPLITS}
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = sorted(ids[first] & ids[second])
        if shared:
            notes.append(
                f"{len(shared)} ids are in {first} and in {second}, kept as published: {', '.join(shared[:10])}"
            )
    used = set().union(*ids.values())
    repeated = sum(count > 1 for count in Counter(rows[i].video_id for i in splits).values())
    if repeated:
        notes.append(f"{repeated} ids are annotated more than once: {len(splits)} rows of {len(used)} files")
    unlisted = len(rows) - len(splits)
    if unlisted:
        notes.append(f"{unlisted} rows of Annotations.txt are not in any split list and are left out")
    missing = sorted(used - media.keys())
    if missing:
        notes.append(f"{len(missing)} files are missing from AVE/: {', '.join(missing[:10])}")
    spare = len(media.keys() - {row.video_id for row in rows})
    if spare:
        notes.append(f"{spare} files in AVE/ have no annotation and are left out")
    return notes
