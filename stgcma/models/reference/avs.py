"""Parameter names of the segmentation decoder: reference -> ours. The reference counts scales from 1, we from 0."""

from __future__ import annotations

_NUM_SCALES = 4

TPAVI_NAMES = (
    ("align_channel", "align"),
    ("theta", "query"),
    ("phi", "key"),
    ("g", "value"),
    ("W_z.0", "out"),
    ("W_z.1", "out_norm"),
    ("norm_layer", "norm"),
)
FUSION_NAMES = (("resConfUnit1", "lateral_unit"), ("resConfUnit2", "output_unit"))
_HEAD_NAMES = ((0, "reduce"), (2, "refine"), (4, "classify"))


def _rules(decoder: str) -> list[tuple[str, str]]:
    rules = [("avstask_audio_linear.{rest}", f"{decoder}.audio_projection.{{rest}}")]
    for scale in range(_NUM_SCALES):
        k = scale + 1
        rules.append((f"avstask_x{k}_linear.{{rest}}", f"{decoder}.projections.{scale}.{{rest}}"))
        rules.append((f"avstask_conv{k}.conv2d_list.{{rest}}", f"{decoder}.contexts.{scale}.convs.{{rest}}"))
        for theirs, ours in TPAVI_NAMES:
            rules.append((f"avstask_tpavi_b{k}.{theirs}.{{rest}}", f"{decoder}.interactions.{scale}.{ours}.{{rest}}"))
        for theirs, ours in FUSION_NAMES:
            rules.append((f"avstask_path{k}.{theirs}.{{rest}}", f"{decoder}.fusions.{scale}.{ours}.{{rest}}"))
    for index, ours in _HEAD_NAMES:
        rules.append((f"avstask_output_conv.{index}.{{rest}}", f"{decoder}.mask_head.{ours}.{{rest}}"))
    return rules


AVS_DECODER_RULES = _rules("head.decoder")
"""Pairs (reference, ours) in the template form of ``stgcma/models/reference/encoder.py``."""
