"""The registry of backbones; only the file of a family knows the family."""

import inspect
import re
from pathlib import Path

import pytest
import torch

from stgcma.config import ModelConfig
from stgcma.errors import CheckpointError, ConfigError
from stgcma.models.adaptations import NoAdaptation
from stgcma.models.backbones import FAMILIES, backbone_spec, backbone_specs, build_backbone
from stgcma.models.backbones.weights import load_pretrained
from tests.paths import ROOT


def config_of(name):
    return ModelConfig(backbone=name, pretrained="none", adaptation=NoAdaptation())


def test_no_other_file_tests_for_a_family():
    """Differences between families belong in methods and class variables of ``Backbone``."""
    classes = "|".join(family.__name__ for family in FAMILIES.values())
    question = re.compile(rf"\.family\s*(==|!=|(not )?in\b)|(isinstance|issubclass)\([^)]*\b({classes})\b")
    own = {Path(inspect.getfile(family)) for family in FAMILIES.values()}
    sources = [path for folder in ("stgcma", "pipelines", "jobs") for path in (ROOT / folder).rglob("*.py")]
    asking = [path for path in sources if path not in own and question.search(path.read_text(encoding="utf-8"))]
    assert asking == []
    assert question.search("if encoder.spec.family != 'swin':")
    assert question.search("isinstance(model.backbone, (str, SwinBackbone))")


def test_every_spec_names_the_family_that_lists_it():
    for name, family in FAMILIES.items():
        assert {spec.family for spec in family.specs} == {name}
    assert len(backbone_specs()) == sum(len(family.specs) for family in FAMILIES.values())


def test_a_family_is_found_after_it_was_registered(monkeypatch):
    family = FAMILIES["swin"]
    monkeypatch.delitem(FAMILIES, "swin")
    with pytest.raises(ConfigError, match="Unknown backbone 'swin_base'; choose one of: clip_vit_b16"):
        backbone_spec("swin_base")
    monkeypatch.setitem(FAMILIES, "swin", family)
    assert backbone_spec("swin_base").family == "swin"


def test_backbones_have_the_capabilities_that_they_declare():
    for name in ("clip_vit_demo", "swin_demo"):
        backbone = build_backbone(backbone_spec(name), config_of(name))
        if "plain_visual" in backbone.provides:
            assert backbone.plain_visual(torch.zeros(2, 3, 48, 48)).shape == (2, 3, 3, 96)
        else:
            with pytest.raises(ConfigError, match=f"'{name}' does not provide plain_visual"):
                backbone.plain_visual(torch.zeros(2, 3, 48, 48))


@pytest.mark.parametrize(
    ("backbone", "pretrained", "message"),
    [
        ("clip_vit_b16", "imagenet", "no pretrained tag 'imagenet'; open_clip knows: .*openai"),
        ("swin_large", "nope", "timm has no weights .*ms_in22k"),
        ("clip_vit_b16", "builtin", "No weights are included for backbone 'clip_vit_b16'"),
        ("clip_vit_b16", "missing.safetensors", "missing.safetensors does not exist"),
        ("swin_demo", "ms_in22k", "'swin_demo' has no pretrained tag 'ms_in22k'. Use builtin, none or a file"),
    ],
)
def test_errors_for_unknown_weights_say_what_there_is(backbone, pretrained, message):
    with torch.device("meta"):
        built = build_backbone(backbone_spec(backbone), config_of(backbone))
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(built, pretrained)
