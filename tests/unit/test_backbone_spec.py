"""Specs: filter bank per cut of the sound, adapter sizes, widths."""

from dataclasses import replace

import pytest

from stgcma.backbone_spec import BackboneSpec, bottleneck_ratios
from stgcma.errors import ConfigError

SPEC = BackboneSpec(
    name="spec",
    family="none",
    image_size=32,
    patch_size=4,
    width=8,
    depths=(2, 2, 2),
    num_heads=(1, 2, 4),
    audio_size=(32, 32),
    fbank="swin",
    fbanks={"avs": "swin_avs"},
    sizes={"tiny": (1 / 8,), "base": (1 / 2, 1 / 4, 1 / 8)},
)


def test_a_cut_that_is_not_listed_reads_the_default_fbank():
    assert [SPEC.fbank_for(cut) for cut in ("avs", "ave", "another")] == ["swin_avs", "swin", "swin"]
    with pytest.raises(ConfigError, match="'spec' names no filter bank for the cut 'ave'"):
        replace(SPEC, fbank="").fbank_for("ave")


def test_widths_double_per_stage():
    assert SPEC.stage_widths == (8, 16, 32)
    assert SPEC.output_dim == 32


def test_ratios_come_from_the_size_or_are_free():
    assert bottleneck_ratios(SPEC, "tiny", None) == (1 / 8, 1 / 8, 1 / 8)
    assert bottleneck_ratios(SPEC, "base", None) == (1 / 2, 1 / 4, 1 / 8)
    assert bottleneck_ratios(SPEC, "base", (0.3,)) == (0.3, 0.3, 0.3)
    with pytest.raises(ConfigError, match=r"'spec' has 3 stages and needs 1 or 3 bottleneck ratios, got 2"):
        bottleneck_ratios(SPEC, None, (0.5, 0.25))
    with pytest.raises(ConfigError, match=r"no size 'huge' \(known: tiny, base\); set bottleneck_ratios"):
        bottleneck_ratios(SPEC, "huge", None)
    with pytest.raises(ConfigError, match=r"no size 'base' \(known: none\)"):
        bottleneck_ratios(replace(SPEC, sizes={}), "base", None)
