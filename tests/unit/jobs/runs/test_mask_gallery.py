"""Pictures of masks: the clips that are kept and the layout of the figure."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.runs.gallery import new_gallery
from jobs.runs.mask_gallery import (
    GAP,
    PREDICTION_COLOR,
    TILE,
    MaskGallery,
    contact_sheet,
    overlay,
)
from stgcma.data.batch import AVBatch, MaskTargets
from stgcma.errors import ConfigError
from stgcma.models.backbones import backbone_spec
from stgcma.tasks import TASKS

pytestmark = pytest.mark.slow

SPEC = backbone_spec("swin_demo")
TRUTH = torch.zeros(8, 8)
TRUTH[:4, :4] = 1


def batch_of(ids, frames=5):
    masks = TRUTH.expand(len(ids), frames, 8, 8)
    targets = MaskTargets(masks=masks, frame_index=torch.arange(frames), categories=("circle",) * len(ids))
    return AVBatch(clip_ids=tuple(ids), frames=torch.zeros(len(ids), 5, 3, 8, 8), fbank=None, targets=targets)


def logits_with(covered_rows):
    """Logits of one clip per entry, which predict that many top rows of the true square."""
    logits = torch.full((len(covered_rows), 5, 8, 8), -4.0)
    for clip, rows in enumerate(covered_rows):
        logits[clip, :, :rows, :4] = 4.0
    return {"logits": logits}


def filled(size=2):
    gallery = MaskGallery(SPEC, size=size)
    gallery.add(batch_of("ab"), logits_with([4, 1]))
    gallery.add(batch_of("cde"), logits_with([3, 0, 2]))
    return gallery


def test_best_and_worst_clips_are_kept_in_order():
    gallery = filled()
    assert [e.clip_id for e in gallery.best] == ["a", "c"]
    assert [e.clip_id for e in gallery.worst] == ["d", "b"]
    assert [e.miou for e in gallery.best] == pytest.approx([1.0, 0.75], abs=1e-6)
    assert gallery.clip_ids == {"a", "b", "c", "d"}


def test_baseline_is_the_other_runs_masks_of_the_same_clips():
    gallery = filled()
    other = MaskGallery(SPEC, only=gallery.clip_ids)
    other.add(batch_of("abcde"), logits_with([1, 1, 1, 1, 1]))
    (first, _) = other.with_baseline(gallery.best)
    assert first.baseline_ious == pytest.approx((0.25,) * 5, abs=1e-6)
    assert first.prediction.sum() == 4 * first.baseline.sum()
    assert other.best == []


def test_baseline_on_another_split_is_refused():
    gallery = filled()
    other = MaskGallery(SPEC, only=gallery.clip_ids)
    other.add(batch_of("xyz"), logits_with([1, 1, 1]))
    with pytest.raises(ConfigError, match="needs a run on the same dataset and split, got one without the clip 'a'"):
        other.with_baseline(gallery.best)


def test_sheet_has_a_row_of_five_pictures_for_each_layer():
    (example, _) = filled().best
    sheet = contact_sheet(example)
    side = TILE + GAP
    assert sheet.shape == (3 * side - GAP, 5 * side - GAP, 3)
    prediction = sheet[2 * side : 2 * side + TILE, 4 * side : 4 * side + TILE].astype(int)
    grey = sheet[4, 4].astype(int).mean()
    expected = 0.35 * grey + 0.65 * np.array(PREDICTION_COLOR)
    np.testing.assert_allclose(prediction[TILE // 4, TILE // 4], expected, atol=1)
    np.testing.assert_allclose(prediction[-1, -1], 0.4 * grey, atol=1)


def test_frames_are_shown_as_they_were_before_normalisation():
    (example, _) = filled().best
    np.testing.assert_array_equal(example.frames[0, 0, 0], [124, 116, 104])


def test_overlay_leaves_the_frame_alone():
    frame = np.full((4, 4, 3), 100, dtype=np.uint8)
    overlay(frame, np.ones((4, 4), dtype=bool), PREDICTION_COLOR)
    assert (frame == 100).all()


def test_pictures_are_png_files_that_grow_with_the_baseline():
    gallery = filled()
    other = MaskGallery(SPEC, only=gallery.clip_ids)
    other.add(batch_of("abcde"), logits_with([1, 1, 1, 1, 1]))
    plain = gallery.pictures(title="run")
    compared = gallery.pictures(title="run", baseline=other, baseline_name="frozen")
    assert set(plain) == set(compared) == {"masks_best.png", "masks_worst.png"}
    heights = [Image.open(io.BytesIO(p["masks_best.png"])).height for p in (plain, compared)]
    assert heights[1] > heights[0]


def test_only_segmentation_has_a_gallery():
    assert new_gallery(TASKS["ave"], SPEC) is None
    assert isinstance(new_gallery(TASKS["avs"], SPEC), MaskGallery)
