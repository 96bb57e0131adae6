"""Parameter names of the question-answering head: reference -> ours."""

from __future__ import annotations

GROUNDING_NAMES: dict[str, str] = {
    "fc_a1": "audio_expansion",
    "fc_a2": "audio_output",
    "fc_gl": "combine",
    "fc1": "match_layers.0",
    "fc2": "match_layers.1",
    "fc3": "match_layers.2",
    "fc4": "match_layers.3",
}
"""Layers of a grounding checkpoint: the names that MUSIC-AVQA, LAVISH and DG-SCT share -> ours."""

_OTHER_NAMES: dict[str, str] = {
    "yb_fc_v": "grounding.visual_projection",
    "yb_fc_a": "grounding.audio_projection",
    "question_encoder.word2vec": "question.embedding",
    "question_encoder.lstm": "question.lstm",
    "question_encoder.fc": "question.project",
    "attn_v": "ask_visual.attention",
    "linear11": "ask_visual.inner",
    "linear12": "ask_visual.outer",
    "norm1": "ask_visual.norm",
    "attn_a": "ask_audio.attention",
    "linear21": "ask_audio.inner",
    "linear22": "ask_audio.outer",
    "norm2": "ask_audio.norm",
    "fc_fusion": "fusion",
    "fc_ans": "answer",
}

_HEAD_NAMES = _OTHER_NAMES | {theirs: f"grounding.{ours}" for theirs, ours in GROUNDING_NAMES.items()}

AVQA_HEAD_RULES: list[tuple[str, str]] = [
    (f"avqatask_{theirs}.{{rest}}", f"head.{ours}.{{rest}}") for theirs, ours in _HEAD_NAMES.items()
]
"""Pairs (reference, ours) in the template form of ``stgcma/models/reference/encoder.py``."""
