"""The loader gives the same batches with any number of workers and processes and after a resume."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from stgcma.config import AugmentConfig, DataConfig, OptimConfig
from stgcma.data import store as store_module
from stgcma.data.augment import augment_frames, draw_mixup, draw_visual, mixed_fbanks
from stgcma.data.batch import AVBatch
from stgcma.data.dataset import ClipLoader, build_loaders
from stgcma.data.events import EventReader
from stgcma.data.fbank import FBANK_SPECS, normalize_fbank
from stgcma.data.images import normalize_frames, resize_and_crop
from stgcma.data.masks import MaskReader
from stgcma.data.reader import AUDIO_STREAM, VISUAL_STREAM, Reading
from stgcma.errors import ConfigError, ShardMismatchError
from stgcma.models.backbones import backbone_spec
from tests.factories import tiny_metadata, tiny_row, write_shards

DEMO = backbone_spec("clip_vit_demo")
IMAGE_MEAN_STD = DEMO.image_mean, DEMO.image_std
METADATA = tiny_metadata(num_segments=3)
READING = Reading(reader=EventReader, annotation="events", fbank="demo")
OPTIM = OptimConfig(epochs=4, batch_size=2, learning_rate=1e-3, seed=7, eval_batch_size=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, metadata=METADATA, splits={"train": 8, "val": 3, "test": 5})
    return str(folder)


def loader(root: str, split: str = "train", *, train: bool = True, optim=OPTIM, data=None, **options) -> ClipLoader:
    data = DataConfig(dataset="ave", shards=root, **(data or {}))
    reading = replace(READING, **options.pop("reading", {}))
    return build_loaders(data, optim, DEMO, reading, [split], training=train, **options)[split]


def same(left: list[AVBatch], right: list[AVBatch]) -> bool:
    return len(left) == len(right) and all(
        a.clip_ids == b.clip_ids
        and torch.equal(a.frames, b.frames)
        and torch.equal(a.fbank, b.fbank)
        and torch.equal(a.targets.labels, b.targets.labels)
        for a, b in zip(left, right, strict=True)
    )


def joined(batches: tuple[AVBatch, ...]) -> AVBatch:
    """Join the shares of the workers into the global batch of a step."""
    return AVBatch(
        clip_ids=tuple(itertools.chain.from_iterable(b.clip_ids for b in batches)),
        frames=torch.cat([b.frames for b in batches]),
        fbank=torch.cat([b.fbank for b in batches]),
        targets=replace(batches[0].targets, labels=torch.cat([b.targets.labels for b in batches])),
    )


def test_shapes_counts_and_targets(root):
    training = loader(root)
    batches = list(training.epoch(0))
    assert (len(training), training.num_clips, len(batches)) == (4, 8, 4)
    assert batches[0].frames.shape == (2, 3, 3, 48, 48)
    assert batches[0].fbank.shape == (2, 3, 48, 48)
    assert batches[0].frames.dtype == batches[0].fbank.dtype == torch.float32
    for batch in batches:
        for clip_id, labels in zip(batch.clip_ids, batch.targets.labels, strict=True):
            assert labels.tolist() == tiny_row(int(clip_id.split(":")[1]), METADATA).event_labels.tolist()


def test_two_workers_together_get_the_batches_of_one(root):
    alone = list(loader(root).epoch(1))
    together = zip(*(loader(root, rank=rank, world_size=2).epoch(1) for rank in range(2)), strict=True)
    assert same([joined(shares) for shares in together], alone)


def test_decoding_processes_and_resumes_change_nothing(root):
    here = list(loader(root).epoch(2))
    processes = loader(root, data={"loader_workers": 2})
    assert same(list(processes.epoch(2)), here)
    assert same(list(processes.epoch(2, start_step=3)), here[3:])
    abandoned = processes.epoch(2)
    next(abandoned)
    abandoned.close()
    assert same(list(processes.epoch(2)), here)
    assert same(list(loader(root).epoch(2, start_step=1)), here[1:])


def test_epochs_and_seeds_differ(root):
    first, second = (list(loader(root).epoch(epoch)) for epoch in (0, 1))
    by_clip = [
        {clip_id: frames for b in epoch for clip_id, frames in zip(b.clip_ids, b.frames, strict=True)}
        for epoch in (first, second)
    ]
    assert not any(torch.equal(by_clip[0][clip_id], by_clip[1][clip_id]) for clip_id in by_clip[0])
    assert not same(first, list(loader(root, optim=replace(OPTIM, seed=8)).epoch(0)))


def test_the_augmentation_of_a_clip_does_not_depend_on_shards_or_batch_size(root, tmp_path):
    write_shards(tmp_path, metadata=METADATA, splits={"train": 8}, rows_per_shard=8)
    clips = []
    for where, optim in ((root, OPTIM), (str(tmp_path), replace(OPTIM, batch_size=4))):
        data = {"normalization": "published"}
        batches = list(loader(where, optim=optim, data=data).epoch(0))
        clips.append({c: (f, a) for b in batches for c, f, a in zip(b.clip_ids, b.frames, b.fbank, strict=True)})
    assert clips[0].keys() == clips[1].keys()
    assert all(torch.equal(x, y) for c in clips[0] for x, y in zip(clips[0][c], clips[1][c], strict=True))


def test_evaluation_gives_every_clip_once_without_augmentation(root):
    evaluation = loader(root, "test", train=False)
    batches = list(evaluation.epoch(0))
    assert [b.clip_ids for b in batches] == [
        ("clip0011:11", "clip0012:12"),
        ("clip0013:13", "clip0014:14"),
        ("clip0015:15",),
    ]
    assert same(list(evaluation.epoch(5)), batches), "no randomness"
    row = tiny_row(13, METADATA, split="test")
    expected = normalize_frames(resize_and_crop(evaluation.reader.context.decode_frames(row), 48), *IMAGE_MEAN_STD)
    assert torch.equal(batches[1].frames[0], expected)
    stats = evaluation.manifest.stats["demo"]
    fbank = normalize_fbank(torch.from_numpy(row.fbanks["demo"]), row.fbank_frames["demo"], stats.mean, stats.std)
    assert torch.equal(batches[1].fbank[0], fbank)
    shares = [list(loader(root, "test", train=False, rank=r, world_size=2).epoch(0)) for r in range(2)]
    seen = [clip_id for share in shares for batch in share for clip_id in batch.clip_ids]
    assert seen == [clip_id for batch in batches for clip_id in batch.clip_ids]


def test_a_training_example_equals_its_draws_applied_by_hand(root):
    training = loader(root)
    context, config = training.reader.context, AugmentConfig()
    mixed_clips = 0
    for number, epoch in itertools.product(range(8), range(3)):
        example = training.reader.example((epoch, number))
        row = tiny_row(number, METADATA)
        draw = draw_mixup(config, 3, 8, context.rng((epoch, number), AUDIO_STREAM))
        if draw is None:
            expected = torch.from_numpy(row.fbanks["demo"]), row.fbank_frames["demo"]
        else:
            mixed_clips += 1
            partner = tiny_row(draw.partner, METADATA)
            waveforms = (torch.from_numpy(r.waveform) for r in (row, partner))
            expected = mixed_fbanks(*waveforms, draw.weights, FBANK_SPECS["demo"])
        assert torch.equal(example.fbank, normalize_fbank(*expected, *context.fbank_mean_std))
        visual = draw_visual(config, 48, 64, 48, context.rng((epoch, number), VISUAL_STREAM))
        assert torch.equal(example.frames, augment_frames(context.decode_frames(row), visual, 48, *IMAGE_MEAN_STD))
    assert 0 < mixed_clips < 24


def test_a_single_branch_does_not_read_the_other_modality(root, monkeypatch):
    columns: set[str] = set()
    original = store_module.ShardStore._value
    monkeypatch.setattr(
        store_module.ShardStore, "_value", lambda self, p, g, c, o: columns.add(c) or original(self, p, g, c, o)
    )
    audio = next(loader(root, branches=("audio",)).epoch(0))
    assert audio.frames is None
    assert "frames" not in columns
    columns.clear()
    visual = next(loader(root, branches=("visual",)).epoch(0))
    assert visual.fbank is None
    assert not {c for c in columns if c.startswith("fbank") or c == "waveform"}
    both = next(loader(root).epoch(0))
    assert torch.equal(both.frames, visual.frames), "the draws of one modality do not depend on the other"
    assert torch.equal(both.fbank, audio.fbank)


def test_normalisation_measured_or_published(root):
    measured, published = (
        next(loader(root, "val", train=False, data={"normalization": name}).epoch(0)).fbank
        for name in ("measured", "published")
    )
    spec, stats = FBANK_SPECS["demo"], loader(root).manifest.stats["demo"]
    expected = (measured * 2 * stats.std + stats.mean - spec.published_mean) / (2 * spec.published_std)
    valid = tiny_row(0, METADATA).fbank_frames["demo"]
    torch.testing.assert_close(published[:, :, :valid], expected[:, :, :valid], rtol=0, atol=1e-5)


def test_limits_and_switched_off_augmentation(root):
    limited = loader(root, data={"limit_train_clips": 4})
    assert (len(limited), limited.num_clips) == (2, 4)
    assert {c for b in limited.epoch(0) for c in b.clip_ids} == {f"clip{k:04d}:{k}" for k in range(4)}
    assert loader(root, "test", train=False, data={"limit_train_clips": 4}).num_clips == 5
    plain = loader(root, data={"augment": AugmentConfig(enabled=False)})
    unit = plain.reader.example((0, 3))
    again = plain.reader.example((9, 3))
    assert torch.equal(unit.frames, again.frames)
    assert torch.equal(unit.fbank, again.fbank)


def test_errors_for_shards_that_do_not_fit_say_why(root, tmp_path):
    with pytest.raises(ShardMismatchError, match=r"of spec 'demo'.*reads \[3, 224, 224\] of spec 'swin'"):
        loader(root, reading={"fbank": "swin"})
    loader(root, reading={"fbank": "swin"}, branches=("visual",))
    with pytest.raises(ShardMismatchError, match=r"The task reads masks, but the shards of 'ave' store events"):
        loader(root, reading={"reader": MaskReader, "annotation": "masks"})
    write_shards(tmp_path / "silent", metadata=replace(METADATA, stores_waveform=False), splits={"train": 2})
    with pytest.raises(ShardMismatchError, match="no waveforms, which audio mix-up needs"):
        loader(str(tmp_path / "silent"))
    write_shards(tmp_path / "val", metadata=METADATA, splits={"val": 2})
    with pytest.raises(ShardMismatchError, match=r"no measured mean and std of fbank 'demo'.*normalization: published"):
        next(loader(str(tmp_path / "val"), "val", train=False).epoch(0))
    with pytest.raises(ConfigError, match="got 2 clips for 3 workers"):
        loader(root, world_size=3)
