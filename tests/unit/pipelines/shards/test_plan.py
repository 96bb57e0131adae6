"""The shard plan depends only on the clips; media that several splits share are decoded once."""

import hashlib
import json
import random
from dataclasses import asdict, replace

import pytest

from pipelines.clips import ClipRef, first_of_each_split
from pipelines.config import CODE_VERSION, PreprocessConfig, fingerprint
from pipelines.datasets.ave import EventAnnotation
from pipelines.shards import plan
from pipelines.shards.plan import default_clips_per_shard, plan_shards
from stgcma.data.fbank import FBANK_SPECS
from stgcma.data.schema import SCHEMA_VERSION
from stgcma.errors import ConfigError

pytestmark = pytest.mark.slow


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
    specs = plan_shards(CLIPS + SHARED, clips_per_shard=2, fingerprint="f")
    shuffled = random.Random(0).sample(CLIPS + SHARED, len(CLIPS + SHARED))
    assert plan_shards(shuffled, clips_per_shard=2, fingerprint="f") == specs


def test_every_clip_is_in_one_shard_and_parts_are_numbered_per_split():
    specs = plan_shards(CLIPS + SHARED, clips_per_shard=2, fingerprint="f")
    assert sorted(clip.clip_id for spec in specs for clip in spec.clips) == sorted(c.clip_id for c in CLIPS + SHARED)
    paths = sorted(path for spec in specs for path in spec.parts.values())
    assert len(paths) == len(set(paths))
    assert [path for path in paths if path.startswith("train/")] == [
        f"train/part-{k:05d}-of-00004.parquet" for k in range(4)
    ]
    for spec in specs:
        assert len(spec.groups) <= 2
        assert set(spec.parts) == {clip.split for clip in spec.clips}


def test_one_media_file_is_one_group_even_across_splits():
    specs = plan_shards(CLIPS + SHARED, clips_per_shard=3, fingerprint="f")
    groups = [[clip.clip_id for clip in group] for spec in specs for group in spec.groups]
    assert ["s:0", "s:1"] in groups
    assert ["u:0", "u:1"] in groups
    shared = next(spec for spec in specs if spec.name.startswith("shared"))
    assert set(shared.parts) == {"train", "test"}


def test_changed_file_size_changes_its_shard_only():
    before = plan_shards(CLIPS, clips_per_shard=2, fingerprint="f")
    after = plan_shards([replace(CLIPS[0], media_bytes=None), *CLIPS[1:]], clips_per_shard=2, fingerprint="f")
    changed = [old.name for old, new in zip(before, after, strict=True) if old.digest != new.digest]
    assert changed == ["train-00000"]


def test_shards_grow_only_where_there_would_be_many():
    """Sets of up to 131,072 media files keep shards of 32; clips of one file count once."""

    def size(num_media, clips_per_media=1):
        return default_clips_per_shard(
            [ref("c", "train", str(k % num_media)) for k in range(num_media * clips_per_media)]
        )

    assert [size(n) for n in (1, 131_072, 131_073, 262_145)] == [32, 32, 64, 128]
    assert size(70_000, clips_per_media=2) == 32


def test_shards_have_an_upper_size(monkeypatch):
    monkeypatch.setattr(plan, "MANY_SHARDS", 1)
    assert default_clips_per_shard([ref("c", "train", str(k)) for k in range(5000)]) == 1024


def test_fingerprint_is_of_one_json_text_however_it_is_computed():
    """Folders that were made keep their names."""
    clips = [replace(clip, annotation=EventAnnotation(category="ä", labels=(1, 2)), budget={"b": 1}) for clip in CLIPS]
    config = PreprocessConfig(dataset="ave", source="a", fbank_specs=("clip",), clips_per_shard=32)
    for listed in (clips, clips[:1], []):
        listing = [
            [c.clip_id, c.split, c.media_uri, c.counts_in_stats, c.budget, asdict(c.annotation)]
            for c in sorted(listed, key=lambda clip: clip.clip_id)
        ]
        fbanks = [asdict(FBANK_SPECS["clip"])]
        text = json.dumps([SCHEMA_VERSION, CODE_VERSION, config.content(), fbanks, listing], sort_keys=True)
        assert fingerprint(config, listed) == hashlib.sha256(text.encode()).hexdigest()[:12]


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
