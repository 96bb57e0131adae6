"""Golden checks of encoders with the AVE head: outputs, activations of the first block, and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from stgcma.backbone_spec import BackboneSpec
from stgcma.config import Branch, ModelConfig
from stgcma.data.batch import AVBatch
from stgcma.errors import ParityError
from stgcma.models.adaptations import STGCMA
from stgcma.models.backbones.base import audio_patch_weight
from stgcma.models.backbones.clip_vit import CLIPSpec, audio_positions
from stgcma.models.backbones.swin import SwinSpec
from stgcma.models.encoder import SharedEncoder
from stgcma.models.parameters import trainable_parameters
from stgcma.models.reference.encoder import RULES, Rule, import_state, to_ours
from stgcma.parity.compare import Check, SkippedFile, read_model_config, relative_l2
from stgcma.tasks import build_model, build_task

OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
GATE_TOLERANCE = 1e-2
_MODES: dict[str, dict[str, Any]] = {
    "fusion": {},
    "multimodal": {"fusion": "none"},
    "audioonly": {"branches": "audio", "adapted_branches": "audio"},
    "videoonly": {"branches": "visual", "adapted_branches": "visual"},
}
"""``ftmode`` of the reference -> our adaptation fields."""


def read_golden(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and configuration of a golden file."""
    with safe_open(file, "pt") as handle:
        config = read_model_config(handle.metadata())
    return load_file(file), config


def spec_from_reference(config: dict[str, Any], audio_size: tuple[int, int]) -> BackboneSpec:
    """The backbone geometry of a reference configuration.

    Args:
        config: Configuration of the reference.
        audio_size: Time frames and mel bins of the audio input.
    """
    if "layers" in config:
        return CLIPSpec(
            name="golden",
            image_size=config["input_resolution"],
            patch_size=config["patch_size"],
            width=config["embed_dim"],
            depths=(config["layers"],),
            num_heads=(config["heads"],),
            audio_size=audio_size,
        )
    return SwinSpec(
        name="golden",
        image_size=config["img_size"],
        patch_size=config["patch_size"][-1],
        width=config["embed_dim"],
        depths=tuple(config["depths"]),
        num_heads=tuple(config["num_heads"]),
        window_size=config["window_size"],
        audio_size=audio_size,
    )


def model_config_from_reference(config: dict[str, Any], mode: str, **adaptation: Any) -> ModelConfig:
    """The model configuration of a reference configuration.

    Args:
        config: Configuration of the reference.
        mode: Its ``ftmode``.
        adaptation: Further fields of ``STGCMA``.
    """
    ratios = config.get("adapter_ratio", config.get("adapter_mlp_ratio"))
    fields: dict[str, Any] = {
        "size": None,
        "bottleneck_ratios": tuple(ratios) if isinstance(ratios, list) else (ratios,),
        **_MODES[mode],
        **adaptation,
    }
    return ModelConfig(
        backbone="golden",
        pretrained="none",
        adaptation=STGCMA(**fields),
        num_classes=config.get("label_dim", 29),
    )


def check_gradients(model: nn.Module, expected: dict[str, Tensor], rules: list[Rule], prefix: str) -> list[Check]:
    """Compare ``.grad`` of the trained parameters with the stored gradients, all gates as one vector.

    A gradient that is None counts as zero.

    Args:
        model: After the backward pass.
        expected: Tensors of the golden file.
        rules: Reference names -> ours.
        prefix: Beginning of the names of gradients.

    Raises:
        ParityError: If the file has a gradient for a parameter that is not trained.
    """
    stored = {name.removeprefix(prefix): value for name, value in expected.items() if name.startswith(prefix)}
    own = trainable_parameters(model)
    checks, ours, theirs = [], [], []
    for name, value in stored.items():
        parameter = own.get(to_ours(name, rules))
        if parameter is None:
            raise ParityError(
                f"The golden file has a gradient for {name!r}, which this model does not train. "
                "Use a file of this model."
            )
        got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if name.endswith(("gate_v", "gate_a")):
            ours.append(got.flatten())
            theirs.append(value.to(got.device).flatten())
        else:
            checks.append(Check(f"gradient.{name}", relative_l2(got.view(value.shape), value), GRADIENT_TOLERANCE))
    if ours:
        checks.append(Check("gates.all", relative_l2(torch.cat(ours), torch.cat(theirs)), GATE_TOLERANCE))
    return checks


def _block_checks(first_block: dict[Branch, Tensor], golden: dict[str, Tensor]) -> list[Check]:
    """Compare ``inter.block1*``: ``[tokens, B * S, D]`` in CLIP files, ``[B * S, H * W, D]`` in Swin files."""
    checks = []
    for branch, value in first_block.items():
        flat = value.flatten(0, 1).flatten(1, -2)
        if value.ndim == 4:
            flat = flat.transpose(0, 1)
        name = f"inter.block1_{'v' if branch == 'visual' else 'a'}"
        name = name if name in golden else "inter.block1"
        checks.append(Check(f"output.{name}", relative_l2(flat, golden[name]), OUTPUT_TOLERANCE))
    return checks


def check_ave_file(file: Path, device: str) -> list[Check]:
    """Check one ``*_ave_*`` file: logits, first block, gradients, and the logits of the variants that it stores."""
    golden, config = read_golden(file)
    mode = config["ftmode"]
    source = golden
    if not any(name.startswith("param.") for name in golden):
        sibling = file.with_name(file.name.replace(mode, "fusion"))
        if not sibling.exists():
            raise ParityError(f"{file} needs the weights and inputs of {sibling.name}. Put that file beside it.")
        source, _ = read_golden(sibling)
    family = "clip" if "layers" in config else "swin"
    rules = RULES[family]
    visual, audio = source.get("input.v"), source.get("input.a")
    audio_size = _audio_size(source, config) if audio is None else (audio.shape[2], audio.shape[3])
    spec = spec_from_reference(config, audio_size)
    reference = {n.removeprefix("param."): v for n, v in source.items() if n.startswith("param.")}
    state = import_state(reference, rules)
    given = [value for value in (visual, audio) if value is not None]
    batch = AVBatch(
        clip_ids=tuple(str(i) for i in range(len(given[0]))),
        frames=None if visual is None else visual.transpose(1, 2).contiguous(),
        fbank=audio,
    ).to(device)

    def run(**adaptation: Any) -> tuple[nn.Module, Tensor, dict[Branch, Tensor]]:
        model_config = model_config_from_reference(config, mode, **adaptation)
        segments = config.get("num_video_frames", config.get("num_frames"))
        model = build_model(build_task("ave", model_config), spec=spec, num_segments=segments)
        own = model.state_dict()
        missing = [n for n in own if n not in state and not n.startswith("encoder.backbone.audio_")]
        if missing:
            raise ParityError(f"{file} lacks weights of this model: {missing[:5]}. Use a complete golden file.")
        model.load_state_dict({**own, **{n: v for n, v in state.items() if n in own}})
        model.to(device).eval()
        first: dict[Branch, Tensor] = {}
        assert isinstance(model.encoder, SharedEncoder)
        model.encoder.stages[0][0].register_forward_hook(lambda _m, _i, out: first.update(out))
        return model, model(batch)["logits"].flatten(0, 1), first

    model, logits, first_block = run()
    checks = [Check("output.logits", relative_l2(logits, golden["output.logits"]), OUTPUT_TOLERANCE)]
    checks += _block_checks(first_block, golden)
    gradients = {n: v for n, v in golden.items() if n.startswith("grad.")}
    if gradients:
        cotangent = (golden if "cotangent" in golden else source)["cotangent"]
        (logits * cotangent.to(device)).sum().backward()
        checks += check_gradients(model, gradients, rules, "grad.")
    variants: dict[str, dict[str, Any]] = {
        "output.logits_a2v_only": {"fusion": "audio_to_visual"},
        "output.logits_v2a_only": {"fusion": "visual_to_audio"},
        "output.logits_visual_adapters_only": {"adapted_branches": "visual"},
        "output.logits_audio_adapters_only": {"adapted_branches": "audio"},
    }
    for name, adaptation in variants.items():
        if name in golden:
            with torch.no_grad():
                _, logits, _ = run(**adaptation)
            checks.append(Check(name, relative_l2(logits, golden[name]), OUTPUT_TOLERANCE))
    return checks


def _audio_size(source: dict[str, Tensor], config: dict[str, Any]) -> tuple[int, int]:
    """Audio input size for a file without audio. In CLIP it must only give the stored number of audio positions."""
    if "img_size" in config:
        return (config["img_size"], config["img_size"])
    cells = source["param.positional_embedding_audio"].shape[0] - 1
    return (config["patch_size"], cells * config["patch_size"])


def check_audio_derivation(file: Path, device: str) -> list[Check]:
    """Check the audio patch kernel and positional table derived from those of CLIP, for both published geometries."""
    golden, _ = read_golden(file)
    grids = {"b16": (102 // 16, 128 // 16), "l14": (102 // 14, 128 // 14)}
    checks = []
    for key, grid in grids.items():
        kernel = audio_patch_weight(golden[f"{key}.in.conv1.weight"].to(device), "sum")
        table = audio_positions(golden[f"{key}.in.positional_embedding"].to(device), *grid)
        for name, value in (("conv1_audio.weight", kernel), ("positional_embedding_audio", table)):
            error = relative_l2(value, golden[f"{key}.out.{name}"])
            checks.append(Check(f"output.{key}.{name}", error, OUTPUT_TOLERANCE))
    return checks


def parallel_adapter_design(file: Path, device: str) -> list[Check]:
    """Skip the single-branch Swin files of the release (method section 3.1)."""
    raise SkippedFile(
        "an older single-branch Swin of the reference, with a parallel adapter scaled by 0.5; no table of the paper "
        "uses it, and this library runs the published block instead"
    )


def _is_ave(names: set[str], config: dict[str, Any]) -> bool:
    return "ftmode" in config and "output.logits" in names


ENCODER_CASES = {
    "swin single modality": (
        lambda names, config: (
            _is_ave(names, config) and "depths" in config and config["ftmode"] in ("audioonly", "videoonly")
        ),
        parallel_adapter_design,
    ),
    "ave": (_is_ave, check_ave_file),
    "clip audio embedding": (lambda names, config: "b16.in.conv1.weight" in names, check_audio_derivation),
}
