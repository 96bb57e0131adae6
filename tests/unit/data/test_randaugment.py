"""RandAugment has the arguments and pixels of timm, but one draw per clip and only the pixels of the crop."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import LEVEL_TO_ARG, NAME_TO_OP, rand_augment_choices

from stgcma.config import AugmentConfig
from stgcma.data.randaugment import ARGUMENTS, FILL, GEOMETRIC, ImageOp, apply_ops, draw_ops
from tests.factories import tiny_frame

CONFIG = AugmentConfig()
HEIGHT, WIDTH = 41, 57
FRAMES = torch.stack([torch.from_numpy(tiny_frame(seed, HEIGHT, WIDTH)) for seed in range(3)])


def by_timm(op: ImageOp, image: Image.Image) -> Image.Image:
    arguments = () if op.argument is None else (op.argument,)
    return NAME_TO_OP[op.name](image, *arguments, fillcolor=(FILL,) * 3, resample=Image.Resampling.BICUBIC)


def whole_frames_then_crop(ops, crop) -> torch.Tensor:
    """The result of timm, frame by frame at full size."""
    top, left, height, width = crop
    results = []
    for frame in FRAMES:
        image = Image.fromarray(frame.numpy())
        for op in ops:
            image = by_timm(op, image)
        results.append(torch.from_numpy(np.array(image))[top : top + height, left : left + width])
    return torch.stack(results)


def test_operations_are_the_increasing_ones_of_timm_in_order():
    assert list(ARGUMENTS) == rand_augment_choices("original", increasing=True)


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("magnitude", [0.0, 0.31, 5.0, 7.0, 9.99, 10.0])
def test_arguments_equal_those_of_timm(name, magnitude):
    level_function = LEVEL_TO_ARG[name]
    if level_function is None:
        assert ARGUMENTS[name] is None
        return
    theirs = set()
    for seed in range(20):
        random.seed(seed)
        theirs.add(level_function(magnitude, {})[0])
    assert {ARGUMENTS[name](magnitude / 10, sign) for sign in (-1, 1)} == theirs


def random_case(seed: int) -> tuple[tuple[ImageOp, ...], tuple[int, int, int, int]]:
    """A chain of operations and a crop, which may be at an edge or a single pixel."""
    rng = np.random.default_rng(seed)
    ops = draw_ops(replace(CONFIG, randaugment_probability=0.8), rng)
    height, width = int(rng.integers(1, HEIGHT + 1)), int(rng.integers(1, WIDTH + 1))
    return ops, (int(rng.integers(HEIGHT - height + 1)), int(rng.integers(WIDTH - width + 1)), height, width)


def test_the_region_equals_cropping_whole_frames():
    """Equal without geometric operations. With them, a few values may differ by one grey level."""
    differing = compared = moved = 0
    for ops, crop in map(random_case, range(150)):
        got, expected = apply_ops(FRAMES, ops, crop), whole_frames_then_crop(ops, crop)
        if not GEOMETRIC & {op.name for op in ops}:
            assert torch.equal(got, expected), (ops, crop)
            continue
        moved, compared, differing = moved + 1, compared + got.numel(), differing + (got != expected).sum()
    assert moved > 50
    assert differing / compared < 1e-4


@pytest.mark.parametrize("name", sorted(GEOMETRIC))
@pytest.mark.parametrize("level", [-1.0, -0.63, 0.0, 0.47, 1.0])
def test_a_region_of_a_geometric_operation_equals_the_crop_of_the_whole_frame(name, level):
    """Regions at borders, in the middle and of one pixel. Only after a rotation may values differ by one grey level."""
    op = ImageOp(name, ARGUMENTS[name](abs(level), 1 if level >= 0 else -1))
    for crop in ((0, 0, HEIGHT, WIDTH), (0, 0, 5, 9), (HEIGHT - 3, WIDTH - 4, 3, 4), (12, 20, 11, 13), (20, 0, 1, 1)):
        got, expected = apply_ops(FRAMES, [op], crop).int(), whole_frames_then_crop([op], crop).int()
        assert (got - expected).abs().max() <= 1, crop
        assert name == "Rotate" or torch.equal(got, expected), crop


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_each_operation_changes_pixels_as_timm_does(name, sign):
    op = ImageOp(name, None if ARGUMENTS[name] is None else ARGUMENTS[name](0.7, sign))
    whole = (0, 0, HEIGHT, WIDTH)
    got = apply_ops(FRAMES, [op], whole)
    assert torch.equal(got, whole_frames_then_crop([op], whole))
    assert not torch.equal(got, FRAMES)


def test_sharpening_twice_reads_pixels_around_the_crop():
    ops = [ImageOp("SharpnessIncreasing", 1.6)] * 2
    crop = (10, 10, 12, 12)
    inside_only = apply_ops(FRAMES[:, 10:22, 10:22], ops, (0, 0, 12, 12))
    assert torch.equal(apply_ops(FRAMES, ops, crop), whole_frames_then_crop(ops, crop))
    assert not torch.equal(inside_only, apply_ops(FRAMES, ops, crop))


def test_no_operation_is_a_plain_crop():
    assert torch.equal(apply_ops(FRAMES, (), (3, 4, 20, 30)), FRAMES[:, 3:23, 4:34])


def test_draws_follow_the_configuration():
    rng = np.random.default_rng(0)
    chains = [draw_ops(CONFIG, rng) for _ in range(4000)]
    counts = np.bincount([len(chain) for chain in chains], minlength=5) / len(chains)
    np.testing.assert_allclose(counts, [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16], atol=0.03)
    names = [op.name for chain in chains for op in chain]
    shares = np.array([names.count(name) for name in ARGUMENTS]) / len(names)
    np.testing.assert_allclose(shares, 1 / 15, atol=0.012)
    degrees = np.array([op.argument for chain in chains for op in chain if op.name == "Rotate"])
    assert abs((degrees > 0).mean() - 0.5) < 0.08
    np.testing.assert_allclose([np.abs(degrees).mean(), np.abs(degrees).std()], [21.0, 1.5], atol=0.3)
    assert np.abs(degrees).max() <= 30
