"""Small CLIP and Swin geometries that cover all cases: shifted windows, clamped windows, class tokens."""

import torch

from stgcma.config import ModelConfig
from stgcma.models.adaptations import STGCMA
from stgcma.models.backbones.clip_vit import CLIPSpec
from stgcma.models.backbones.swin import SwinSpec
from stgcma.models.encoder import build_encoder

S = 3
CLIP = CLIPSpec(
    name="tiny_clip",
    image_size=32,
    patch_size=16,
    width=32,
    depths=(2,),
    num_heads=(4,),
    audio_size=(40, 64),
    fbank="clip",
)
SWIN = SwinSpec(
    name="tiny_swin",
    image_size=32,
    patch_size=4,
    width=8,
    depths=(2, 2),
    num_heads=(1, 2),
    window_size=4,
    audio_size=(32, 32),
    fbank="swin",
)
SPECS = {"clip": CLIP, "swin": SWIN}


def model_config(**fields) -> ModelConfig:
    model_fields = {k: fields.pop(k) for k in list(fields) if k in ModelConfig.__dataclass_fields__}
    if "adaptation" not in model_fields:
        model_fields["adaptation"] = STGCMA(**{"size": None, "bottleneck_ratios": (0.25,), **fields})
    return ModelConfig(backbone="tiny", pretrained="none", **model_fields)


def encoder(family: str, *, random_adapters: bool = False, seed: int = 0, **fields):
    torch.manual_seed(seed)
    built = build_encoder(model_config(**fields), num_segments=S, spec=SPECS[family])
    if random_adapters:
        for name, parameter in built.named_parameters():
            if not name.startswith("backbone."):
                torch.nn.init.normal_(parameter, std=0.2)
    return built.eval()


def inputs(family: str, batch: int = 2):
    spec = SPECS[family]
    generator = torch.Generator().manual_seed(7)
    return {
        "visual": torch.randn(batch, S, 3, spec.image_size, spec.image_size, generator=generator),
        "audio": torch.randn(batch, S, *spec.audio_size, generator=generator),
    }
