"""mIoU and F-score on masks small enough to count by hand, and their sums."""

import math

import pytest
import torch

from stgcma.data.batch import AVBatch, MaskTargets
from stgcma.tasks.segmentation_metrics import (
    NUM_THRESHOLDS,
    SegmentationMetrics,
    clip_fscores,
    frame_fscores,
    frame_ious,
)

ON, OFF = 4.0, -4.0


def mask(*rows):
    return torch.tensor([[float(c == "#") for c in row] for row in rows])


def as_logits(masks):
    return torch.where(masks > 0, ON, OFF)


TRUTH = mask("##..", "##..", "....", "....")
SHIFTED = mask(".##.", ".##.", "....", "....")
EMPTY = torch.zeros(4, 4)


def batch_of(masks, categories=()):
    targets = MaskTargets(masks=masks, frame_index=torch.arange(masks.shape[1]), categories=categories)
    return AVBatch(clip_ids=tuple(map(str, range(len(masks)))), frames=None, fbank=None, targets=targets)


def updated(logits, masks, categories=(), detailed=False):
    metrics = SegmentationMetrics(detailed=detailed)
    metrics.update({"logits": logits}, batch_of(masks, categories))
    return metrics


def test_iou_counted_by_hand():
    # two of four pixels overlap, six in the union
    iou = frame_ious(as_logits(SHIFTED)[None], TRUTH[None])
    assert iou.item() == pytest.approx(2 / 6, abs=1e-6)


def test_a_frame_without_foreground_is_scored_on_the_background():
    iou = frame_ious(torch.stack([as_logits(SHIFTED), as_logits(EMPTY)]), torch.stack([EMPTY, EMPTY]))
    assert iou.tolist() == pytest.approx([12 / 16, 1.0], abs=1e-6)


def test_a_logit_of_zero_is_background():
    assert frame_ious(torch.zeros(1, 4, 4), TRUTH[None]).item() == 0
    assert frame_ious(torch.full((1, 4, 4), 1e-3), TRUTH[None]).item() == pytest.approx(4 / 16, abs=1e-6)


def test_fscore_equals_255_comparisons():
    torch.manual_seed(0)
    logits, masks = torch.randn(3, 9, 7), (torch.rand(3, 9, 7) > 0.6).float()
    logits[0, 0, :3] = torch.tensor([-200.0, 200.0, 0.0])
    scores = frame_fscores(logits, masks)
    probabilities = torch.sigmoid(logits)
    for level, threshold in enumerate(torch.linspace(0, 1 - 1e-10, NUM_THRESHOLDS)):
        predicted = (probabilities >= threshold).float()
        hit = (predicted * masks).sum((1, 2)).double()
        precision = hit / (predicted.sum((1, 2)).double() + 1e-20)
        recall = hit / (masks.sum((1, 2)).double() + 1e-20)
        expected = (1.3 * precision * recall / (0.3 * precision + recall)).nan_to_num(0.0)
        torch.testing.assert_close(scores[:, level], expected)


def test_fscore_picks_one_threshold_per_clip_over_frames_with_foreground():
    logits = torch.stack([as_logits(TRUTH), as_logits(SHIFTED), as_logits(SHIFTED)])[None]
    masks = torch.stack([TRUTH, TRUTH, EMPTY])[None]
    score, counted = clip_fscores(logits, masks)
    # perfect frame 1; shifted frame: precision = recall = 1/2; the empty frame does not count
    assert counted.item()
    assert score.item() == pytest.approx((1 + 0.5) / 2)


def test_a_clip_without_any_foreground_does_not_count_for_the_fscore():
    logits = torch.stack([as_logits(TRUTH)[None], as_logits(SHIFTED)[None]])
    metrics = updated(logits, torch.stack([TRUTH[None], EMPTY[None]]))
    values = metrics.compute()
    assert values["fscore"] == pytest.approx(1.0)
    assert values["miou"] == pytest.approx((1 + 12 / 16) / 2, abs=1e-6)


def test_unequal_batches_and_workers_give_the_value_of_one_batch():
    torch.manual_seed(0)
    logits, masks = torch.randn(5, 3, 6, 6), (torch.rand(5, 3, 6, 6) > 0.5).float()
    names = ("cat", "dog", "cat", "bus", "dog")
    whole = updated(logits, masks, names, detailed=True).compute()
    first = SegmentationMetrics(detailed=True)
    first.update({"logits": logits[:1]}, batch_of(masks[:1], names[:1]))
    first.update({"logits": logits[1:3]}, batch_of(masks[1:3], names[1:3]))
    second = updated(logits[3:], masks[3:], names[3:], detailed=True)
    first.merge(second.sums)
    assert first.compute() == pytest.approx(whole)
    assert {"category/bus/miou", "category/cat/fscore", "category/dog/miou"} <= whole.keys()


def test_category_values_are_those_of_their_clips():
    logits = torch.stack([as_logits(TRUTH)[None], as_logits(SHIFTED)[None]])
    masks = torch.stack([TRUTH[None], TRUTH[None]])
    values = updated(logits, masks, ("helicopter", "dog"), detailed=True).compute()
    of_categories = {name: value for name, value in values.items() if name.startswith("category/")}
    assert of_categories == {
        "category/helicopter/miou": pytest.approx(1.0),
        "category/helicopter/fscore": pytest.approx(1.0),
        "category/dog/miou": pytest.approx(1 / 3),
        "category/dog/fscore": pytest.approx(0.5),
    }


def test_the_pooled_iou_sums_pixels_and_leaves_frames_without_foreground_out():
    small = mask("#...", "....", "....", "....")
    logits = torch.stack([as_logits(SHIFTED), as_logits(small), as_logits(SHIFTED)])[None]
    values = updated(logits, torch.stack([TRUTH, small, EMPTY])[None]).compute()
    assert values["iou_pooled"] == pytest.approx((2 + 1) / (6 + 1))
    assert values["miou"] == pytest.approx((2 / 6 + 1 + 12 / 16) / 3, abs=1e-6)


def test_no_score_rewards_an_empty_prediction_of_a_set_without_foreground():
    values = updated(as_logits(EMPTY)[None, None], EMPTY[None, None]).compute()
    assert set(values) == {"miou", "iou_pooled", "fscore"}
    assert all(math.isnan(value) for value in values.values())


def test_nothing_seen_is_not_a_score_of_zero():
    assert all(math.isnan(value) for value in SegmentationMetrics().compute().values())
