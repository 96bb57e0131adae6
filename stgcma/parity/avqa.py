"""Golden checks of the question-answering model: intermediate features, logits, losses and gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stgcma.config import AnswerHeadConfig
from stgcma.data.batch import AVBatch, QuestionTargets
from stgcma.errors import ParityError
from stgcma.models.avqa_head import AVQAHead
from stgcma.models.reference.encoder import RULES, import_state
from stgcma.parity.compare import Check, relative_l2
from stgcma.parity.encoder import (
    OUTPUT_TOLERANCE,
    check_gradients,
    model_config_from_reference,
    read_golden,
    spec_from_reference,
)
from stgcma.tasks import build_model, build_task
from stgcma.tasks.avqa import MATCH_WEIGHT, answer_loss, match_loss
from stgcma.tasks.base import AudioVisualModel

ATTENTION_HEADS = 4
"""Heads of the reference. The stored tensors do not determine this number."""


def answer_head_from_reference(param: dict[str, Tensor], variant: str) -> AnswerHeadConfig:
    """Widths of a reference head from its weights, ``param`` by reference name."""
    wide, middle, narrow = (param[f"avqatask_fc{i}.weight"].shape[0] for i in (1, 2, 3))
    return AnswerHeadConfig(
        dim=param["avqatask_fc_a2.weight"].shape[0],
        released_audio_dim=param["avqatask_yb_fc_a.weight"].shape[0] if variant == "b_released" else 128,
        match_dims=(wide, middle, narrow),
        num_attention_heads=ATTENTION_HEADS,
        num_words=param["avqatask_question_encoder.word2vec.weight"].shape[0],
        num_answers=param["avqatask_fc_ans.weight"].shape[0],
    )


def check_avqa_file(file: Path, device: str) -> list[Check]:
    """Check one ``swin_avqa_*`` file. Variant and widths come from its metadata and weights."""
    golden, config = read_golden(file)
    param = {n.removeprefix("param."): v for n, v in golden.items() if n.startswith("param.")}
    variant = config["variant"]
    model_config = replace(
        model_config_from_reference(config, "fusion"),
        avqa_variant=variant,
        answer_head=answer_head_from_reference(param, variant),
    )
    size = config["img_size"]
    task = build_task("avqa", model_config)
    model = build_model(task, spec=spec_from_reference(config, (size, size)), num_segments=config["num_frames"])
    rules = RULES["swin"]
    state, own = import_state(param, rules), model.state_dict()
    missing = [name for name in own if name not in state]
    if missing:
        raise ParityError(f"{file} lacks weights of this model: {missing[:5]}. Use a complete golden file.")
    model.load_state_dict({name: state[name] for name in own})
    model.to(device).eval()

    batch = _batch(golden, size).to(device)
    targets = batch.targets
    assert isinstance(targets, QuestionTargets)
    inter = _record(model)
    outputs = model(batch)
    answer, match = answer_loss(outputs["logits"], targets), match_loss(outputs, targets)
    positive, negative = outputs["match_positive"], outputs["match_negative"]
    assert targets.negatives is not None
    found = {
        "output.qa": outputs["logits"],
        "output.match_posi": positive.flatten(0, 1),
        "output.match_nega": negative.flatten(0, 1),
        "output.match_interleaved": torch.stack([positive, negative], dim=2).flatten(0, 2),
        "loss.qa": answer.reshape(1),
        "loss.match": match.reshape(1),
        "loss.total": task.loss(outputs, batch).reshape(1),
        "inter.question_feature": inter["question"],
        "inter.audio_feat": inter["audio"],
        "inter.norm_v": inter["features"].tokens["visual"].flatten(0, 1).flatten(1, 2),
        "inter.norm_a": inter["features"].tokens["audio"].flatten(0, 1).flatten(1, 2),
        "inter.norm_vneg": model.encoder.plain_visual(targets.negatives.flatten(0, 1)).flatten(1, 2),
        "inter.fc_gl_posi": inter["looks"][0].flatten(0, 1),
        "inter.fc_gl_nega": inter["looks"][1].flatten(0, 1),
    }
    checks = [Check(_label(n), relative_l2(v, golden[n].view(v.shape)), OUTPUT_TOLERANCE) for n, v in found.items()]
    (answer + MATCH_WEIGHT * match).backward()
    return checks + check_gradients(model, golden, rules, "grad_of_total_loss.")


def _label(name: str) -> str:
    """Name of a check. Reports group checks by the first word; losses and intermediate features count as outputs."""
    return name if name.startswith("output.") else f"output.{name}"


def _record(model: AudioVisualModel) -> dict[str, Any]:
    """Register hooks that collect encoder and head features of the next forward pass in the returned dictionary."""
    head = model.head
    assert isinstance(head, AVQAHead)
    seen: dict[str, Any] = {"looks": []}
    model.encoder.register_forward_hook(lambda _m, _i, out: seen.update(features=out))
    head.question.register_forward_hook(lambda _m, _i, out: seen.update(question=out))
    head.grounding.audio_output.register_forward_hook(lambda _m, _i, out: seen.update(audio=out))
    head.grounding.combine.register_forward_hook(lambda _m, _i, out: seen["looks"].append(out))
    return seen


def _batch(golden: dict[str, Tensor], size: int) -> AVBatch:
    """The stored inputs as a batch. They have a low resolution and are enlarged by repetition."""
    factor = size // golden["input.v_lowres"].shape[-1]

    def enlarge(name: str) -> Tensor:
        return golden[name].repeat_interleave(factor, dim=-1).repeat_interleave(factor, dim=-2)

    count = len(golden["input.question"])
    return AVBatch(
        clip_ids=tuple(str(index) for index in range(count)),
        frames=enlarge("input.v_lowres"),
        fbank=enlarge("input.a_lowres"),
        targets=QuestionTargets(
            video_index=torch.arange(count),
            questions=golden["input.question"],
            answers=golden["input.target"],
            negatives=enlarge("input.v_neg_lowres"),
        ),
    )


AVQA_CASES = {"avqa": (lambda names, config: "input.question" in names and "variant" in config, check_avqa_file)}
