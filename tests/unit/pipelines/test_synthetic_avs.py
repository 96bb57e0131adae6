"""The synthetic AVSBench: official layout, masks of what is heard, and a task that needs both senses."""

import numpy as np
import pytest

from pipelines.config import PreprocessConfig
from pipelines.datasets import DATASETS
from pipelines.datasets.synthetic_avs import (
    CATEGORIES,
    SyntheticAVSConfig,
    blind_scores,
    make_mask_clip,
    make_name,
    write_synthetic_avs,
)
from pipelines.masks import read_mask
from pipelines.storage import Storage
from pipelines.synthetic.avs_clips import NUM_SECONDS
from stgcma.data.fbank import SAMPLE_RATE
from stgcma.errors import ConfigError

CONFIG = SyntheticAVSConfig(num_train=6, num_val=2, num_test=3)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_synthetic_avs(CONFIG, tmp_path_factory.mktemp("avs") / "set").root


@pytest.fixture(scope="module")
def many_clips():
    config = SyntheticAVSConfig(num_train=120)
    return [make_mask_clip(config, "train", index) for index in range(120)]


def test_it_is_read_as_avsbench(written):
    source, config = Storage(str(written)), PreprocessConfig(dataset="avs-s4", source="", fbank_specs=("demo",))
    listing = DATASETS["avs-s4"].list_clips(source, config)
    assert [c.split for c in listing.clips].count("train") == 6
    assert set(listing.class_names) == set(CATEGORIES)
    assert any(c.clip_id.startswith("-") for c in listing.clips)
    rows = [DATASETS["avs-s4"].build_rows([clip], source, config)[0] for clip in listing.clips]
    assert [len(row.masks) for row in rows] == [1] * 6 + [5] * 5
    assert {row.duration_seconds for row in rows} == {5.0}
    test_clip = make_mask_clip(CONFIG, "test", 1)
    (row,) = (row for row in rows if row.clip_id == make_name(CONFIG, "test", 1))
    stored = np.stack([read_mask(mask, "m").pixels for mask in row.masks])
    np.testing.assert_array_equal(stored, test_clip.masks)
    assert row.category == CATEGORIES[1]


def test_same_seed_same_clip():
    first, again = (make_mask_clip(CONFIG, "val", 1) for _ in range(2))
    other = make_mask_clip(SyntheticAVSConfig(seed=1), "val", 1)
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.waveform, again.waveform)
    assert not np.array_equal(first.frames, other.frames)


def test_objects_never_touch_and_never_leave_the_picture(many_clips):
    for clip in many_clips:
        assert clip.objects.sum(0).max() == 1
        assert clip.objects.any((2, 3)).all()
        edge = np.concatenate([clip.objects[..., [0, -1], :].ravel(), clip.objects[..., [0, -1]].ravel()])
        assert not edge.any()


def test_shapes_of_a_clip_differ_and_number_two_or_three(many_clips):
    assert {len(clip.plan.shapes) for clip in many_clips} == {2, 3}
    assert all(len(set(clip.plan.shapes)) == len(clip.plan.shapes) for clip in many_clips)


def test_mask_is_empty_exactly_where_nothing_is_heard(many_clips):
    for clip in many_clips:
        loudness = clip.waveform.reshape(NUM_SECONDS, SAMPLE_RATE).astype(float).std(axis=1)
        heard = loudness > 3 * 0.002 * 32767
        np.testing.assert_array_equal(heard, clip.masks.any((1, 2)))
    assert 0.05 < np.mean([not heard for clip in many_clips for heard in clip.plan.is_heard]) < 0.2


def test_without_listening_no_strategy_gets_far():
    scores = blind_scores(SyntheticAVSConfig(num_test=60), "test")
    assert set(scores) == {"every object", "a random object", "nothing"}
    assert max(scores.values()) < 0.6


def test_blind_scores_follow_the_metric(monkeypatch):
    from pipelines.datasets import synthetic_avs

    clip = make_mask_clip(CONFIG, "test", 0)
    monkeypatch.setattr(synthetic_avs, "make_mask_clip", lambda *_: clip)
    scores = synthetic_avs.blind_scores(SyntheticAVSConfig(num_test=1), "test")
    silent = np.mean([not heard for heard in clip.plan.is_heard])
    assert scores["nothing"] == pytest.approx(silent)


def test_a_complete_set_is_left_alone_and_another_is_refused(written):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*.png")}
    write_synthetic_avs(CONFIG, written)
    assert before == {path: path.stat().st_mtime_ns for path in written.rglob("*.png")}
    with pytest.raises(ConfigError, match="belongs to another dataset"):
        write_synthetic_avs(SyntheticAVSConfig(num_train=6, num_val=2, num_test=3, seed=9), written)


def test_sizes_are_checked():
    with pytest.raises(ConfigError, match=r"num_train needs at least 6, got 2\.\nnum_val needs at least 1, got 0"):
        SyntheticAVSConfig(num_train=2, num_val=0)
