"""Backbones and adapter sizes as plain numbers; no torch here, so commands can check names at once.

A bottleneck ratio is ``hidden_dim / width``. Where the paper's Table 1 and its published counts disagree, the value
that reproduces the count is the preset and the other is listed in ``TABLE1_RATIOS`` (method section 1.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stgcma.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """Geometry of one image transformer and where its weights come from."""

    name: str
    family: Literal["clip", "swin"]
    library_name: str
    """open_clip or timm model name; empty for geometries of our own."""
    image_size: int
    patch_size: int
    width: int
    """Token width of the first block."""
    depths: tuple[int, ...]
    """Blocks per stage; one stage for CLIP."""
    num_heads: tuple[int, ...]
    """Attention heads per stage."""
    window_size: int = 0
    """Swin only."""
    audio_size: tuple[int, int]
    """Time frames and mel bins of one fbank segment."""
    default_tag: str = ""
    """Pretrained tag used by the recipes."""
    quick_gelu: bool = False
    """CLIP only: OpenAI's weights need ``x * sigmoid(1.702 x)``."""
    fbanks: tuple[tuple[str, str], ...] = ()
    """(how sound is cut into segments, name in ``FBANK_SPECS``) pairs. A cut is called after the task that it was
    published for; ``TaskSpec.fbank`` names the cut of a task."""

    @property
    def num_blocks(self) -> int:
        return sum(self.depths)

    @property
    def output_dim(self) -> int:
        """Width of the features the heads see."""
        return self.width * 2 ** (len(self.depths) - 1)

    def fbank_for(self, cut: str) -> str:
        """Name of the filter bank this backbone reads for a cut of the sound (``TaskSpec.fbank``).

        Raises:
            ConfigError: If it has none.
        """
        names = dict(self.fbanks)
        if cut not in names:
            fitting = [name for name, spec in BACKBONES.items() if cut in dict(spec.fbanks)]
            raise ConfigError(
                f"Backbone {self.name!r} has no filter bank for sound cut as in {cut!r}. "
                f"Set model.backbone to one of: {', '.join(fitting)}."
            )
        return names[cut]


def _clip(name: str, library_name: str, **numbers) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        family="clip",
        library_name=library_name,
        image_size=224,
        audio_size=(102, 128),
        default_tag="openai",
        quick_gelu=True,
        fbanks=(("ave", "clip"),),
        **numbers,
    )


def _swin(name: str, library_name: str, **numbers) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        family="swin",
        library_name=library_name,
        image_size=224,
        patch_size=4,
        depths=(2, 2, 18, 2),
        window_size=7,
        audio_size=(224, 224),
        default_tag="ms_in22k",
        fbanks=(("ave", "swin"), ("avs", "swin_avs"), ("avqa", "swin_avqa")),
        **numbers,
    )


BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        _clip("clip_vit_b16", "ViT-B-16-quickgelu", patch_size=16, width=768, depths=(12,), num_heads=(12,)),
        _clip("clip_vit_l14", "ViT-L-14-quickgelu", patch_size=14, width=1024, depths=(24,), num_heads=(16,)),
        _swin("swin_base", "swin_base_patch4_window7_224", width=128, num_heads=(4, 8, 16, 32)),
        _swin("swin_large", "swin_large_patch4_window7_224", width=192, num_heads=(6, 12, 24, 48)),
        BackboneSpec(
            name="clip_vit_demo",
            family="clip",
            library_name="",
            image_size=48,
            patch_size=16,
            width=64,
            depths=(4,),
            num_heads=(4,),
            audio_size=(48, 48),
            default_tag="builtin",
            quick_gelu=True,
            fbanks=(("ave", "demo"),),
        ),
        BackboneSpec(
            name="swin_demo",
            family="swin",
            library_name="",
            image_size=48,
            patch_size=4,
            width=24,
            depths=(2, 2, 2),
            num_heads=(2, 4, 8),
            window_size=6,
            audio_size=(48, 48),
            default_tag="builtin",
            fbanks=(("avs", "demo"), ("avqa", "demo")),
        ),
    )
}

RATIOS: dict[tuple[str, str], tuple[float, ...]] = {
    ("clip_vit_b16", "tiny"): (1 / 32,),
    ("clip_vit_b16", "base"): (1 / 8,),
    ("clip_vit_l14", "tiny"): (1 / 32,),
    ("clip_vit_l14", "base"): (1 / 16,),
    ("swin_base", "tiny"): (1 / 8, 1 / 8, 1 / 16, 1 / 16),
    ("swin_base", "base"): (1 / 4, 1 / 4, 1 / 8, 1 / 8),
    ("swin_large", "tiny"): (1 / 8, 1 / 8, 1 / 16, 1 / 16),
    ("swin_large", "base"): (1 / 2, 1 / 4, 1 / 8, 1 / 16),
    ("clip_vit_demo", "tiny"): (1 / 8,),
    ("clip_vit_demo", "base"): (1 / 4,),
    ("swin_demo", "tiny"): (1 / 8,),
    ("swin_demo", "base"): (1 / 4,),
}
"""(backbone, size) -> ratio per stage, reproducing the published counts of Tables 2-5 and 7."""

TABLE1_RATIOS: dict[str, tuple[float, ...]] = {
    "clip_vit_b16": (1 / 16,),
    "swin_base": (1 / 2, 1 / 4, 1 / 8, 1 / 16),
}
"""What Table 1 prints for Base where it does not reproduce the published count."""


def backbone_spec(name: str) -> BackboneSpec:
    """The spec of a backbone name; unknown names list the valid ones."""
    if name not in BACKBONES:
        raise ConfigError(f"Unknown backbone {name!r}; choose one of: {', '.join(BACKBONES)}.")
    return BACKBONES[name]


def bottleneck_ratios(spec: BackboneSpec, size: str | None, ratios: tuple[float, ...] | None) -> tuple[float, ...]:
    """Ratio per stage of a backbone from a preset or free values.

    Raises:
        ConfigError: If the number of free ratios differs from the number of stages, or no preset exists.
    """
    if ratios is None:
        if (spec.name, size) not in RATIOS:
            known = ", ".join(f"{b} {s}" for b, s in RATIOS)
            raise ConfigError(
                f"No size preset {size!r} for backbone {spec.name!r} (known: {known}); set bottleneck_ratios."
            )
        ratios = RATIOS[(spec.name, size)]  # type: ignore[index]
    if len(ratios) == 1:
        ratios = tuple(ratios) * len(spec.depths)
    if len(ratios) != len(spec.depths):
        raise ConfigError(
            f"Backbone {spec.name!r} has {len(spec.depths)} stages and needs 1 or {len(spec.depths)} bottleneck "
            f"ratios, got {len(ratios)}: {list(ratios)}."
        )
    return tuple(ratios)
