"""The synthetic AVSBench: official layout, masks of the objects that sound, and a task that needs both modalities."""

import numpy as np
import pytest

from pipelines.config import PreprocessConfig
from pipelines.datasets import DATASETS
from pipelines.media.masks import read_mask
from pipelines.storage import Storage
from pipelines.synthetic.avs_clips import NUM_SECONDS, SEVERAL_SOURCES, SINGLE_SOURCE
from pipelines.synthetic.avs_layout import (
    CATEGORIES,
    blind_scores,
    make_mask_clip,
    make_name,
    write_synthetic_avs,
)
from pipelines.synthetic.configs import SyntheticAVSConfig
from pipelines.synthetic.render import HIGH_HZ, LOW_HZ
from stgcma.data.fbank import SAMPLE_RATE
from stgcma.errors import ConfigError

pytestmark = pytest.mark.slow

CONFIG = SyntheticAVSConfig(layout="s4", num_train=6, num_val=2, num_test=3)
SEVERAL = SyntheticAVSConfig(layout="ms3", num_train=6, num_val=2, num_test=3)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_synthetic_avs(CONFIG, tmp_path_factory.mktemp("avs") / "set").root


@pytest.fixture(scope="module")
def many_clips():
    config = SyntheticAVSConfig(layout="ms3", num_train=120)
    return [make_mask_clip(config, "train", index) for index in range(120)]


def read_rows(dataset, root):
    source, config = Storage(str(root)), PreprocessConfig(dataset=dataset, source="", fbank_specs=("demo",))
    listing = DATASETS[dataset].list_clips(source, config)
    return listing, [DATASETS[dataset].build_rows([clip], source, config)[0] for clip in listing.clips]


def test_it_is_read_as_avsbench_s4(written):
    listing, rows = read_rows("avs-s4", written)
    assert [c.split for c in listing.clips].count("train") == 6
    assert set(listing.class_names) == set(CATEGORIES)
    assert any(c.clip_id.startswith("-") for c in listing.clips)
    assert [len(row.masks) for row in rows] == [1] * 6 + [5] * 5
    assert {row.duration_seconds for row in rows} == {5.0}
    (row,) = (row for row in rows if row.clip_id == make_name(CONFIG, "test", 1))
    stored = np.stack([read_mask(mask, "m").pixels for mask in row.masks])
    np.testing.assert_array_equal(stored, make_mask_clip(CONFIG, "test", 1).masks)
    assert row.category == CATEGORIES[1]


def test_it_is_read_as_avsbench_ms3(tmp_path):
    _, rows = read_rows("avs-ms3", write_synthetic_avs(SEVERAL, tmp_path).root)
    assert [len(row.masks) for row in rows] == [5] * 11
    (row,) = (row for row in rows if row.clip_id == make_name(SEVERAL, "train", 4))
    stored = np.stack([read_mask(mask, "m").pixels for mask in row.masks])
    np.testing.assert_array_equal(stored, make_mask_clip(SEVERAL, "train", 4).masks)
    assert not row.category


def test_same_seed_same_clip():
    first, again = (make_mask_clip(CONFIG, "val", 1) for _ in range(2))
    other = make_mask_clip(SyntheticAVSConfig(layout="s4", seed=1), "val", 1)
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.waveform, again.waveform)
    assert not np.array_equal(first.frames, other.frames)


def test_objects_never_touch(many_clips):
    for clip in many_clips:
        assert clip.objects.sum(0).max() == 1
        assert clip.objects.any((2, 3)).all()


def test_a_second_shows_a_small_and_a_big_object_of_the_same_two_shapes(many_clips):
    for clip in many_clips:
        assert len({tuple(item.shape for item in second.objects) for second in clip.plan.seconds}) == 1
        first, other = clip.plan.seconds[0].objects
        assert first.shape != other.shape
        for time, second in enumerate(clip.plan.seconds):
            small, big = sorted((item.is_big, clip.objects[i, time]) for i, item in enumerate(second.objects))
            assert (small[0], big[0]) == (False, True)
            assert np.ptp(np.nonzero(big[1])[0]) > np.ptp(np.nonzero(small[1])[0])


def test_sizes_and_sources_change_within_a_clip_and_say_nothing_about_each_other(many_clips):
    seconds = [second for clip in many_clips for second in clip.plan.seconds]
    sizes = [second.objects[0].is_big for second in seconds]
    assert 0.4 < np.mean(sizes) < 0.6
    for heard, chance in SEVERAL_SOURCES.items():
        assert np.mean([second.is_heard == heard for second in seconds]) == pytest.approx(chance, abs=0.06)
    heard = [second.is_heard[0] for second in seconds]
    assert abs(np.corrcoef(sizes, heard)[0, 1]) < 0.12
    assert np.mean([len({s.is_heard for s in clip.plan.seconds}) > 1 for clip in many_clips]) > 0.9


def test_pitches_are_those_of_the_objects_that_sound(many_clips):
    pure = [clip for clip in many_clips if clip.plan.timbre == 0]
    assert pure
    for clip in pure:
        spectra = np.abs(np.fft.rfft(clip.waveform.reshape(NUM_SECONDS, SAMPLE_RATE).astype(float)))
        for spectrum, second in zip(spectra, clip.plan.seconds, strict=True):
            for (low, high), is_big in ((LOW_HZ, True), (HIGH_HZ, False)):
                sounds = any(
                    h and item.is_big == is_big for h, item in zip(second.is_heard, second.objects, strict=True)
                )
                assert (spectrum[int(low) : int(high) + 1].max() > 100 * np.median(spectrum)) == sounds


def test_masks_show_the_objects_that_sound(many_clips):
    for clip in many_clips:
        loudness = clip.waveform.reshape(NUM_SECONDS, SAMPLE_RATE).astype(float).std(axis=1)
        np.testing.assert_array_equal(loudness > 3 * 0.002 * 32767, clip.masks.any((1, 2)))
        for time, second in enumerate(clip.plan.seconds):
            for pixels, is_heard in zip(clip.objects[:, time], second.is_heard, strict=True):
                assert clip.masks[time][pixels].all() == clip.masks[time][pixels].any() == is_heard


def test_a_single_source_is_the_category(written):
    clips = [make_mask_clip(CONFIG, "train", index) for index in range(6)]
    assert {second.is_heard for clip in clips for second in clip.plan.seconds} <= set(SINGLE_SOURCE)
    assert [clip.plan.category for clip in clips] == list(range(6))


def test_no_guess_without_sound_gets_far():
    scores = blind_scores(SyntheticAVSConfig(layout="ms3", num_test=60), "test")
    assert set(scores) == {"every object", "a random object", "nothing"}
    assert max(scores.values()) < 0.75


def test_blind_scores_follow_the_metric(monkeypatch):
    from pipelines.synthetic import avs_layout

    clip = make_mask_clip(CONFIG, "test", 0)
    monkeypatch.setattr(avs_layout, "make_mask_clip", lambda *_: clip)
    scores = avs_layout.blind_scores(SyntheticAVSConfig(layout="s4", num_test=1), "test")
    silent = np.mean([not any(second.is_heard) for second in clip.plan.seconds])
    assert scores["nothing"] == pytest.approx(silent)


def test_a_complete_set_is_left_alone_and_another_is_refused(written):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*.png")}
    write_synthetic_avs(CONFIG, written)
    assert before == {path: path.stat().st_mtime_ns for path in written.rglob("*.png")}
    with pytest.raises(ConfigError, match="belongs to another dataset"):
        write_synthetic_avs(SyntheticAVSConfig(layout="s4", num_train=6, num_val=2, num_test=3, seed=9), written)


def test_sizes_and_layout_are_checked():
    with pytest.raises(ConfigError, match=r"num_train needs at least 6, got 2\.\n.*num_val needs at least 1, got 0"):
        SyntheticAVSConfig(layout="s4", num_train=2, num_val=0)
    with pytest.raises(ConfigError, match="layout needs one of s4, ms3, got 's5'"):
        SyntheticAVSConfig(layout="s5")
