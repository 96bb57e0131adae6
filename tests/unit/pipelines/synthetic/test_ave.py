"""The synthetic AVE: official layout, determinism, decoded media that match the plan, ceilings."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.synthetic.ave_clips import make_clip, make_plan
from pipelines.synthetic.ave_layout import HEADER, write_synthetic_ave
from pipelines.synthetic.ceilings import cell_chances, compute_ceilings, heard, seen
from pipelines.synthetic.configs import SyntheticConfig
from pipelines.synthetic.render import (
    BIG_RADIUS,
    FRAME_RATE,
    HIGH_HZ,
    LOW_HZ,
    SMALL_RADIUS,
    shape_distance,
)
from pipelines.synthetic.scenes import BACKGROUND, RULES, SHAPES, TASKS, ClipPlan, label_of, plan_clip
from stgcma.errors import ConfigError

pytestmark = pytest.mark.slow

TINY = SyntheticConfig(task="t4", num_train=8, num_val=2, num_test=3, seed=3, num_workers=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_ave(TINY, tmp_path_factory.mktemp("synthetic")).root


def sample_plans(task: str, num_clips: int) -> list[ClipPlan]:
    rng = np.random.default_rng(0)
    return [plan_clip(task, index % len(SHAPES), rng) for index in range(num_clips)]


def decode(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames ``[n, 64, 64, 3]`` and samples in [-1, 1] of an mp4."""
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert container.streams.audio[0].rate == 16_000
        assert container.streams.audio[0].codec_context.name == "aac"
        assert container.streams.video[0].codec_context.name == "h264"
    return frames, samples


def test_layout_is_the_official_one(root: Path) -> None:
    lines = (root / "Annotations.txt").read_text().splitlines()
    assert lines[0] == HEADER
    splits = [(root / name).read_text().splitlines() for name in ("trainSet.txt", "valSet.txt", "testSet.txt")]
    assert [len(split) for split in splits] == [8, 2, 3]
    assert lines[1:] == [line for split in splits for line in split]
    ids = [line.split("&")[1] for line in lines[1:]]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{11}", video_id) for video_id in ids)
    assert len(set(ids)) == 13
    assert sum(video_id.startswith("-") for video_id in ids) >= 3
    assert {path.name for path in (root / "AVE").iterdir()} == {f"{video_id}.mp4" for video_id in ids}
    first_seen = list(dict.fromkeys(line.split("&")[0] for line in lines[1:]))
    assert tuple(first_seen) == SHAPES


@pytest.mark.parametrize("task", TASKS)
def test_annotations_agree_with_the_scenes(task: str) -> None:
    config = SyntheticConfig(task=task, seed=5)
    for index in range(200):
        plan = make_plan(config, "train", index)
        assert tuple(label_of(task, scene) for scene in plan.scenes) == plan.labels
        assert plan.category == index % len(SHAPES)


@pytest.mark.parametrize("task", TASKS)
def test_every_second_is_equally_likely_to_be_an_event(task: str) -> None:
    labels = np.array([plan.labels for plan in sample_plans(task, 3000)])
    share = (labels != BACKGROUND).mean(axis=0)
    assert share.max() - share.min() < 0.06


@pytest.mark.parametrize("index", [0, 3, 5])
def test_decoded_media_match_the_plan(root: Path, index: int) -> None:
    clip = make_clip(TINY, "train", index)
    frames, samples = decode(root / "AVE" / f"{clip.video_id}.mp4")
    assert frames.shape == (50, 64, 64, 3)
    assert len(samples) >= 160_000
    limit = (SMALL_RADIUS[1] + BIG_RADIUS[0]) / 2
    for second, scene in enumerate(clip.plan.scenes):
        picture = frames[second * FRAME_RATE + 2].astype(float)
        foreground = picture.max(axis=2) - picture.min(axis=2) > 90
        if not scene.objects:
            assert not foreground.any()
        else:
            sizes = [(r, s) for r, s in _blobs(foreground)]
            assert sorted(radius > limit * 0.8 for radius, _ in sizes) == sorted(o.is_big for o in scene.objects)
        sound = samples[second * 16_000 + 2000 : second * 16_000 + 15_000]
        if scene.sound is None:
            assert np.sqrt(np.mean(sound**2)) < 0.01
        else:
            low, high = _band_energy(sound, *LOW_HZ), _band_energy(sound, *HIGH_HZ)
            assert (high > low) == scene.sound.is_high or scene.sound.timbre in (1, 2)
            if not scene.sound.is_high:
                assert low > 0.05 * np.sum(sound**2)


def _blobs(mask: np.ndarray) -> list[tuple[float, int]]:
    """(half of the larger side, pixels) of the connected regions of at least 20 pixels."""
    left, found = mask.copy(), []
    while left.any():
        stack, cells = [tuple(np.argwhere(left)[0])], []
        left[stack[0]] = False
        while stack:
            y, x = stack.pop()
            cells.append((y, x))
            for v in range(max(y - 2, 0), min(y + 3, 64)):
                for u in range(max(x - 2, 0), min(x + 3, 64)):
                    if left[v, u]:
                        left[v, u] = False
                        stack.append((v, u))
        if len(cells) >= 20:
            points = np.array(cells)
            found.append((float((points.max(axis=0) - points.min(axis=0) + 1).max()) / 2, len(cells)))
    return found


def _band_energy(sound: np.ndarray, low_hz: float, high_hz: float) -> float:
    power = np.abs(np.fft.rfft(sound)) ** 2 / len(sound) * 2
    frequency = np.fft.rfftfreq(len(sound), 1 / 16_000)
    return float(power[(frequency > low_hz * 0.95) & (frequency < high_hz * 1.05)].sum())


def test_a_clip_depends_on_seed_task_split_and_index_alone() -> None:
    def digest(config: SyntheticConfig, split: str, index: int) -> str:
        clip = make_clip(config, split, index)
        return hashlib.sha256(clip.frames.tobytes() + clip.waveform.tobytes()).hexdigest()

    again = SyntheticConfig(task="t4", num_train=100, num_val=9, num_test=9, seed=3, num_workers=2)
    assert digest(TINY, "val", 1) == digest(again, "val", 1)
    others = {digest(TINY, "val", 0), digest(TINY, "test", 1), digest(SyntheticConfig(task="t4", seed=4), "val", 1)}
    assert len(others | {digest(TINY, "val", 1)}) == 4


def test_shapes_are_six_different_pictures() -> None:
    grid = np.arange(-20, 21, dtype=float)
    masks = [shape_distance(shape, grid[None, :], grid[:, None], 16.0) < 0 for shape in range(len(SHAPES))]
    for first in range(len(SHAPES)):
        assert 0.15 < masks[first].mean() < 0.75
        for second in range(first):
            union = masks[first] | masks[second]
            assert (masks[first] & masks[second]).sum() / union.sum() < 0.86


@pytest.mark.parametrize(
    ("task", "visual", "audio", "additive"),
    [("t1", 0.65, 0.665, 1.0), ("t3", 0.60, 0.60, 0.78), ("t4", 0.454, 0.305, 0.6385)],
)
def test_ceilings(task: str, visual: float, audio: float, additive: float) -> None:
    """Only t1 is decided by a sum of the modalities; t3 and t4 need their product."""
    found = compute_ceilings(task)
    assert found.visual == pytest.approx(visual, abs=0.002)
    assert found.audio == pytest.approx(audio, abs=0.002)
    assert found.additive == pytest.approx(additive, abs=0.002)
    assert found.both == pytest.approx(1.0)


@pytest.mark.parametrize("task", TASKS)
def test_enumerated_chances_are_those_of_generated_clips(task: str) -> None:
    chances, counts = cell_chances(task), Counter()
    for plan in sample_plans(task, 3000):
        counts.update((seen(s), heard(s), label) for s, label in zip(plan.scenes, plan.labels, strict=True))
    assert sum(chances.values()) == pytest.approx(1.0)
    assert set(counts) <= set(chances)
    assert max(abs(counts[cell] / 30_000 - chance) for cell, chance in chances.items()) < 0.01


@pytest.mark.parametrize(("task", "weights"), [("t3", (0.347, 0.347, 0.153, 0.153)), ("t4", (0.25,) * 4)])
def test_no_additive_rule_passes_its_limit(task: str, weights: tuple[float, ...]) -> None:
    """Tries all additive rules with one bit of each modality: none gets more than three of the four cells right."""
    wanted = ((0, 0, True), (1, 1, True), (0, 1, False), (1, 0, False))
    best = max(
        sum(w for w, (a, b, yes) in zip(weights, wanted, strict=True) if (values[a] + values[2 + b] > 0.5) == yes)
        for values in itertools.product(range(-3, 4), repeat=4)
    )
    candidate = RULES[task].kinds["candidate"]
    found = compute_ceilings(task)
    assert found.additive_limit == pytest.approx(1 - candidate * (1 - best), abs=1e-9)
    assert found.additive < found.additive_limit < 0.9


def test_another_dataset_is_never_mixed_in(root: Path) -> None:
    write_synthetic_ave(TINY, root)
    with pytest.raises(ConfigError, match="another --output folder"):
        write_synthetic_ave(SyntheticConfig(task="t4", num_train=8, num_val=2, num_test=3, seed=4, num_workers=1), root)


def test_impossible_sizes_are_reported_together() -> None:
    with pytest.raises(ConfigError, match=r"num_train needs at least 6, got 2\.\n.*num_val needs at least 1, got 0"):
        SyntheticConfig(num_train=2, num_val=0)
