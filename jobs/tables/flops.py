"""Floating point operations of one clip, from the geometry of the model: no weights, no data, milliseconds.

Counted are the matrix products and convolutions, two operations per multiply-add; norms, softmax and activations are
left out. In the backward pass a frozen layer costs its input gradient alone, a trained one its weight gradient too, and
nothing is computed below the first trained parameter. A test holds this beside torch's own count of a real forward and
backward pass.

Shapes: ``S`` segments, ``n`` tokens of a segment, ``D`` width, ``R`` bottleneck width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from stgcma.config import AdaptationConfig, Branch, ModelConfig
from stgcma.models.adaptations import STGCMA, FullFinetuning, NoAdaptation
from stgcma.presets import BackboneSpec, backbone_spec
from stgcma.tasks import task_spec

if TYPE_CHECKING:
    from stgcma.data.batch import AVBatch
    from stgcma.models.encoder import AVFeatures


@dataclass(frozen=True)
class ClipFlops:
    """Operations for one clip."""

    forward: float
    """Evaluation: all segments, all masks, one question."""
    training: float
    """Forward and backward of a training step, with what the task adds to it (one mask; negative frames)."""

    def __add__(self, other: ClipFlops) -> ClipFlops:
        return ClipFlops(self.forward + other.forward, self.training + other.training)


class _Tally:
    """Adds up forward and backward; every method says whether its output needs a gradient."""

    def __init__(self, trained_backbone: bool = False) -> None:
        self.forward = 0.0
        self.backward = 0.0
        self.trained_backbone = trained_backbone

    def linear(self, tokens: int, inputs: int, outputs: int, *, grad: bool, trained: bool | None = None) -> bool:
        trained = self.trained_backbone if trained is None else trained
        cost = 2.0 * tokens * inputs * outputs
        self.forward += cost
        self.backward += cost * (grad + trained)
        return grad or trained

    def attention(
        self, groups: int, queries: int, keys: int, width: int, *, grad: bool, bias_grad: bool = False
    ) -> bool:
        """``softmax(q k^T + bias) v``; a trained bias alone needs the gradient of the logits, one product."""
        product = 2.0 * groups * queries * keys * width
        self.forward += 2 * product
        self.backward += 4 * product if grad else product * bias_grad
        return grad or bias_grad


@dataclass(frozen=True)
class _Stage:
    """Geometry of one stage: ``depth`` blocks of ``tokens[branch]`` tokens a segment."""

    width: int
    depth: int
    hidden: int
    tokens: dict[Branch, int]
    window: dict[Branch, int]
    """Tokens that attend to each other in space."""


def clip_flops(task: str, config: ModelConfig, *, num_segments: int) -> ClipFlops:
    """Forward and training cost of one clip of ``num_segments`` segments.

    Args:
        task: A name in ``stgcma.tasks.TASKS``.
        config: The model.
        num_segments: ``S``: 10 for AVE and MUSIC-AVQA, 5 for AVSBench.
    """
    spec, adaptation = backbone_spec(config.backbone), config.adaptation
    encoder, grads = encoder_flops(spec, adaptation, num_segments)
    head_key = replace(config, pretrained="none", adaptation=NoAdaptation(branches=adaptation.branches))
    total = encoder + _head_flops(task, head_key, num_segments, any(grads.values()))
    if "plain_visual" in task_spec(task).requires:
        # Negative frames through the plain backbone, without gradient, in training only.
        total += ClipFlops(0.0, plain_visual_flops(spec, num_segments))
    return total


def encoder_flops(
    spec: BackboneSpec, adaptation: AdaptationConfig, num_segments: int
) -> tuple[ClipFlops, dict[Branch, bool]]:
    """Cost of the adapted encoder, and whether each branch's output carries a gradient."""
    full = isinstance(adaptation, FullFinetuning)
    modes = dict.fromkeys(("temporal", "spatial", "global"), "absent")
    if isinstance(adaptation, STGCMA):
        modes |= adaptation.stage_modes
    tally = _Tally(trained_backbone=full)
    branches = adaptation.running
    embeds_time = spec.family == "clip" and (full or modes["temporal"] != "absent")
    grad = dict.fromkeys(branches, embeds_time or full)
    for branch in branches:
        channels = 3 if branch == "visual" else 1
        patches = _grid(spec, branch)[0] * _grid(spec, branch)[1]
        # Pixels need no gradient: a trained patch embedding costs its weight gradient alone.
        tally.linear(num_segments * patches, channels * spec.patch_size**2, spec.width, grad=False)
    for index, stage in enumerate(_stages(spec, adaptation, branches)):
        for branch in branches:
            if index:
                tokens = num_segments * stage.tokens[branch]
                grad[branch] = tally.linear(tokens, 2 * stage.width, stage.width, grad=grad[branch])
        for block in range(stage.depth):
            attends_time = modes["temporal"] != "absent" and (spec.family == "clip" or block % 2 == 0)
            if attends_time:
                _temporal(tally, spec, stage, adaptation, modes["temporal"], num_segments, grad)
            _spatial(tally, stage, adaptation, modes["spatial"], num_segments, grad)
            _global(tally, stage, adaptation, modes["global"], num_segments, grad)
    return ClipFlops(tally.forward, tally.forward + tally.backward), grad


def plain_visual_flops(spec: BackboneSpec, num_frames: int) -> float:
    """Forward pass of frames through the plain backbone."""
    plain = NoAdaptation(branches="visual")
    return encoder_flops(spec, plain, num_frames)[0].forward


def _grid(spec: BackboneSpec, branch: Branch) -> tuple[int, int]:
    """Patches along both axes; a remainder is dropped."""
    height, width = (spec.image_size, spec.image_size) if branch == "visual" else spec.audio_size
    return height // spec.patch_size, width // spec.patch_size


def _stages(spec: BackboneSpec, adaptation: AdaptationConfig, branches: tuple[Branch, ...]) -> list[_Stage]:
    ratios = (1.0,) * len(spec.depths)
    if isinstance(adaptation, STGCMA):
        ratios = adaptation.ratios(spec)
    stages = []
    for index, (depth, ratio) in enumerate(zip(spec.depths, ratios, strict=True)):
        width = spec.width * 2**index
        tokens, window = {}, {}
        for branch in branches:
            height, breadth = (side >> index for side in _grid(spec, branch))
            tokens[branch] = height * breadth + (spec.family == "clip")
            limit = spec.window_size or height
            window[branch] = min(limit, height) * min(limit, breadth) if spec.window_size else tokens[branch]
        stages.append(_Stage(width, depth, int(width * ratio), tokens, window))
    return stages


def _temporal(
    tally: _Tally,
    spec: BackboneSpec,
    stage: _Stage,
    adaptation: AdaptationConfig,
    mode: str,
    segments: int,
    grad: dict[Branch, bool],
) -> None:
    """``T-Adapter(MHSA_time(LN1(x)))``; Swin adds a trained bias to the logits."""
    width = stage.width
    for branch in grad:
        tokens = segments * stage.tokens[branch]
        needs = tally.linear(tokens, width, 3 * width, grad=grad[branch])
        has_bias = spec.family == "swin"
        needs = tally.attention(stage.tokens[branch], segments, segments, width, grad=needs, bias_grad=has_bias)
        needs = tally.linear(tokens, width, width, grad=needs)
        if mode == "adapted" and branch in adaptation.adapted:
            needs = tally.linear(tokens, width, stage.hidden, grad=needs, trained=True)
            needs = tally.linear(tokens, stage.hidden, width, grad=needs, trained=True)
        grad[branch] = grad[branch] or needs


def _spatial(
    tally: _Tally, stage: _Stage, adaptation: AdaptationConfig, mode: str, segments: int, grad: dict[Branch, bool]
) -> None:
    """``AV-Adapter(MHSA(LN1(x)))`` within frames or windows."""
    width = stage.width
    for branch in grad:
        tokens, window = segments * stage.tokens[branch], stage.window[branch]
        needs = tally.linear(tokens, width, 3 * width, grad=grad[branch])
        needs = tally.attention(tokens // window, window, window, width, grad=needs)
        grad[branch] = tally.linear(tokens, width, width, grad=needs)
    windows = {branch: segments * stage.tokens[branch] // stage.window[branch] for branch in grad}
    _av_adapter(tally, stage, adaptation, mode, segments, grad, windows, stage.window)


def _global(
    tally: _Tally, stage: _Stage, adaptation: AdaptationConfig, mode: str, segments: int, grad: dict[Branch, bool]
) -> None:
    """``AV-Adapter(FFN(LN2(x)))`` over all tokens of a frame."""
    width = stage.width
    for branch in grad:
        tokens = segments * stage.tokens[branch]
        needs = tally.linear(tokens, width, 4 * width, grad=grad[branch])
        grad[branch] = tally.linear(tokens, 4 * width, width, grad=needs)
    _av_adapter(tally, stage, adaptation, mode, segments, grad, dict.fromkeys(grad, segments), stage.tokens)


def _av_adapter(
    tally: _Tally,
    stage: _Stage,
    adaptation: AdaptationConfig,
    mode: str,
    segments: int,
    grad: dict[Branch, bool],
    groups: dict[Branch, int],
    lengths: dict[Branch, int],
) -> None:
    """Down, messages, up (Eq. 1-5) after a frozen layer; ``grad`` is updated in place."""
    adapted = adaptation.adapted if mode == "adapted" else ()
    for branch in adapted:
        tally.linear(segments * stage.tokens[branch], stage.width, stage.hidden, grad=grad[branch], trained=True)
    if len(adapted) == 2:
        for branch, message in (("visual", "audio_to_visual"), ("audio", "visual_to_audio")):
            other = "audio" if branch == "visual" else "visual"
            if adaptation.fusion in ("both", message):
                tally.attention(groups[branch], lengths[branch], lengths[other], stage.hidden, grad=True)
    for branch in adapted:
        tally.linear(segments * stage.tokens[branch], stage.hidden, stage.width, grad=True, trained=True)
        grad[branch] = True


@lru_cache(maxsize=64)
def _head_flops(task_name: str, config: ModelConfig, num_segments: int, features_need_gradient: bool) -> ClipFlops:
    """The head's cost as torch counts it, on the meta device with features of the right shapes."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from stgcma.models.encoder import build_encoder
    from stgcma.tasks import build_task

    spec, task = backbone_spec(config.backbone), build_task(task_name, config)
    encoder = build_encoder(config, num_segments=num_segments, device="meta")
    counts = []
    with torch.device("meta"):
        head = task.build_head(encoder)
        features = _meta_features(spec, encoder.running, num_segments, features_need_gradient)
        for training in (False, True):
            head.train(training)
            with FlopCounterMode(display=False) as counter:
                outputs = head(features, _meta_batch(task.spec.annotation, spec, num_segments, training))
                if training:
                    torch.stack([value.sum() for value in outputs.values()]).sum().backward()
            counts.append(float(counter.get_total_flops()))
    return ClipFlops(*counts)


def _meta_features(spec: BackboneSpec, branches: tuple[Branch, ...], segments: int, grad: bool) -> AVFeatures:
    """What the encoder hands to a head for one clip, without content."""
    import torch

    from stgcma.models.encoder import AVFeatures

    stages = _stages(spec, NoAdaptation(), branches)
    last = len(stages) - 1

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(1, segments, *shape, requires_grad=grad)

    tokens = {
        branch: empty(stages[-1].tokens[branch], spec.output_dim)
        if spec.family == "clip"
        else empty(*(side >> last for side in _grid(spec, branch)), spec.output_dim)
        for branch in branches
    }
    pooled = {branch: empty(spec.output_dim) for branch in branches}
    if spec.family == "clip" or "visual" not in branches:
        return AVFeatures(tokens, pooled)
    height, width = _grid(spec, "visual")
    maps = tuple(empty(height >> i, width >> i, stage.width) for i, stage in enumerate(stages))
    return AVFeatures(tokens, pooled, maps)


def _meta_batch(annotation: str, spec: BackboneSpec, segments: int, training: bool) -> AVBatch:
    """What heads read besides features: which masks are wanted, one question."""
    import torch

    from stgcma.data.batch import AVBatch, MaskTargets, QuestionTargets

    targets: MaskTargets | QuestionTargets | None = None
    if annotation == "masks":
        frames = torch.zeros(1 if training else segments, dtype=torch.int64)
        masks = torch.empty(1, len(frames), spec.image_size, spec.image_size)
        targets = MaskTargets(masks=masks, frame_index=frames)
    elif annotation == "questions":
        one = torch.zeros(1, dtype=torch.int64)
        targets = QuestionTargets(video_index=one, questions=torch.zeros(1, 14, dtype=torch.int64), answers=one)
    return AVBatch(clip_ids=("clip",), frames=None, fbank=None, targets=targets)
