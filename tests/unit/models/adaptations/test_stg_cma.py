"""Settings of STG-CMA: contradictions are rejected, and ratios fit the backbone."""

from __future__ import annotations

import pytest

from stgcma.errors import ConfigError
from stgcma.models.adaptations import STGCMA
from stgcma.models.backbones import backbone_spec


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": None}, "needs size .tiny or base. or bottleneck_ratios, got neither"),
        ({"bottleneck_ratios": (0.5, 0.0)}, r"needs numbers in \(0, 4\] .* got \[0.5, 0.0\]"),
        ({"bottleneck_ratios": ()}, r"needs numbers in \(0, 4\] .* got \[\]"),
        (
            {"branches": "audio", "adapted_branches": "visual"},
            "only the audio branch runs. Set adapted",
        ),
        (
            {"temporal_stage": "absent", "spatial_stage": "absent", "global_stage": "absent"},
            r"is the plain backbone. Set model.adaptation: \{method: none\}",
        ),
    ],
)
def test_contradictions_are_rejected(fields, message):
    with pytest.raises(ConfigError, match=message):
        STGCMA(**fields)


def test_ratios_fit_the_stages_of_the_backbone():
    assert STGCMA().ratios(backbone_spec("swin_large")) == (1 / 2, 1 / 4, 1 / 8, 1 / 16)
    assert STGCMA(bottleneck_ratios=(0.5,)).ratios(backbone_spec("swin_large")) == (0.5,) * 4
    with pytest.raises(ConfigError, match="needs 1 or 4 bottleneck ratios, got 2"):
        STGCMA(bottleneck_ratios=(0.5, 0.25)).check(backbone_spec("swin_large"))
