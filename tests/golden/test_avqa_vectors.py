"""The question-answering model against the reference: all three variants, outputs, losses and gradients."""

from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stgcma.parity.avqa import AVQA_CASES, check_avqa_file

GOLDEN = Path(__file__).parent


@pytest.mark.parametrize("variant", ["b_lavish", "b_released", "l"])
def test_variant_matches_the_reference(variant):
    checks = check_avqa_file(GOLDEN / f"swin_avqa_{variant}.safetensors", "cpu")
    assert [check for check in checks if not check.passed] == []
    names = {check.name for check in checks}
    assert {"output.qa", "output.match_interleaved", "output.loss.total", "output.inter.norm_vneg"} <= names
    assert (
        sum(name.startswith("gradient.avqatask_") for name in names)
        == {"b_lavish": 47, "b_released": 49, "l": 43}[variant]
    )
    assert ("gates.all" in names) == (variant != "b_lavish")


def test_a_wrong_weight_is_noticed(tmp_path):
    source = GOLDEN / "swin_avqa_b_lavish.safetensors"
    tensors = load_file(source)
    tensors["param.avqatask_fc_gl.weight"] = tensors["param.avqatask_fc_gl.weight"] * 1.001
    with safe_open(source, "pt") as handle:
        save_file(tensors, tmp_path / source.name, metadata=handle.metadata())
    failed = {check.name for check in check_avqa_file(tmp_path / source.name, "cpu") if not check.passed}
    assert "output.inter.fc_gl_posi" in failed
    assert "output.inter.audio_feat" not in failed


def test_files_are_recognised_by_their_content():
    recognise, _ = AVQA_CASES["avqa"]
    assert recognise({"input.question"}, {"variant": "l"})
    assert not recognise({"input.v"}, {"ftmode": "fusion"})
