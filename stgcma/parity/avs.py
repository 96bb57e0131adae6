"""Golden checks of the segmentation decoder and of the whole segmentation model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stgcma.config import MaskDecoderConfig
from stgcma.data.batch import AVBatch
from stgcma.models.avs_decoder import DilatedSum, FusionBlock, MaskDecoder
from stgcma.models.reference.avs import FUSION_NAMES, TPAVI_NAMES
from stgcma.models.reference.encoder import SWIN_RULES, import_state
from stgcma.models.tpavi import TPAVI
from stgcma.parity.compare import Check, relative_l2
from stgcma.parity.encoder import model_config_from_reference, read_golden, spec_from_reference
from stgcma.tasks import build_model, build_task
from stgcma.tasks.avs import SegmentationHead

Tensors = dict[str, Tensor]
OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4


def output_check(name: str, got: Tensor, expected: Tensor) -> Check:
    return Check(f"output.{name}", relative_l2(got, expected), OUTPUT_TOLERANCE)


def gradient_check(name: str, got: Tensor, expected: Tensor) -> Check:
    return Check(f"gradient.{name}", relative_l2(got, expected), GRADIENT_TOLERANCE)


def _load(module: nn.Module, tensors: Tensors, prefixes: tuple[str, ...], names: tuple[tuple[str, str], ...]) -> None:
    """Load a module from the tensors ``<prefix><reference name>.<rest>``. 1x1x1 convolution kernels become matrices."""
    state = {}
    for key, value in tensors.items():
        for start, ours in ((f"{prefix}{theirs}.", ours) for prefix in prefixes for theirs, ours in names):
            if key.startswith(start):
                state[f"{ours}.{key.removeprefix(start)}"] = value.flatten(1) if value.ndim == 5 else value
    module.load_state_dict(state, strict=True)


def _tpavi_checks(tensors: Tensors, device: str) -> list[Check]:
    """One TPAVI in eval and in train mode: output, aligned audio and the gradients of both inputs."""
    checks = []
    for mode in ("eval", "train"):
        name = f"tpavi.{mode}"
        x, audio = tensors["tpavi.x"], tensors["tpavi.audio"].clone().requires_grad_()
        module = TPAVI(x.shape[1], audio.shape[-1]).to(device)
        _load(module, tensors, ("tpavi.param.", f"tpavi.buffer_before_{mode}."), TPAVI_NAMES)
        module.train(mode == "train")
        maps = x.permute(0, 2, 3, 4, 1).contiguous().requires_grad_()
        z = module(maps, audio).permute(0, 4, 1, 2, 3)
        grad_maps, grad_audio = torch.autograd.grad((z * tensors["tpavi.cotangent"]).sum(), (maps, audio))
        checks += [
            output_check(f"{name}.z", z, tensors[f"{name}.z"]),
            output_check(f"{name}.audio_aligned", module.align(audio), tensors[f"{name}.audio_aligned"]),
            gradient_check(f"{name}.x", grad_maps.permute(0, 4, 1, 2, 3), tensors[f"{name}.grad_x"]),
            gradient_check(f"{name}.audio", grad_audio, tensors[f"{name}.grad_audio"]),
        ]
    return checks


@torch.no_grad()
def _convolution_checks(tensors: Tensors, device: str) -> list[Check]:
    """Dilated sum, residual unit, and fusion block with one and two inputs."""
    dilated = DilatedSum(tensors["cm.in"].shape[1], tensors["cm.out"].shape[1]).to(device)
    _load(dilated, tensors, ("cm.param.",), (("conv2d_list", "convs"),))
    top, lateral = tensors["ffb.in0"], tensors["ffb.in1"]
    fusion = FusionBlock(top.shape[1]).to(device)
    _load(fusion, tensors, ("ffb.param.",), FUSION_NAMES)
    results = {
        "cm.out": dilated(tensors["cm.in"]),
        "ffb.out1": fusion(top),
        "ffb.out2": fusion(top, lateral),
        "rcu.out": fusion.lateral_unit(tensors["rcu.in_after_call"]),
    }
    return [output_check(name, got, tensors[name]) for name, got in results.items()]


def check_decoder_parts(file: Path, device: str) -> list[Check]:
    """Check the parts of the decoder one by one."""
    tensors = load_file(file, device=device)
    return [*_tpavi_checks(tensors, device), *_convolution_checks(tensors, device)]


def _decoder_config(config: dict[str, Any], golden: Tensors) -> MaskDecoderConfig:
    """Widths of the decoder from a reference configuration. Only the weights determine those of the mask head."""
    wide, narrow = (golden[f"param.avstask_output_conv.{layer}.weight"].shape[0] for layer in (0, 2))
    return MaskDecoderConfig(
        channels=config["channel"],
        scale_dims=tuple(config["vis_dim"]),
        audio_dim=config["audio_linear"][1],
        head_dims=(wide, narrow),
    )


def _watch(decoder: MaskDecoder, seen: Tensors) -> None:
    """Register hooks that store intermediate tensors of the decoder in ``seen`` under their reference names."""

    def keep(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _module, _inputs, output: seen.update({name: output}))

    keep("audio_feature", decoder.audio_projection)
    keep("a_fea_1", decoder.interactions[0].align)
    for scale in (2, 3):
        keep(f"conv{scale + 1}_out", decoder.contexts[scale])
        keep(f"tpavi{scale + 1}_out", decoder.interactions[scale])
        keep(f"path{scale + 1}_out", decoder.fusions[scale])
    decoder.projections[3].register_forward_pre_hook(lambda _module, inputs: seen.update(x4_linear_in=inputs[0][0]))


@torch.no_grad()
def check_avs_model(file: Path, device: str) -> list[Check]:
    """Check the whole segmentation model in eval mode: logits of every frame and intermediate maps of the decoder.

    ``output.pred_logits`` holds frame 0, and ``output.pred_logits_all_sub<n>`` every n-th pixel of all frames. Inputs
    named ``*_lowres`` are enlarged by repetition.
    """
    golden, config = read_golden(file)
    size = config["img_size"]
    visual, audio = (_enlarge(golden[f"input.{name}_lowres"], size) for name in ("v", "a"))
    spec = spec_from_reference(config, (audio.shape[2], audio.shape[3]))
    model_config = replace(model_config_from_reference(config, "fusion"), mask_decoder=_decoder_config(config, golden))
    model = build_model(build_task("avs", model_config), spec=spec, num_segments=config["num_frames"])
    state = import_state(
        {n.split(".", 1)[1]: v for n, v in golden.items() if n.startswith(("param.", "buffer."))}, SWIN_RULES
    )
    own = model.state_dict()
    model.load_state_dict({**{n: v for n, v in own.items() if n.endswith("num_batches_tracked")}, **state})
    model.to(device).eval()
    seen: Tensors = {}
    assert isinstance(model.head, SegmentationHead)
    _watch(model.head.decoder, seen)
    batch = AVBatch(clip_ids=tuple(map(str, range(len(visual)))), frames=visual, fbank=audio).to(device)
    logits = model(batch)["logits"].flatten(0, 1).unsqueeze(1)
    checks = [output_check("pred_logits", logits[: len(golden["output.pred_logits"])], golden["output.pred_logits"])]
    for name, expected in golden.items():
        if name.startswith("output.pred_logits_all_sub"):
            step = int(name.rpartition("sub")[2])
            checks.append(output_check(name.removeprefix("output."), logits[..., ::step, ::step], expected))
    for name, got in seen.items():
        expected = golden[f"inter.{name}"]
        got = got.permute(0, 4, 1, 2, 3) if got.ndim == 5 else got
        checks.append(output_check(f"inter.{name}", got, expected))
    return checks


def _enlarge(x: Tensor, size: int) -> Tensor:
    factor = size // x.shape[-1]
    return x.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


AVS_CASES = {
    "avs model": (lambda names, config: "output.pred_logits" in names and "vis_dim" in config, check_avs_model),
    "avs decoder parts": (lambda names, config: {"tpavi.x", "ffb.in0", "cm.in"} <= names, check_decoder_parts),
}
