"""Augmentation: one draw per clip, the published order of operations and the published distributions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from stgcma.backbone_spec import IMAGENET_MEAN, IMAGENET_STD
from stgcma.config import AugmentConfig
from stgcma.data.augment import Box, VisualDraw, augment_frames, draw_mixup, draw_visual
from stgcma.data.randaugment import ImageOp
from tests.factories import tiny_frame

CONFIG = AugmentConfig()
HEIGHT, WIDTH, SIZE = 41, 57, 24
FRAMES = torch.stack([torch.from_numpy(tiny_frame(seed, HEIGHT, WIDTH)) for seed in range(3)])
PLAIN = VisualDraw(ops=(), crop=Box(5, 7, 30, 40), flip=False, erase=None, noise_seed=0)


def draws(count: int, config: AugmentConfig = CONFIG, height: int = HEIGHT, width: int = WIDTH) -> list[VisualDraw]:
    rng = np.random.default_rng(0)
    return [draw_visual(config, height, width, SIZE, rng) for _ in range(count)]


def test_the_published_order_gives_the_same_numbers():
    """Normalise the whole frame as floats, then crop, resize without antialias, flip, erase."""
    draw = replace(PLAIN, flip=True, erase=Box(2, 3, 10, 5), noise_seed=4)
    planes = FRAMES.permute(0, 3, 1, 2).float() / 255
    planes = tv.normalize(planes, IMAGENET_MEAN, IMAGENET_STD)
    planes = tv.resized_crop(planes, 5, 7, 30, 40, [SIZE, SIZE], antialias=False)
    planes = tv.horizontal_flip(planes)
    got = augment_frames(FRAMES, draw, SIZE, IMAGENET_MEAN, IMAGENET_STD)
    outside = torch.ones(SIZE, SIZE, dtype=torch.bool)
    outside[2:12, 3:8] = False
    torch.testing.assert_close(got[..., outside], planes[..., outside], rtol=0, atol=2e-6)
    noise = got[..., ~outside]
    assert abs(noise.mean()) < 0.2
    assert abs(noise.std() - 1) < 0.2
    assert not torch.equal(noise[0], noise[1]), "the frames share the box, but not the noise"


def test_all_frames_of_a_clip_get_the_same_operations():
    same = FRAMES[:1].expand(3, -1, -1, -1)
    for draw in draws(20, replace(CONFIG, erase_probability=0.0)):
        first, *others = augment_frames(same, draw, SIZE, IMAGENET_MEAN, IMAGENET_STD)
        assert all(torch.equal(first, other) for other in others)


def test_applying_a_draw_uses_no_global_generator():
    draw = replace(PLAIN, ops=(ImageOp("Rotate", 20.0),), erase=Box(1, 1, 8, 8), noise_seed=11)
    torch.manual_seed(0)
    first = augment_frames(FRAMES, draw, SIZE, IMAGENET_MEAN, IMAGENET_STD)
    torch.manual_seed(1)
    assert torch.equal(first, augment_frames(FRAMES, draw, SIZE, IMAGENET_MEAN, IMAGENET_STD))
    other_noise = augment_frames(FRAMES, replace(draw, noise_seed=12), SIZE, IMAGENET_MEAN, IMAGENET_STD)
    assert not torch.equal(first, other_noise)
    assert draws(5) == draws(5)


def test_crops_lie_inside_and_follow_area_and_ratio():
    crops = [draw.crop for draw in draws(3000, height=300, width=400)]
    assert all(c.top >= 0 and c.left >= 0 and c.top + c.height <= 300 and c.left + c.width <= 400 for c in crops)
    areas = np.array([c.height * c.width for c in crops]) / (300 * 400)
    ratios = np.array([c.width / c.height for c in crops])
    assert areas.min() == pytest.approx(0.08, abs=0.01)
    assert areas.max() > 0.9
    assert 0.74 < ratios.min() < 0.78
    assert 1.28 < ratios.max() < 1.345
    assert abs(np.log(ratios).mean()) < 0.05, "log-uniform about 1"


@pytest.mark.parametrize(("height", "width", "crop"), [(10, 400, Box(0, 193, 10, 13)), (400, 10, Box(193, 0, 13, 10))])
def test_without_a_fitting_crop_the_largest_central_one_is_taken(height, width, crop):
    config = replace(CONFIG, crop_scale=(0.9, 1.0))
    assert {draw.crop for draw in draws(20, config, height, width)} == {crop}


def test_erasures_fit_and_have_the_configured_frequency():
    boxes = [draw.erase for draw in draws(3000)]
    found = [box for box in boxes if box is not None]
    assert len(found) / len(boxes) == pytest.approx(0.25, abs=0.03)
    assert all(b.top + b.height <= SIZE and b.left + b.width <= SIZE for b in found)
    areas = np.array([b.height * b.width for b in found]) / SIZE**2
    assert 0.01 < areas.min() < 0.03
    assert 0.30 < areas.max() < 0.37
    assert np.mean([draw.flip for draw in draws(3000)]) == pytest.approx(0.5, abs=0.03)


def test_mixup_draws_a_partner_and_a_fresh_weight_per_segment():
    rng = np.random.default_rng(0)
    found = [draw_mixup(CONFIG, 10, 7, rng) for _ in range(3000)]
    mixed = [draw for draw in found if draw is not None]
    assert len(mixed) / len(found) == pytest.approx(0.5, abs=0.03)
    assert {draw.partner for draw in mixed} == set(range(7)), "any training clip, itself included"
    assert all(len(set(draw.weights)) == 10 for draw in mixed)
    weights = np.array([draw.weights for draw in mixed])
    assert weights.mean() == pytest.approx(0.5, abs=0.01)
    assert weights.std() == pytest.approx(np.sqrt(1 / (4 * 21)), abs=0.01), "Beta(10, 10)"
    assert draw_mixup(replace(CONFIG, mixup_probability=0.0), 10, 7, rng) is None
