"""Facts about a backbone that are known before it is built: geometry, input statistics, adapter sizes.

This file does not import torch. The specs are listed in the file of their family (``stgcma/models/backbones``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stgcma.errors import ConfigError

RGB = tuple[float, float, float]
"""One value per colour channel."""

IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """Geometry of one image transformer, the inputs it reads, and the source of its weights."""

    name: str
    family: str
    """Key in ``stgcma.models.backbones.FAMILIES``."""
    library_name: str = ""
    """Name of the model in the library that publishes the weights; empty for geometries of this project."""
    image_size: int
    patch_size: int
    width: int
    """Token width of the first block."""
    depths: tuple[int, ...]
    """Blocks per stage."""
    num_heads: tuple[int, ...]
    """Attention heads per stage."""
    audio_size: tuple[int, int]
    """Time frames and mel bins of one fbank segment."""
    image_mean: RGB = IMAGENET_MEAN
    image_std: RGB = IMAGENET_STD
    """Mean and standard deviation of the colour channels, with pixels in [0, 1]. The reference uses ImageNet's for CLIP
    too (method section 6.2)."""
    default_tag: str = ""
    """Pretrained tag that the recipes use."""
    fbank: str = ""
    """Default filter bank, a name in ``stgcma.data.fbank.FBANK_SPECS``. It is read for every cut of the sound that is
    not in ``fbanks``. Empty if the backbone reads no shards."""
    fbanks: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Cut of the sound into segments -> filter bank, where it is not the default. A cut has the name of the task that
    it was published for; ``TaskSpec.fbank`` names the cut that a task uses."""
    sizes: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    """Adapter size (``tiny``, ``base``) -> bottleneck ratio ``hidden_dim / width``: one for all stages, or one each."""

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Token width of every stage. It doubles at every stage after the first."""
        return tuple(self.width * 2**stage for stage in range(len(self.depths)))

    @property
    def output_dim(self) -> int:
        """Width of the features that the heads read."""
        return self.stage_widths[-1]

    def fbank_for(self, cut: str) -> str:
        """Name of the filter bank that this backbone reads for a cut of the sound (``TaskSpec.fbank``).

        Raises:
            ConfigError: If the spec names no filter bank for this cut.
        """
        name = self.fbanks.get(cut, self.fbank)
        if not name:
            raise ConfigError(
                f"The spec of backbone {self.name!r} names no filter bank for the cut {cut!r}. Set its fbank or fbanks."
            )
        return name


def bottleneck_ratios(spec: BackboneSpec, size: str | None, ratios: tuple[float, ...] | None) -> tuple[float, ...]:
    """Bottleneck ratio per stage, from a named size or from explicit values (method section 1.3).

    Args:
        spec: Backbone.
        size: A key of ``spec.sizes``; read when ``ratios`` is None.
        ratios: One value for all stages, or one per stage.

    Returns:
        ``hidden_dim / width``, one value per stage.

    Raises:
        ConfigError: If the spec has no such size, or the number of ratios is neither 1 nor the number of stages.
    """
    if ratios is None:
        if size is None or size not in spec.sizes:
            known = ", ".join(spec.sizes) or "none"
            raise ConfigError(f"Backbone {spec.name!r} has no size {size!r} (known: {known}); set bottleneck_ratios.")
        ratios = spec.sizes[size]
    num_stages = len(spec.depths)
    if len(ratios) == 1:
        ratios = tuple(ratios) * num_stages
    if len(ratios) != num_stages:
        raise ConfigError(
            f"Backbone {spec.name!r} has {num_stages} stages and needs 1 or {num_stages} bottleneck "
            f"ratios, got {len(ratios)}: {list(ratios)}."
        )
    return tuple(ratios)
