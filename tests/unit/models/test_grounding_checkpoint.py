"""Grounding layers are read under the names of other projects, and other files are rejected."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from stgcma.config import AnswerHeadConfig
from stgcma.errors import CheckpointError
from stgcma.models.grounding import Grounding
from stgcma.models.grounding_checkpoint import load_grounding
from stgcma.models.reference.avqa import GROUNDING_NAMES

CONFIG = AnswerHeadConfig(dim=8, released_audio_dim=4, match_dims=(8, 6, 4))


def grounding(variant, seed=0):
    torch.manual_seed(seed)
    return Grounding(12, variant, CONFIG)


def foreign_state(source, prefix):
    """A state dict as MUSIC-AVQA writes it: its own names, and ResNet layers that are not used."""
    own = source.state_dict()
    state = {
        f"{prefix}{theirs}.{kind}": own[f"{ours}.{kind}"]
        for theirs, ours in GROUNDING_NAMES.items()
        for kind in ("weight", "bias")
        if f"{ours}.{kind}" in own
    }
    return {**state, f"{prefix}visual_net.conv1.weight": torch.zeros(3)}


@pytest.mark.parametrize("prefix", ["module.", "", "avqatask_"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_known_names_are_loaded_with_any_prefix(tmp_path, prefix, suffix):
    source, target = grounding("b_released", 1), grounding("b_released", 2)
    file = tmp_path / f"main_grounding_gen_best{suffix}"
    state = {name: value.contiguous() for name, value in foreign_state(source, prefix).items()}
    torch.save(state, file) if suffix == ".pt" else save_file(state, file)
    before = target.visual_projection.weight.clone()
    loaded = load_grounding(target, file)
    assert len(loaded) == 14
    for name in loaded:
        assert torch.equal(target.state_dict()[name], source.state_dict()[name]), name
    assert torch.equal(target.visual_projection.weight, before)
    assert all(parameter.requires_grad for parameter in target.parameters())


def test_a_variant_without_the_expansion_skips_it(tmp_path):
    torch.save(foreign_state(grounding("b_released", 1), "module."), tmp_path / "g.pt")
    loaded = load_grounding(grounding("b_lavish"), tmp_path / "g.pt")
    assert len(loaded) == 12
    assert not any("audio_expansion" in name for name in loaded)


def test_our_own_files_also_hold_the_projections(tmp_path):
    source, target = grounding("b_lavish", 1), grounding("b_lavish", 2)
    save_file(source.state_dict(), tmp_path / "grounding.safetensors")
    assert load_grounding(target, tmp_path / "grounding.safetensors") == sorted(source.state_dict())
    assert torch.equal(target.visual_projection.weight, source.visual_projection.weight)


class Payload:
    def __reduce__(self):
        return (print, ("executed",))


def test_bad_files_are_rejected_and_their_code_is_not_run(tmp_path, capsys):
    target = grounding("l")
    with pytest.raises(CheckpointError, match="pretrain-grounding"):
        load_grounding(target, tmp_path / "none.pt")
    torch.save(foreign_state(grounding("b_released"), ""), tmp_path / "width.pt")
    with pytest.raises(CheckpointError, match=r"combine.weight \[8, 16\] \(needs \[12, 24\]\)"):
        load_grounding(target, tmp_path / "width.pt")
    torch.save({"other.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"holds no grounding layer. Known names are fc_a1"):
        load_grounding(target, tmp_path / "other.pt")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Payload()))
    (tmp_path / "noise.safetensors").write_bytes(b"not weights at all")
    for name, problem in (("evil.pt", "cannot be read as weights"), ("noise.safetensors", "is not a complete")):
        with pytest.raises(CheckpointError, match=problem):
            load_grounding(target, tmp_path / name)
    assert capsys.readouterr().out == ""
