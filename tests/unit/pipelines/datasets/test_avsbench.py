"""AVSBench layouts -> clips -> rows: columns by name, masks by split, raw videos, short clips, bad input."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.config import PreprocessConfig
from pipelines.datasets import DATASETS
from pipelines.media.avs_rows import frame_of_each_second
from pipelines.media.masks import read_mask
from pipelines.media.timeline import Timeline
from pipelines.storage import Storage
from stgcma.data.images import decode_jpeg
from stgcma.errors import ClipDecodeError, DatasetLayoutError
from tests.shared_data import shared_dir
from tests.unit.pipelines.datasets.avsbench_layout import (
    SIZE,
    frame_pixels,
    mask_pixels,
    save,
    write_ms3,
    write_s4,
    write_video,
    write_wav,
)
from tests.unit.pipelines.media.helpers import info_of

CLIPS = [
    ("-aaaaaaaaaa", 0, "helicopter", "train"),
    ("bbbbbbbbbbb", 6, "horse_clip-clop", "train"),
    ("ccccccccccc", 3, "helicopter", "val"),
    ("ddddddddddd", 1, "helicopter", "test"),
]


@pytest.fixture
def s4(tmp_path):
    write_s4(tmp_path, CLIPS)
    return tmp_path


def config_of(root, dataset="avs-s4"):
    return PreprocessConfig(dataset=dataset, source=str(root), fbank_specs=("swin_avs",))


def listing(root, dataset="avs-s4"):
    return DATASETS[dataset].list_clips(Storage(str(root)), config_of(root, dataset))


def row_of(root, clip_id, dataset="avs-s4"):
    ref = next(clip for clip in listing(root, dataset).clips if clip.clip_id == clip_id)
    return DATASETS[dataset].build_rows([ref], Storage(str(root)), config_of(root, dataset))[0]


def path_of(root, kind, index, suffix):
    name, _, category, split = CLIPS[index]
    return root / "s4_data" / kind / split / category / f"{name}{suffix}"


def red(row):
    return [int(decode_jpeg(frame)[SIZE // 2, SIZE // 2, 0]) for frame in row.frames]


def test_listing_reads_columns_by_name(s4):
    text = (s4 / "s4_meta_data.csv").read_text().splitlines()
    swapped = [",".join(reversed(line.split(","))) for line in text]
    clips = listing(s4).clips
    (s4 / "s4_meta_data.csv").write_text("\n".join(swapped) + "\n")
    assert listing(s4).clips == clips
    assert [clip.clip_id for clip in clips] == [name for name, *_ in CLIPS]
    assert [clip.annotation.mask_frames for clip in clips] == [(0,), (0,), (0, 1, 2, 3, 4), (0, 1, 2, 3, 4)]
    assert [clip.annotation.expected_seconds for clip in clips] == [5, 4, 5, 5]
    assert [clip.counts_in_stats for clip in clips] == [True, True, False, False]
    assert listing(s4).class_names == ("helicopter", "horse_clip-clop")


@pytest.mark.parametrize("inside", ["Single-source", "avsbench_data/Single-source"])
def test_source_may_be_a_folder_further_up(tmp_path, inside):
    write_s4(tmp_path / inside, CLIPS[:1])
    (clip,) = listing(tmp_path).clips
    assert clip.media_uri == f"{inside}/s4_data/visual_frames/train/helicopter/-aaaaaaaaaa"
    assert red(row_of(tmp_path, "-aaaaaaaaaa")) == pytest.approx([20, 60, 100, 140, 180], abs=2)


def test_row_holds_frames_masks_and_filter_banks(s4):
    row = row_of(s4, "ddddddddddd")
    assert red(row) == pytest.approx([20, 60, 100, 140, 180], abs=2)
    assert (row.frame_height, row.frame_width) == (SIZE, SIZE)
    assert list(row.mask_frames) == [0, 1, 2, 3, 4]
    for second, mask in enumerate(row.masks):
        np.testing.assert_array_equal(read_mask(mask, "m").pixels, mask_pixels(second) > 0)
    assert row.fbanks["swin_avs"].shape == (5, 224, 224)
    assert np.isfinite(row.fbanks["swin_avs"]).all()
    assert row.category == "helicopter"
    assert row.duration_seconds == 5
    assert row.source.frame_decoder == "png"
    assert row.source.non_binary_mask_pixels == 0


def test_training_clips_have_the_first_mask_only(s4):
    row = row_of(s4, "-aaaaaaaaaa")
    assert list(row.mask_frames) == [0]
    np.testing.assert_array_equal(read_mask(row.masks[0], "m").pixels, mask_pixels(0) > 0)


def test_four_second_clip_repeats_its_last_frame_and_divides_its_four_seconds(s4):
    path_of(s4, "visual_frames", 1, "/bbbbbbbbbbb_5.png").unlink()
    row = row_of(s4, "bbbbbbbbbbb")
    assert red(row) == pytest.approx([20, 60, 100, 140, 140], abs=2)
    assert row.duration_seconds == 4
    assert row.frame_times_seconds[-1] == row.frame_times_seconds[-2]
    assert any("1 clips are shorter than 5 s" in note for note in listing(s4).notes)


def test_raw_video_stands_in_for_frames_and_sound(s4):
    for second in range(1, 6):
        path_of(s4, "visual_frames", 3, f"/ddddddddddd_{second}.png").unlink()
    path_of(s4, "audio_wav", 3, ".wav").unlink()
    write_video(path_of(s4, "raw_videos", 3, ".mp4"))
    row = row_of(s4, "ddddddddddd")
    # at 8 frames per second, 15/16 of a second is its eighth frame, in the half that has the colour
    assert red(row) == pytest.approx([20, 60, 100, 140, 180], abs=4)
    assert row.frame_times_seconds == pytest.approx([s + 7 / 8 for s in range(5)])
    assert (row.frame_height, row.frame_width) == (SIZE, SIZE)
    assert row.source.frame_decoder == "pyav"
    assert row.source.audio_codec == "aac"
    assert any("1 clips have no frame files" in note for note in listing(s4).notes)


def test_raw_video_in_another_container_is_found(s4):
    for second in range(1, 6):
        path_of(s4, "visual_frames", 3, f"/ddddddddddd_{second}.png").unlink()
    path_of(s4, "audio_wav", 3, ".wav").unlink()
    write_video(path_of(s4, "raw_videos", 3, ".MP4"))
    path_of(s4, "raw_videos", 3, ".json").write_text("beside it")
    row = row_of(s4, "ddddddddddd")
    assert row.source.uri.endswith("ddddddddddd.MP4")
    assert row.source.audio_codec == "aac"


def test_categories_that_differ_by_capitals_are_an_error(s4):
    csv = s4 / "s4_meta_data.csv"
    csv.write_text(csv.read_text().replace("ddddddddddd,1,helicopter", "ddddddddddd,1,Helicopter"))
    with pytest.raises(DatasetLayoutError, match="'Helicopter' and 'helicopter' differ"):
        listing(s4)


def test_raw_video_of_four_seconds_ends_with_its_last_frame(s4):
    for second in range(1, 6):
        path_of(s4, "visual_frames", 1, f"/bbbbbbbbbbb_{second}.png").unlink()
    write_video(path_of(s4, "raw_videos", 1, ".mp4"), seconds=4)
    assert red(row_of(s4, "bbbbbbbbbbb")) == pytest.approx([20, 60, 100, 140, 140], abs=4)


def test_raw_video_of_another_length_is_another_clip(s4):
    for second in range(1, 6):
        path_of(s4, "visual_frames", 3, f"/ddddddddddd_{second}.png").unlink()
    write_video(path_of(s4, "raw_videos", 3, ".mp4"), seconds=6)
    with pytest.raises(ClipDecodeError, match=r"mp4 length differs .*6.00 s, the clip has 5 s"):
        row_of(s4, "ddddddddddd")


def test_frames_of_a_video_are_counted_or_timed_where_its_rate_varies():
    steady = Timeline(pts=np.arange(150, dtype=np.int64), time_base=1 / 29.97, end_seconds=5.005, is_complete=True)
    count = frame_of_each_second(info_of(frame_rate=29.97), steady, 5)
    assert count.tolist() == [28, 58, 88, 118, 148]  # as the official frames were chosen
    half = np.concatenate([np.arange(0, 50), np.arange(50, 150, 20)])  # 30 a second, then 1.5 a second
    varying = Timeline(pts=half.astype(np.int64), time_base=1 / 30, end_seconds=5.0, is_complete=True)
    timed = frame_of_each_second(info_of(frame_rate=11.0), varying, 5)
    assert varying.starts[timed] == pytest.approx([28 / 30, 50 / 30, 70 / 30, 110 / 30, 130 / 30])


@pytest.mark.parametrize("mode", ["RGBA", "P", "1"])
def test_masks_of_other_modes_are_read(s4, mode):
    path = path_of(s4, "gt_masks", 0, "/-aaaaaaaaaa_1.png")
    save(path, mask_pixels(0), mode)
    assert Image.open(path).mode == mode
    row = row_of(s4, "-aaaaaaaaaa")
    np.testing.assert_array_equal(read_mask(row.masks[0], "m").pixels, mask_pixels(0) > 0)


def test_grey_pixels_of_masks_are_counted(s4):
    pixels = mask_pixels(0)
    pixels[0, :7] = 100
    save(path_of(s4, "gt_masks", 0, "/-aaaaaaaaaa_1.png"), pixels)
    row = row_of(s4, "-aaaaaaaaaa")
    assert row.source.non_binary_mask_pixels == 7
    np.testing.assert_array_equal(read_mask(row.masks[0], "m").pixels, pixels > 127)


def test_stereo_wav_at_another_rate_is_read(s4):
    mono = row_of(s4, "-aaaaaaaaaa")
    write_wav(path_of(s4, "audio_wav", 0, ".wav"), channels=2, sample_rate=44_100)
    stereo = row_of(s4, "-aaaaaaaaaa")
    assert stereo.source.num_channels == 2
    peaks = [torch.tensor(row.fbanks["swin_avs"]).mean((0, 1)).argmax().item() for row in (mono, stereo)]
    assert peaks[0] == peaks[1]


def remove_mask(root):
    path_of(root, "gt_masks", 3, "/ddddddddddd_4.png").unlink()


def remove_frame(root):
    path_of(root, "visual_frames", 3, "/ddddddddddd_5.png").unlink()


def damage_frame(root):
    path_of(root, "visual_frames", 3, "/ddddddddddd_2.png").write_bytes(b"\x89PNG\r\n")


def damage_mask(root):
    path_of(root, "gt_masks", 3, "/ddddddddddd_2.png").write_bytes(b"")


def larger_masks(root):
    for second in range(5):
        save(path_of(root, "gt_masks", 3, f"/ddddddddddd_{second + 1}.png"), mask_pixels(second, 40))


def one_larger_mask(root):
    save(path_of(root, "gt_masks", 3, "/ddddddddddd_3.png"), mask_pixels(2, 40))


def one_larger_frame(root):
    save(path_of(root, "visual_frames", 3, "/ddddddddddd_3.png"), frame_pixels(2, 40))


def short_wav(root):
    write_wav(path_of(root, "audio_wav", 3, ".wav"), seconds=3)


def long_wav(root):
    write_wav(path_of(root, "audio_wav", 3, ".wav"), seconds=10)


def damaged_wav(root):
    path_of(root, "audio_wav", 3, ".wav").write_bytes(b"RIFFnothing")


def no_wav(root):
    path_of(root, "audio_wav", 3, ".wav").unlink()


def misspelt_category(root):
    csv = root / "s4_meta_data.csv"
    csv.write_text(csv.read_text().replace("ddddddddddd,1,helicopter", "ddddddddddd,1,helicopte"))


def damaged_video(root):
    for second in range(1, 6):
        path_of(root, "visual_frames", 3, f"/ddddddddddd_{second}.png").unlink()
    path = path_of(root, "raw_videos", 3, ".mp4")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no video at all")


BAD_INPUT = {
    remove_mask: ("masks", "mask missing", "ddddddddddd_4.png"),
    damage_mask: ("masks", "mask unreadable", "ddddddddddd_2.png"),
    larger_masks: ("masks", "mask size differs from its frame", "40x40, its frame is 32x32"),
    one_larger_mask: ("masks", "masks of different sizes", "ddddddddddd_3.png: 40x40"),
    misspelt_category: ("masks", "unknown category", "known categories: helicopter"),
    remove_frame: ("frames", "frame missing", "ddddddddddd_5.png"),
    damage_frame: ("frames", "frame unreadable", "ddddddddddd_2.png"),
    one_larger_frame: ("frames", "frames of different sizes", "ddddddddddd_3.png: 40x40"),
    damaged_video: ("probe", "not a readable media file", "ddddddddddd.mp4"),
    short_wav: ("audio", "wav length differs", "3.00 s, the clip has 5 s"),
    long_wav: ("audio", "wav length differs", "10.00 s, the clip has 5 s"),
    damaged_wav: ("audio", "wav unreadable", "ddddddddddd.wav"),
    no_wav: ("audio", "wav missing", "ddddddddddd.wav"),
}


@pytest.mark.parametrize("spoil", BAD_INPUT, ids=lambda f: f.__name__)
def test_bad_input_is_one_failed_clip_with_stage_and_reason(s4, spoil):
    spoil(s4)
    stage, reason, detail = BAD_INPUT[spoil]
    with pytest.raises(ClipDecodeError) as caught:
        row_of(s4, "ddddddddddd")
    assert (caught.value.stage, caught.value.reason) == (stage, reason)
    assert detail in caught.value.detail
    assert row_of(s4, "ccccccccccc").clip_id == "ccccccccccc"


def test_clip_without_any_file_is_listed_without_size(s4):
    for kind in ("visual_frames", "gt_masks"):
        shutil.rmtree(path_of(s4, kind, 3, ""))
    path_of(s4, "audio_wav", 3, ".wav").unlink()
    assert [clip.media_bytes is None for clip in listing(s4).clips] == [False, False, False, True]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name,start,category,split", "name,begin,category,split", "the columns name, start, category, split; start"),
        ("-aaaaaaaaaa,0,helicopter,train", "-aaaaaaaaaa,0,helicopter", "line 2: needs 4 values"),
        ("-aaaaaaaaaa,0,helicopter,train", "-aaaaaaaaaa,0,helicopter,dev", "one of train, val, test, got 'dev'"),
        ("-aaaaaaaaaa,0,", "-aaaaaaaaaa,x,", "start needs a whole second in 0..9, got 'x'"),
        ("-aaaaaaaaaa,0,helicopter", "-aaaaaaaaaa,0,", "category needs the name of a folder, got ''"),
        ("ccccccccccc", "ddddddddddd", "line 5: clip 'ddddddddddd' is listed twice, in val and test"),
    ],
)
def test_malformed_tables_are_refused_with_their_line(s4, old, new, message):
    path = s4 / "s4_meta_data.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DatasetLayoutError, match=message):
        listing(s4)


def test_a_folder_without_the_table_is_refused(tmp_path):
    with pytest.raises(
        DatasetLayoutError, match=r"Point --source at the folder that holds ms3_meta_data.csv and ms3_data/"
    ):
        listing(tmp_path, "avs-ms3")


def test_ms3_names_frames_after_their_video_and_has_five_masks_everywhere(tmp_path):
    write_ms3(tmp_path, [("xv7eM6-UmkY_36", "train"), ("A7N2Japi3-A_4", "test")])
    found = listing(tmp_path, "avs-ms3")
    assert found.class_names == ()
    assert [clip.split for clip in found.clips] == ["train", "test"]
    row = row_of(tmp_path, "xv7eM6-UmkY_36", "avs-ms3")
    assert list(row.mask_frames) == [0, 1, 2, 3, 4]
    assert row.category == ""
    assert red(row) == pytest.approx([20, 60, 100, 140, 180], abs=2)


def test_shards_of_the_dataset_store_masks_and_no_waveform(s4):
    metadata = DATASETS["avs-s4"].metadata(replace(config_of(s4)), "f")
    assert (metadata.annotation, metadata.num_segments, metadata.stores_waveform) == ("masks", 5, False)
    assert DATASETS["avs-s4"].default_fbanks == DATASETS["avs-ms3"].default_fbanks == ("swin_avs",)


def test_the_official_tables_have_the_published_counts():
    root = shared_dir() / "annotations" / "avs_s4"
    s4 = listing(root).clips
    ms3 = listing(root, "avs-ms3").clips
    assert [sum(clip.split == split for clip in s4) for split in ("train", "val", "test")] == [3452, 740, 740]
    assert [sum(clip.split == split for clip in ms3) for split in ("train", "val", "test")] == [296, 64, 64]
    assert len({clip.clip_id for clip in s4}) == 4932
    assert len({clip.clip_id for clip in ms3}) == 424
    assert sum(len(clip.annotation.mask_frames) for clip in s4) == 10_852
    assert sum(len(clip.annotation.mask_frames) for clip in ms3) == 424 * 5
    assert len(listing(root).class_names) == 23
    assert sum(clip.annotation.expected_seconds == 4 for clip in s4) == 14
    assert sum(clip.clip_id.startswith("-") for clip in s4) == 247
    assert all(clip.media_bytes is None for clip in s4 + ms3)
