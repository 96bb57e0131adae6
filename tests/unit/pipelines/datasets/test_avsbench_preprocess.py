"""Preprocessing of AVSBench folders: good clips become rows for training, bad ones become failures."""

import collections
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.config import PreprocessConfig
from pipelines.preprocess import preprocess
from stgcma.config import AugmentConfig, DataConfig, OptimConfig
from stgcma.data.dataset import build_loaders
from stgcma.data.manifest import MaskCounts
from stgcma.data.masks import MaskReader
from stgcma.data.reader import Reading
from stgcma.errors import FailureBudgetExceededError, ShardMismatchError
from stgcma.models.backbones import backbone_spec
from tests.unit.pipelines.datasets.avsbench_layout import mask_pixels, save, write_ms3, write_s4, write_wav

pytestmark = pytest.mark.slow

READING = Reading(reader=MaskReader, annotation="masks", fbank="demo")
CLIPS = [(f"clip{i:07d}", 0, "dog" if i % 2 else "cat", "train") for i in range(7)] + [
    ("vvvvvvvvvvv", 0, "cat", "val"),
    ("-tttttttttt", 1, "dog", "test"),
]


def config_of(root, **options):
    defaults = {"dataset": "avs-s4", "fbank_specs": ("demo",), "num_workers": 0, "failure_budget": 1.0}
    return PreprocessConfig(source=str(root / "raw"), output=str(root / "shards"), **{**defaults, **options})


def spoil(data):
    """Damage five of the seven training clips, each in a different way."""
    name = [clip for clip, *_ in CLIPS]
    (data / f"gt_masks/train/cat/{name[0]}/{name[0]}_1.png").unlink()
    save(data / f"gt_masks/train/dog/{name[1]}/{name[1]}_1.png", mask_pixels(0, 40))
    write_wav(data / f"audio_wav/train/cat/{name[2]}.wav", seconds=2)
    (data / f"visual_frames/train/dog/{name[3]}/{name[3]}_3.png").write_bytes(b"")
    (data / f"audio_wav/train/cat/{name[4]}.wav").unlink()


def test_bad_clips_are_counted_by_reason_and_good_ones_train(tmp_path):
    spoil(write_s4(tmp_path / "raw", CLIPS))
    result = preprocess(config_of(tmp_path))
    reasons = collections.Counter(failure.reason for failure in result.failures)
    assert reasons == {
        "mask missing": 1,
        "mask size differs from its frame": 1,
        "wav length differs": 1,
        "frame unreadable": 1,
        "wav missing": 1,
    }
    table = pq.read_table(f"{result.uri}/failures.parquet").to_pylist()
    assert {row["clip_id"] for row in table} == {clip for clip, *_ in CLIPS[:5]}
    assert result.manifest.num_failures["train"] == 5
    assert [result.manifest.num_rows(split) for split in ("train", "val", "test")] == [2, 1, 1]
    assert result.manifest.class_names == ("cat", "dog")
    data = DataConfig(dataset="avs-s4", shards=str(tmp_path / "shards"), augment=AugmentConfig(enabled=False))
    optim = OptimConfig(epochs=1, batch_size=2, learning_rate=1e-3, warmup_epochs=0)
    spec = backbone_spec("swin_demo")
    (batch,) = build_loaders(data, optim, spec, READING, ["train"], training=True)["train"].epoch(0)
    assert batch.targets.masks.shape == (2, 1, 48, 48)
    assert batch.targets.frame_index.tolist() == [0]
    (batch,) = build_loaders(data, optim, spec, READING, ["test"], training=False)["test"].epoch(0)
    assert batch.targets.masks.shape == (1, 5, 48, 48)
    assert preprocess(config_of(tmp_path)).nothing_to_do


def test_too_many_bad_clips_fail_the_job(tmp_path):
    spoil(write_s4(tmp_path / "raw", CLIPS))
    with pytest.raises(FailureBudgetExceededError, match="mask missing"):
        preprocess(config_of(tmp_path, failure_budget=0.01))


def test_training_clips_of_ms3_have_five_masks(tmp_path):
    write_ms3(tmp_path / "raw", [("aaaaaaaaaaa_1", "train"), ("bbbbbbbbbbb_2", "train"), ("ccccccccccc", "test")])
    preprocess(config_of(tmp_path, dataset="avs-ms3"))
    data = DataConfig(dataset="avs-ms3", shards=str(tmp_path / "shards"), augment=AugmentConfig(enabled=False))
    optim = OptimConfig(epochs=1, batch_size=2, learning_rate=1e-3, warmup_epochs=0)
    (batch,) = build_loaders(data, optim, backbone_spec("swin_demo"), READING, ["train"], training=True)["train"].epoch(
        0
    )
    assert batch.targets.masks.shape == (2, 5, 48, 48)
    assert batch.targets.categories == ("", "")


def masks_in(data, change):
    """Write all mask files in another encoding; ``change`` turns ``[H, W]`` bool into an image."""
    for path in data.glob("gt_masks/**/*.png"):
        change(np.asarray(Image.open(path)) > 0).save(path)


def red(mask):
    return Image.fromarray(np.where(mask[..., None], np.uint8((255, 0, 0)), np.uint8(0)))


def voc(mask):
    image = Image.fromarray(mask.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    return image


ENCODINGS = {"as released": lambda mask: Image.fromarray(mask), "0 and 1": lambda mask: Image.fromarray(np.uint8(mask))}


def test_masks_in_any_encoding_give_the_same_rows_and_are_counted(tmp_path):
    stored = {}
    for name, change in {**ENCODINGS, "red": red, "palette": voc}.items():
        root = tmp_path / name
        masks_in(write_ms3(root / "raw", [("aaaaaaaaaaa", "train"), ("ccccccccccc", "test")]), change)
        result = preprocess(config_of(root, dataset="avs-ms3"))
        table = pq.read_table(f"{result.uri}/{result.manifest.splits['train'][0].path}")
        stored[name] = table["masks"].to_pylist()
        assert result.manifest.mask_counts == {
            "train": MaskCounts(masks=5, empty=0),
            "test": MaskCounts(masks=5, empty=0),
        }
        assert "masks without foreground: test 0 of 5, train 0 of 5" in result.manifest.notes
    assert all(masks == stored["as released"] for masks in stored.values())


def test_a_split_without_any_foreground_is_an_error_at_training(tmp_path):
    data = write_ms3(tmp_path / "raw", [("aaaaaaaaaaa", "train"), ("ccccccccccc", "test")])
    for path in (data / "gt_masks" / "test").rglob("*.png"):
        save(path, np.zeros((32, 32), np.uint8))
    save(data / "gt_masks/train/aaaaaaaaaaa/aaaaaaaaaaa_1.png", np.zeros((32, 32), np.uint8))
    save(data / "gt_masks/train/aaaaaaaaaaa/aaaaaaaaaaa_2.png", np.where(mask_pixels(1) > 0, 250, 0).astype(np.uint8))
    result = preprocess(config_of(tmp_path, dataset="avs-ms3"))
    assert "masks without foreground: test 5 of 5, train 1 of 5" in result.manifest.notes
    assert result.manifest.mask_counts["train"].non_binary_pixels == (mask_pixels(1) > 0).sum()
    data = DataConfig(dataset="avs-ms3", shards=str(tmp_path / "shards"), augment=AugmentConfig(enabled=False))
    optim = OptimConfig(epochs=1, batch_size=1, learning_rate=1e-3, warmup_epochs=0)
    build_loaders(data, optim, backbone_spec("swin_demo"), READING, ["train"], training=True)
    with pytest.raises(ShardMismatchError, match="None of the 5 masks of split 'test'"):
        build_loaders(data, optim, backbone_spec("swin_demo"), READING, ["test"], training=False)


def test_a_changed_mask_of_equal_size_makes_its_shard_again(tmp_path):
    write_ms3(tmp_path / "raw", [("aaaaaaaaaaa", "train"), ("bbbbbbbbbbb", "test")])
    first = preprocess(config_of(tmp_path, dataset="avs-ms3"))
    (mask, *_) = (tmp_path / "raw" / "ms3_data" / "gt_masks" / "train").rglob("*.png")
    before = mask.stat()
    mask.write_bytes(bytes(len(mask.read_bytes())))
    os.utime(mask, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    again = preprocess(config_of(tmp_path, dataset="avs-ms3"))
    assert again.made_shards == 1
    assert again.repairs[0].startswith(f"{mask.relative_to(tmp_path / 'raw')} has other content")
    assert again.manifest.digest != first.manifest.digest
