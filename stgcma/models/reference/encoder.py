"""Parameter names of the encoder and of the AVE head: reference -> ours.

The rules serve to import checkpoints of the reference and to check its golden vectors. Each rule is a pair of templates
(reference, ours): ``{n}`` stands for a number, ``{rest}`` for the remainder of the name. Two names of the reference are
misleading: in Swin, ``S_Adapter2`` is the spatial adapter and ``S_Adapter`` the global one; in CLIP, ``S_Adapter`` is
the spatial one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from stgcma.errors import CheckpointError
from stgcma.models.reference.avqa import AVQA_HEAD_RULES
from stgcma.models.reference.avs import AVS_DECODER_RULES

Rule = tuple[str, str]

_BRANCHES = (("", "visual"), ("_Audio", "audio"))
_LAYERS = (("D_fc1", "down"), ("D_fc2", "up"))


def _adapter_rules(block: str, ours: str, names: Mapping[str, str]) -> list[Rule]:
    rules = []
    for theirs, stage in names.items():
        for suffix, branch in _BRANCHES:
            for fc, layer in _LAYERS:
                path = f"{stage}.{branch}" if stage == "temporal_adapters" else f"{stage}.adapters.{branch}"
                rules.append((f"{block}.{theirs}{suffix}.{fc}.{{rest}}", f"{ours}.{path}.{layer}.{{rest}}"))
    rules.append((f"{block}.gate_v", f"{ours}.gates.audio_to_visual"))
    rules.append((f"{block}.gate_a", f"{ours}.gates.visual_to_audio"))
    return rules


_EVENT_HEAD: list[Rule] = [
    ("mlp_head.0.{rest}", "head.layers.0.{rest}"),
    ("mlp_head.1.{rest}", "head.layers.1.{rest}"),
    ("mlp_head.2.{rest}", "head.layers.3.{rest}"),
]
"""Two branches: linear layers 0 and 2; ours is 3, after activation and dropout. One branch: LayerNorm and linear."""

_CLIP_BLOCK, _OUR_CLIP_BLOCK = "transformer.resblocks.{n}", "encoder.stages.0.{n}"
CLIP_RULES: list[Rule] = [
    *_adapter_rules(
        _CLIP_BLOCK,
        _OUR_CLIP_BLOCK,
        {"T_Adapter": "temporal_adapters", "S_Adapter": "spatial_adapter", "MLP_Adapter": "global_adapter"},
    ),
    (f"{_CLIP_BLOCK}.{{rest}}", "encoder.backbone.visual.transformer.resblocks.{n}.{rest}"),
    ("conv1.weight", "encoder.backbone.visual.conv1.weight"),
    ("conv1_audio.weight", "encoder.backbone.audio_patch_embedding"),
    ("class_embedding", "encoder.backbone.visual.class_embedding"),
    ("positional_embedding", "encoder.backbone.visual.positional_embedding"),
    ("positional_embedding_audio", "encoder.backbone.audio_positional_embedding"),
    ("temporal_embedding", "encoder.temporal_embedding.visual"),
    ("temporal_embedding_audio", "encoder.temporal_embedding.audio"),
    ("ln_pre.{rest}", "encoder.backbone.visual.ln_pre.{rest}"),
    ("ln_post.{rest}", "encoder.ln_post.norm.{rest}"),
    *_EVENT_HEAD,
]

_SWIN_BLOCK, _OUR_SWIN_BLOCK = "layers.{n}.blocks.{n}", "encoder.stages.{n}.{n}"
SWIN_RULES: list[Rule] = [
    *_adapter_rules(
        _SWIN_BLOCK,
        _OUR_SWIN_BLOCK,
        {"T_Adapter": "temporal_adapters", "S_Adapter2": "spatial_adapter", "S_Adapter": "global_adapter"},
    ),
    (f"{_SWIN_BLOCK}.attn.temporal_position_bias_table", f"{_OUR_SWIN_BLOCK}.temporal_bias.visual.table"),
    (f"{_SWIN_BLOCK}.attn.temporal_position_bias_table_audio", f"{_OUR_SWIN_BLOCK}.temporal_bias.audio.table"),
    (f"{_SWIN_BLOCK}.{{rest}}", "encoder.backbone.swin.layers.{n}.blocks.{n}.{rest}"),
    *(
        (f"layers.{s}.downsample.{{rest}}", f"encoder.backbone.swin.layers.{s + 1}.downsample.{{rest}}")
        for s in range(3)
    ),
    ("patch_embed.{rest}", "encoder.backbone.swin.patch_embed.{rest}"),
    ("patch_embed_audio.proj.{rest}", "encoder.backbone.audio_proj.{rest}"),
    ("patch_embed_audio.norm.{rest}", "encoder.backbone.audio_norm.{rest}"),
    ("norm.{rest}", "encoder.backbone.swin.norm.{rest}"),
    *_EVENT_HEAD,
    *AVS_DECODER_RULES,
    *AVQA_HEAD_RULES,
]
"""timm has patch merging at the start of a stage, the reference at the end of the stage before."""

RULES: dict[str, list[Rule]] = {"clip": CLIP_RULES, "swin": SWIN_RULES}


def _translate(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    for source, target in rules:
        pattern = re.escape(source).replace(r"\{n\}", r"(\d+)").replace(r"\{rest\}", r"(.+)")
        match = re.fullmatch(pattern, name)
        if match:
            values = iter(match.groups())
            return re.sub(r"\{(n|rest)\}", lambda _: next(values), target)  # noqa: B023
    return None


def to_ours(name: str, rules: list[Rule]) -> str:
    """Reference name -> ours.

    Raises:
        CheckpointError: If no rule matches the name.
    """
    translated = _translate(name, rules)
    if translated is None:
        raise CheckpointError(
            f"{name!r} is not a parameter name of the reference implementation. "
            "Give a state dict with its names (see stgcma/models/reference/encoder.py)."
        )
    return translated


def import_state(state: Mapping[str, Tensor], rules: list[Rule]) -> dict[str, Tensor]:
    """A state dict of the reference under our names.

    The 3-D patch kernels of Swin lose their temporal axis of size 1. 1x1x1 convolutions become matrices.
    """
    out = {}
    for name, value in state.items():
        if value.ndim == 5:
            value = value.squeeze(2) if "patch_embed" in name else value.flatten(1)
        out[to_ours(name.removeprefix("module."), rules)] = value
    return out
