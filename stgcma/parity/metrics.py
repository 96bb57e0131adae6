"""Golden checks of losses and metrics: AVE accuracy and loss, AVS loss, mIoU and F-score."""

from __future__ import annotations

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from stgcma.data.batch import AVBatch, EventTargets
from stgcma.parity.compare import Check, relative_l2
from stgcma.tasks.avs import mask_loss
from stgcma.tasks.classification_metrics import SegmentAccuracy
from stgcma.tasks.segmentation_metrics import clip_fscores, frame_ious

Tensors = dict[str, Tensor]
OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4


def check_metrics_losses(file: Path, device: str) -> list[Check]:
    """Check all losses and metrics of one file."""
    tensors = load_file(file, device=device)
    results = {**_events(tensors), **_miou(tensors), **_fscore(tensors), **_mask_loss(tensors)}
    return [_check(name, got, tensors[name]) for name, got in results.items()]


def _check(name: str, got: Tensor, expected: Tensor) -> Check:
    """Compare two tensors as vectors. A name that ends in ``grad`` belongs to a gradient."""
    kind, tolerance = ("gradient", GRADIENT_TOLERANCE) if name.endswith("grad") else ("output", OUTPUT_TOLERANCE)
    return Check(f"{kind}.{name}", relative_l2(got.reshape(-1), expected.reshape(-1)), tolerance)


def _events(tensors: Tensors) -> Tensors:
    logits = tensors["ave.logits"].clone().requires_grad_()
    labels = tensors["ave.onehot"].argmax(-1)
    loss = F.cross_entropy(logits, labels)
    metrics = SegmentAccuracy(logits.shape[-1])
    batch = AVBatch(clip_ids=("all",), frames=None, fbank=None, targets=EventTargets(labels=labels[None]))
    metrics.update({"logits": logits[None]}, batch)
    (gradient,) = torch.autograd.grad(loss, logits)
    accuracy = torch.tensor(metrics.compute()["accuracy"])
    return {"ave.accuracy": accuracy, "ave.ce_loss": loss, "ave.ce_grad": gradient}


def _miou(tensors: Tensors) -> Tensors:
    ious = frame_ious(tensors["miou.pred_logits"], tensors["miou.gt"])
    results = {"miou.value_per_frame": ious, f"miou.value_all{len(ious)}": ious.mean()}
    for name in tensors:
        if match := re.fullmatch(r"miou\.value_batches_of_(\d+)", name):
            results[name] = torch.stack([batch.mean() for batch in ious.split(int(match[1]))])
    return results


def _fscore(tensors: Tensors) -> Tensors:
    results = {}
    for name in tensors:
        if match := re.fullmatch(r"fscore\.value_frames(\d+)_(\d+)", name):
            frames = slice(int(match[1]), int(match[2]))
            results[name], _ = clip_fscores(tensors["miou.pred_logits"][None, frames], tensors["miou.gt"][None, frames])
    return results


def _mask_loss(tensors: Tensors) -> Tensors:
    """The reference stores logits of all frames of a clip; its loss compares the first frame with the mask."""
    masks = tensors["avs_loss.first_mask"][:, 0]
    logits = tensors["avs_loss.pred_logits"].clone().requires_grad_()
    loss = mask_loss(logits.view(len(masks), -1, *logits.shape[-2:])[:, :1], masks)
    (gradient,) = torch.autograd.grad(loss, logits)
    return {"avs_loss.value": loss, "avs_loss.grad": gradient}


METRICS_CASES = {
    "metrics and losses": (lambda names, config: {"miou.gt", "ave.onehot"} <= names, check_metrics_losses),
}
