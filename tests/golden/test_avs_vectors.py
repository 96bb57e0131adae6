"""The segmentation decoder, its losses and metrics, and the whole model against vectors of the reference."""

from pathlib import Path

import pytest
import torch

from stgcma.models import avs_decoder, tpavi
from stgcma.parity.avs import check_avs_model, check_decoder_parts
from stgcma.parity.metrics import check_metrics_losses

GOLDEN = Path(__file__).parent
CASES = {
    "swin_avs": (check_avs_model, 11),
    "avs_decoder_parts": (check_decoder_parts, 12),
    "metrics_losses": (check_metrics_losses, 10),
}


def failures(name):
    check, _ = CASES[name]
    return [c.name for c in check(GOLDEN / f"{name}.safetensors", "cpu") if not c.passed]


@pytest.mark.parametrize("name", CASES)
def test_matches_the_reference(name):
    check, count = CASES[name]
    checks = check(GOLDEN / f"{name}.safetensors", "cpu")
    assert len(checks) == count
    assert [c for c in checks if not c.passed] == []


def test_a_skip_that_is_not_rectified_is_noticed(monkeypatch):
    def plain_skip(self, x):
        return self.conv2(torch.relu(self.conv1(torch.relu(x)))) + x

    monkeypatch.setattr(avs_decoder.ResidualUnit, "forward", plain_skip)
    assert {"output.ffb.out1", "output.ffb.out2"} <= set(failures("avs_decoder_parts"))


def test_a_missing_division_by_the_number_of_segments_is_noticed(monkeypatch):
    right = tpavi.TPAVI.mixing_matrix
    monkeypatch.setattr(tpavi.TPAVI, "mixing_matrix", lambda self, maps, audio: right(self, maps, audio) * 5)
    assert "output.tpavi.eval.z" in failures("avs_decoder_parts")
