"""Batches print their shapes and reject tensors that do not fit together."""

from __future__ import annotations

import pytest
import torch

from stgcma.data.batch import AVBatch, MaskTargets
from tests.factories import tiny_batch


def test_a_batch_prints_its_shapes_and_moves_all_its_tensors():
    batch = tiny_batch(num_clips=2, num_segments=3)
    assert repr(batch) == ("AVBatch(2 clips, {'frames': [2, 3, 3, 48, 48], 'fbank': [2, 3, 48, 48]}, EventTargets)")
    moved = batch.to("meta")
    assert {moved.frames.device.type, moved.fbank.device.type, moved.targets.labels.device.type} == {"meta"}
    assert moved.clip_ids == batch.clip_ids
    masks = MaskTargets(masks=torch.zeros(1, 1, 2, 2), frame_index=torch.zeros(1).long(), categories=("cat",))
    moved = AVBatch(clip_ids=("a",), frames=None, fbank=None, targets=masks).to("meta")
    assert moved.targets.masks.device.type == "meta"
    assert moved.targets.categories == ("cat",)
    assert moved.frames is None


def test_tensors_with_another_rank_or_number_of_clips_are_rejected():
    with pytest.raises(ValueError, match=r"frames needs rank 5 with 2 clips first, got \[3, 4, 3, 8, 8\]"):
        AVBatch(clip_ids=("a", "b"), frames=torch.zeros(3, 4, 3, 8, 8), fbank=None)
    with pytest.raises(ValueError, match=r"fbank needs rank 4"):
        AVBatch(clip_ids=("a",), frames=None, fbank=torch.zeros(1, 8, 8))
