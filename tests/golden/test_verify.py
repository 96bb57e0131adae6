"""``stgcma-jobs verify`` passes on every golden file and fails on changed ones."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from jobs.commands.inspection import verify
from stgcma.errors import ParityError
from stgcma.parity.verify import verify_file

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent
FILES = sorted([*GOLDEN.glob("*.safetensors"), GOLDEN / "scalars.json"])
SKIPPED = {"swin_ave_audioonly.safetensors", "swin_ave_videoonly.safetensors"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_golden_file(file):
    report = verify_file(file)
    assert report.passed, report.failures() or report.error
    assert bool(report.skipped) == (file.name in SKIPPED)


def copy_with(file: Path, target: Path, change) -> Path:
    tensors = load_file(file)
    change(tensors)
    with safe_open(file, "pt") as handle:
        save_file({k: v.contiguous() for k, v in tensors.items()}, target, handle.metadata())
    return target


def swap_gates(tensors):
    for name in [n for n in tensors if n.startswith("param.") and n.endswith("gate_v")]:
        other = name.replace("gate_v", "gate_a")
        tensors[name], tensors[other] = tensors[other], tensors[name]


def share_temporal_table(tensors):
    for name in [n for n in tensors if n.startswith("param.") and n.endswith("temporal_position_bias_table_audio")]:
        tensors[name] = tensors[name.removesuffix("_audio")].clone()


def scale_one_gradient(tensors):
    tensors["grad.mlp_head.2.weight"] = tensors["grad.mlp_head.2.weight"] * 1.001


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("clip_ave_fusion", swap_gates),
        ("swin_ave_fusion", share_temporal_table),
        ("clip_ave_fusion", scale_one_gradient),
    ],
)
def test_a_wrong_number_is_found(tmp_path, name, change):
    report = verify_file(copy_with(GOLDEN / f"{name}.safetensors", tmp_path / f"{name}.safetensors", change))
    assert not report.passed
    assert report.line().startswith("FAIL")
    assert report.failures()


def test_file_without_weights_needs_its_sibling(tmp_path):
    alone = tmp_path / "clip_ave_multimodal.safetensors"
    alone.write_bytes((GOLDEN / alone.name).read_bytes())
    assert "Put that file beside it" in verify_file(alone).error


def test_missing_damaged_and_unknown_files_are_failures_with_a_reason(tmp_path):
    assert "does not exist" in verify_file(tmp_path / "none.safetensors").error
    (tmp_path / "bad.safetensors").write_bytes(b"zzz")
    assert "is not a golden file. Give a .safetensors or .json file" in verify_file(tmp_path / "bad.safetensors").error
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    assert "matches no known case" in verify_file(tmp_path / "other.json").error


def test_command_reports_every_file_and_raises(tmp_path, capsys):
    good = GOLDEN / "clip_audio_embed_derivation.safetensors"
    with pytest.raises(ParityError, match="1 of 3 checks failed"):
        verify([tmp_path / "none.safetensors", good], "cpu", False)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines] == ["ok  ", "FAIL", "ok  "]
    verify([good], "cpu", True)
    assert [report["passed"] for report in json.loads(capsys.readouterr().out)] == [True, True]
