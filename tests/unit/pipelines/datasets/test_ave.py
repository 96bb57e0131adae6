"""The official annotation files, their variants, and the notes about them."""

from collections import Counter

import h5py
import numpy as np
import pytest

from pipelines.config import PreprocessConfig
from pipelines.datasets.ave import AVE, AVEOptions, class_order, derived_labels, parse_rows
from pipelines.storage import Storage
from stgcma.data.vocab import AVE_CLASSES
from stgcma.errors import ConfigError, DatasetLayoutError
from tests.media import write_ave
from tests.shared_data import shared_dir


def listing(root, **options):
    config = PreprocessConfig(dataset="ave", source=str(root), options=AVEOptions(**options))
    return AVE().list_clips(Storage(str(root)), config)


@pytest.fixture
def official(tmp_path):
    """A folder with the official lists but no media, and the folder with all official files."""
    source = shared_dir() / "annotations" / "ave"
    for name in ("Annotations.txt", "trainSet.txt", "valSet.txt", "testSet.txt"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    return tmp_path, source


def test_official_counts_splits_and_labels(official):
    root, source = official
    found = listing(root)
    assert Counter(clip.split for clip in found.clips) == {"train": 3339, "val": 402, "test": 402}
    assert len({clip.video_id for clip in found.clips}) == 4097
    assert len({clip.clip_id for clip in found.clips}) == 4143
    assert sum(clip.video_id.startswith("-") for clip in found.clips) > 1000
    assert found.class_names == AVE_CLASSES
    labels = np.array([clip.annotation.labels for clip in sorted(found.clips, key=lambda c: int(c.clip_id[12:]))])
    np.testing.assert_array_equal(labels, np.load(source / "labels_per_second_derived.int8.npy"))
    assert (labels == 28).sum() == 7078
    empty = next(clip for clip in found.clips if clip.video_id == "VWi2ENBuTbw")
    assert set(empty.annotation.labels) == {28}


def test_splits_equal_the_order_files(official):
    root, source = official
    by_text = {clip.clip_id: clip.split for clip in listing(root).clips}
    for split in ("train", "val", "test"):
        (root / f"{split}Set.txt").unlink()
        (root / f"{split}_order.h5").write_bytes((source / f"{split}_order.h5").read_bytes())
    assert {clip.clip_id: clip.split for clip in listing(root).clips} == by_text


def test_both_header_variants_give_the_same_clips(official):
    root, source = official
    without = listing(root).clips
    (root / "Annotations.txt").write_bytes((source / "Annotations.with_header.txt").read_bytes())
    assert listing(root).clips == without


def test_leaks_repeats_and_missing_files_are_reported(official):
    notes = "\n".join(listing(official[0]).notes)
    assert "8 ids are in train and in test" in notes
    assert "10 ids are in train and in val" in notes
    assert "in val and in test" not in notes
    assert "45 ids are annotated more than once: 4143 rows of 4097 files" in notes
    assert "4097 files are missing" in notes


def test_label_file_is_used_and_differences_are_reported(official):
    root, _ = official
    derived = np.array([clip.annotation.labels for clip in listing(root, labels="annotations").clips])
    one_hot = np.zeros((4143, 10, 29), np.float32)
    rows = parse_rows((root / "Annotations.txt").read_text().splitlines(), "x")
    np.put_along_axis(one_hot, derived_labels(rows, AVE_CLASSES)[..., None].astype(int), 1, axis=-1)
    one_hot[171, 2] = 0
    one_hot[171, 2, 5] = 1
    one_hot[200, 0, 7:9] = 1
    with h5py.File(root / "labels.h5", "w") as file:
        file["avadataset"] = one_hot
    found = listing(root)
    clip = next(clip for clip in found.clips if clip.clip_id.endswith(":171"))
    assert clip.annotation.labels[2] == 5
    assert any("labels.h5; " in note and "(row 171)" in note for note in found.notes)
    assert any("several classes in 1 seconds" in note for note in found.notes)
    ignored = np.array([clip.annotation.labels for clip in listing(root, labels="annotations").clips])
    np.testing.assert_array_equal(ignored, derived)


def test_media_are_found_with_sizes_and_nested_folder(tmp_path):
    write_ave(tmp_path / "AVE_Dataset", audio_codec=None, seconds=0.2)
    clips = listing(tmp_path).clips
    assert [clip.media_uri for clip in clips] == [
        f"AVE_Dataset/AVE/{video_id}.mp4" for video_id in ("-aaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc")
    ]
    assert all(clip.media_bytes == (tmp_path / clip.media_uri).stat().st_size for clip in clips)
    assert [clip.counts_in_stats for clip in clips] == [True, False, False]


def test_names_with_ampersands_and_own_categories():
    rows = parse_rows(["red square&a & b&good&0&3", "blue disc&c&good&3&3"], "here")
    assert [(row.category, row.video_id, row.start, row.end) for row in rows] == [
        ("red square", "a & b", 0, 3),
        ("blue disc", "c", 3, 3),
    ]
    assert class_order([row.category for row in rows], "here") == ("red square", "blue disc", "background")
    assert class_order(["Cat"], "here") == AVE_CLASSES


@pytest.mark.parametrize(
    ("categories", "first", "second"),
    [
        (["Cat", "Male Speech, man speaking"], "Male speech, man speaking", "Male Speech, man speaking"),
        (["red square", "Red square"], "red square", "Red square"),
        (["red  square", "blue disc", "redsquare"], "red  square", "redsquare"),
        (["Background", "blue disc"], "background", "Background"),
    ],
)
def test_class_names_that_differ_by_capitals_or_blanks_are_an_error(categories, first, second):
    with pytest.raises(DatasetLayoutError, match=f"here: {first!r} and {second!r} differ"):
        class_order(categories, "here")


def test_media_come_before_side_files_of_the_same_name(tmp_path):
    write_ave(tmp_path, [("clipA", "train"), ("clipB", "val"), ("clipC", "test")], audio_codec=None, seconds=0.2)
    folder = tmp_path / "AVE"
    for video_id, suffix, side in (("clipA", "mkv", "jpg"), ("clipB", "WEBM", "wav"), ("clipC", "mov", "json")):
        (folder / f"{video_id}.mp4").rename(folder / f"{video_id}.{suffix}")
        (folder / f"{video_id}.{side}").write_bytes(b"beside it")
    assert [clip.media_uri for clip in listing(tmp_path).clips] == [
        "AVE/clipA.mkv",
        "AVE/clipB.WEBM",
        "AVE/clipC.mov",
    ]
    (folder / "clipA.MP4").write_bytes(b"first choice")
    (folder / "clipC.mov").unlink()
    found = listing(tmp_path)
    assert [clip.media_uri for clip in found.clips][::2] == ["AVE/clipA.MP4", "AVE/clipC.mp4"]
    assert found.clips[2].media_bytes is None
    assert any("1 files are missing from AVE/: clipC" in note for note in found.notes)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin1"])
def test_annotations_in_other_encodings_are_read_or_refused(tmp_path, encoding):
    root = write_ave(tmp_path, categories=("Glocke à Paris",), audio_codec=None, seconds=0.2)
    for name in ("Annotations.txt", "trainSet.txt", "valSet.txt", "testSet.txt"):
        (root / name).write_text((root / name).read_text(), encoding=encoding)
    if encoding == "latin1":
        with pytest.raises(DatasetLayoutError, match=r"Annotations.txt is not UTF-8 \(byte 7: 0xe0\).*iconv -f latin1"):
            listing(root)
    else:
        assert listing(root).class_names[0] == "Glocke à Paris"


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("Bark&abc&good&0", "line 2: needs Category&VideoID"),
        ("Bark&abc&good&0&x", "line 2: needs Category&VideoID"),
        ("Bark&abc&good&5&11", "EndTime <= 10, got 5 and 11"),
        ("Bark&abc&good&5&4", "got 5 and 4"),
    ],
)
def test_malformed_line_is_named(line, match):
    with pytest.raises(DatasetLayoutError, match=match):
        parse_rows(["Bark&fine&good&0&10", line], "Annotations.txt")


def test_layout_errors_say_what_is_needed(tmp_path):
    with pytest.raises(DatasetLayoutError, match=r"Unzip AVE_Dataset\.zip"):
        listing(tmp_path)
    write_ave(tmp_path, audio_codec=None, seconds=0.2)
    (tmp_path / "testSet.txt").write_text("Bark&nobody&good&0&1")
    with pytest.raises(DatasetLayoutError, match=r"not in Annotations\.txt; the first is that of 'nobody'"):
        listing(tmp_path)
    (tmp_path / "testSet.txt").write_text((tmp_path / "trainSet.txt").read_text())
    with pytest.raises(DatasetLayoutError, match="is listed in train and in test"):
        listing(tmp_path)
    (tmp_path / "testSet.txt").unlink()
    with pytest.raises(DatasetLayoutError, match=r"testSet\.txt \(or test_order\.h5\)"):
        listing(tmp_path)


def test_label_file_of_another_dataset_is_refused(tmp_path):
    write_ave(tmp_path, audio_codec=None, seconds=0.2)
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        file["avadataset"] = np.zeros((4143, 10, 29))
    with pytest.raises(DatasetLayoutError, match=r"needs shape \[3, 10, 29\]"):
        listing(tmp_path)
    with pytest.raises(DatasetLayoutError, match=r"right_labels\.h5, which does not exist"):
        listing(tmp_path, labels="right_labels.h5")


def test_labels_that_name_no_label_file_are_refused():
    with pytest.raises(ConfigError, match=r"--labels needs auto, annotations or .*; got 'labels.csv'"):
        AVEOptions(labels="labels.csv")
