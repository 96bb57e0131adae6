"""Evaluation transforms against the pixels of the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stgcma.backbone_spec import IMAGENET_MEAN, IMAGENET_STD
from stgcma.data.images import resize_and_crop, resize_bicubic
from stgcma.parity.frontend import check_image_transforms

FILE = Path(__file__).parent / "image_transforms.safetensors"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(FILE)


def test_every_reference_image_is_reproduced(golden):
    checks = {check.name.split(".", 1)[1]: check for check in check_image_transforms(FILE, "cpu")}
    assert set(checks) == {name for name in golden if not name.endswith("frames_uint8")}
    assert {name: check.error for name, check in checks.items() if not check.passed} == {}


@pytest.mark.parametrize("orientation", ["land", "port"])
def test_ave_pixels_are_equal(golden, orientation):
    """The 11-bit fixed-point resize equals that of OpenCV, although the golden check allows one grey level."""
    pixels = resize_and_crop(golden[f"ave_eval.{orientation}.frames_uint8"], 28)
    normalised = golden[f"ave_eval.{orientation}.out"].permute(1, 2, 3, 0)
    expected = ((normalised * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)) * 255).round()
    assert torch.equal(pixels.float(), expected)


@pytest.mark.parametrize("orientation", ["land", "port"])
@pytest.mark.parametrize("antialias", [True, False])
def test_avqa_resize_is_exact(golden, orientation, antialias):
    frame = golden[f"ave_eval.{orientation}.frames_uint8"][:1]
    got = resize_bicubic(frame, 28, IMAGENET_MEAN, IMAGENET_STD, antialias=antialias)[0]
    assert torch.equal(got, golden[f"avqa_eval.{orientation}.out_antialias_{antialias}"])


def test_a_shifted_crop_is_noticed(golden, tmp_path):
    changed = {**golden, "ave_eval.land.frames_uint8": golden["ave_eval.land.frames_uint8"].roll(1, dims=2)}
    save_file({n: t.contiguous() for n, t in changed.items()}, tmp_path / "changed.safetensors")
    failed = {c.name for c in check_image_transforms(tmp_path / "changed.safetensors", "cpu") if not c.passed}
    assert "steps.ave_eval.land.out" in failed
    assert "exact.avqa_eval.land.out_antialias_False" in failed
    assert "steps.ave_eval.port.out" not in failed
