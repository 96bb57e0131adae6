"""The reader of AVSBench resizes frames and masks alike to the size of the backbone and augments nothing."""

import numpy as np
import pytest
import torch

from stgcma.backbone_spec import IMAGENET_MEAN, IMAGENET_STD
from stgcma.config import AugmentConfig, DataConfig, OptimConfig
from stgcma.data.dataset import build_loaders
from stgcma.data.masks import MaskReader, decode_mask, resize_square
from stgcma.data.reader import Reading
from stgcma.errors import ConfigError, ShardMismatchError
from stgcma.models.backbones import backbone_spec
from tests.factories import one_bit_png, tiny_metadata, write_shards

SPEC = backbone_spec("swin_demo")
OPTIM = OptimConfig(epochs=1, batch_size=2, learning_rate=1e-3, warmup_epochs=0)
READING = Reading(reader=MaskReader, annotation="masks", fbank="demo")


def write(root, **options):
    metadata = tiny_metadata("masks", dataset="avs-s4", num_segments=5, fbanks=("demo",), waveform=False)
    return write_shards(root, metadata=metadata, **{"height": 48, "width": 48, **options})


def loader_of(root, split="train", *, train=True, augment=False):
    data = DataConfig(dataset="avs-s4", shards=str(root), augment=AugmentConfig(enabled=augment))
    return build_loaders(data, OPTIM, SPEC, READING, [split], training=train)[split]


def test_batch_has_the_shapes_of_the_backbone(tmp_path):
    write(tmp_path)
    batch = next(loader_of(tmp_path).epoch(0))
    assert batch.frames.shape == (2, 5, 3, 48, 48)
    assert batch.fbank.shape == (2, 5, 48, 48)
    assert batch.targets.masks.shape == (2, 5, 48, 48)
    assert set(batch.targets.masks.unique().tolist()) == {0.0, 1.0}
    assert batch.targets.frame_index.tolist() == [0, 1, 2, 3, 4]
    assert all(name.startswith("class ") for name in batch.targets.categories)


def test_frames_are_only_normalised(tmp_path):
    write(tmp_path)
    loader = loader_of(tmp_path, "test", train=False)
    batch = next(loader.epoch(0))
    context = loader.reader.context
    stored = context.decode_frames(context.row(0, ("frames", "frame_height", "frame_width"))).float() / 255
    expected = (stored - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(batch.frames[0], expected.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5)


def test_frames_and_masks_of_another_size_are_resized_together(tmp_path):
    write(tmp_path, height=96, width=128)
    batch = next(loader_of(tmp_path).epoch(0))
    assert batch.frames.shape[-2:] == batch.targets.masks.shape[-2:] == (48, 48)


def test_resizing_keeps_a_mask_on_its_object():
    picture, mask = np.zeros((1, 96, 192, 3), np.uint8), np.zeros((96, 192), bool)
    mask[24:60, 48:120] = True
    picture[0, mask] = 255
    small = resize_square(torch.from_numpy(picture), 48)[0, ..., 0] > 127
    torch.testing.assert_close(decode_mask(one_bit_png(mask), 48) > 0, small)


def test_training_one_epoch_twice_gives_the_same_tensors(tmp_path):
    write(tmp_path)
    first, second = (list(loader_of(tmp_path).epoch(3)) for _ in range(2))
    assert [b.clip_ids for b in first] == [b.clip_ids for b in second]
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(first, second, strict=True))


def test_augmentation_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(ConfigError, match=r"data.augment.enabled: .* Set it to false"):
        loader_of(tmp_path, augment=True)


def test_clips_with_masks_of_different_frames_cannot_share_a_batch(tmp_path):
    write(tmp_path)
    reader = loader_of(tmp_path).reader
    one, other = reader.example((0, 0)), reader.example((0, 1))
    object.__setattr__(other, "frame_index", torch.tensor([0, 1, 2, 3, 3]))
    with pytest.raises(ShardMismatchError, match="masks of the same frames"):
        reader.collate([one, other])
