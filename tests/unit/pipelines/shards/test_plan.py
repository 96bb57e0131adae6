"""The shard plan depends only on the clips; media that several splits share are decoded once."""

import random
from dataclasses import replace

import pytest

from pipelines.clips import ClipRef, first_of_each_split
from pipelines.config import PreprocessConfig, fingerprint
from pipelines.shards.plan import plan_shards
from stgcma.errors import ConfigError


def ref(clip_id, split, media=None, size=10):
    return ClipRef(
        dataset="ave",
        clip_id=clip_id,
        split=split,
        video_id=clip_id,
        media_uri=media or f"{clip_id}.mp4",
        media_bytes=size,
        counts_in_stats=split == "train",
    )


CLIPS = [ref(f"t{k}", "train") for k in range(5)] + [ref(f"v{k}", "val") for k in range(2)]
SHARED = [
    ref("s:0", "train", "s.mp4"),
    ref("s:1", "test", "s.mp4"),
    ref("u:0", "val", "u.mp4"),
    ref("u:1", "val", "u.mp4"),
]


def test_plan_is_independent_of_the_order_of_listing():
    plan = plan_shards(CLIPS + SHARED, clips_per_shard=2, fingerprint="f")
    shuffled = random.Random(0).sample(CLIPS + SHARED, len(CLIPS + SHARED))
    assert plan_shards(shuffled, clips_per_shard=2, fingerprint="f") == plan


def test_every_clip_is_in_one_shard_and_parts_are_numbered_per_split():
    plan = plan_shards(CLIPS + SHARED, clips_per_shard=2, fingerprint="f")
    assert sorted(clip.clip_id for spec in plan for clip in spec.clips) == sorted(c.clip_id for c in CLIPS + SHARED)
    paths = sorted(path for spec in plan for path in spec.parts.values())
    assert len(paths) == len(set(paths))
    assert [path for path in paths if path.startswith("train/")] == [
        f"train/part-{k:05d}-of-00004.parquet" for k in range(4)
    ]
    for spec in plan:
        assert len(spec.groups) <= 2
        assert set(spec.parts) == {clip.split for clip in spec.clips}


def test_one_media_file_is_one_group_even_across_splits():
    plan = plan_shards(CLIPS + SHARED, clips_per_shard=3, fingerprint="f")
    groups = [[clip.clip_id for clip in group] for spec in plan for group in spec.groups]
    assert ["s:0", "s:1"] in groups
    assert ["u:0", "u:1"] in groups
    shared = next(spec for spec in plan if spec.name.startswith("shared"))
    assert set(shared.parts) == {"train", "test"}


def test_changed_file_size_changes_its_shard_only():
    before = plan_shards(CLIPS, clips_per_shard=2, fingerprint="f")
    after = plan_shards([replace(CLIPS[0], media_bytes=None), *CLIPS[1:]], clips_per_shard=2, fingerprint="f")
    changed = [old.name for old, new in zip(before, after, strict=True) if old.digest != new.digest]
    assert changed == ["train-00000"]


def test_fingerprint_names_content_not_place_or_speed():
    config = PreprocessConfig(dataset="ave", source="a", fbank_specs=("clip",))
    name = fingerprint(config, CLIPS)
    same = [
        replace(config, source="s3://elsewhere", output="x", num_workers=7, failure_budget=0.5, ray_address="auto"),
    ]
    assert {fingerprint(other, CLIPS) for other in same} == {name}
    assert fingerprint(config, [replace(clip, media_bytes=None) for clip in reversed(CLIPS)]) == name
    different = [
        replace(config, short_side=224),
        replace(config, fbank_specs=("clip", "swin")),
        replace(config, channel_mode="left"),
        replace(config, frame_encoding="raw"),
        replace(config, clips_per_shard=16),
    ]
    assert len({name, *(fingerprint(other, CLIPS) for other in different)}) == 6
    assert fingerprint(config, CLIPS[1:]) != name
    assert fingerprint(config, [replace(CLIPS[0], split="val"), *CLIPS[1:]]) != name


def test_limit_takes_the_first_of_each_split_in_id_order():
    kept = first_of_each_split(list(reversed(CLIPS)), 2)
    assert [clip.clip_id for clip in kept] == ["t0", "t1", "v0", "v1"]
    assert len(first_of_each_split(CLIPS, None)) == len(CLIPS)


def test_config_lists_all_problems_at_once():
    with pytest.raises(ConfigError) as error:
        PreprocessConfig(
            dataset="ave", source="", fbank_specs=("clap",), failure_budget=2, short_side=0, channel_mode="right"
        )
    for part in ("names from clip, swin", "fraction in [0, 1], got 2", "short_side needs at least 1", "mean, left"):
        assert part in str(error.value)
