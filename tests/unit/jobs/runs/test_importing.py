"""Checkpoints of the reference implementation become runs: its golden weights give its golden logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from jobs.cli import main
from jobs.runs.config import RunConfig
from jobs.runs.folder import FACTS, RunFolder
from jobs.runs.importing import import_checkpoint
from stgcma.config import DataConfig, OptimConfig
from stgcma.data.batch import AVBatch
from stgcma.errors import CheckpointError, ConfigError
from stgcma.models.adaptations import STGCMA
from stgcma.models.backbones import FAMILIES
from stgcma.parity.compare import relative_l2
from stgcma.parity.encoder import model_config_from_reference, read_golden, spec_from_reference
from stgcma.tasks import TASKS
from stgcma.training.trained_model import load
from tests.paths import GOLDEN

pytestmark = pytest.mark.slow


class Reference:
    """One golden file as its authors would have it: a checkpoint, and the logits it gives."""

    def __init__(self, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.golden, config = read_golden(GOLDEN / f"{name}.safetensors")
        spec = replace(spec_from_reference(config, tuple(self.golden["input.a"].shape[2:])), fbank="demo")
        family = FAMILIES[spec.family]
        monkeypatch.setattr(family, "specs", (*family.specs, spec))
        segments = config.get("num_video_frames", config.get("num_frames"))
        monkeypatch.setitem(TASKS, "ave", replace(TASKS["ave"], num_segments=segments))
        self.weights = {
            f"module.{key.removeprefix('param.')}": value
            for key, value in self.golden.items()
            if key.startswith("param.")
        }
        self.file = folder / "checkpoint.pth"
        torch.save(self.weights, self.file)
        self.config = RunConfig(
            name="theirs",
            task="ave",
            model=model_config_from_reference(config, "fusion"),
            data=DataConfig(dataset="ave"),
            optim=OptimConfig(epochs=2, batch_size=1, learning_rate=1e-4),
        )

    def logits_of(self, run: str) -> torch.Tensor:
        visual = self.golden["input.v"]
        batch = AVBatch(
            clip_ids=tuple(str(index) for index in range(len(visual))),
            frames=visual.transpose(1, 2).contiguous(),
            fbank=self.golden["input.a"],
        )
        with torch.no_grad():
            return load(run).model(batch)["logits"].flatten(0, 1)


@pytest.fixture(params=["clip_ave_fusion", "swin_ave_fusion"])
def reference(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reference:
    return Reference(request.param, tmp_path, monkeypatch)


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reference:
    return Reference("clip_ave_fusion", tmp_path, monkeypatch)


def test_the_golden_weights_give_the_golden_logits(reference: Reference, tmp_path: Path):
    done = import_checkpoint(reference.config, reference.file, output=str(tmp_path / "runs"))
    assert relative_l2(reference.logits_of(done.run), reference.golden["output.logits"]) < 1e-5
    assert Path(done.backbone).parent == tmp_path / "runs" / "backbones"
    assert RunFolder(done.run).read_json(FACTS)["parameters"]["trainable"] == done.trainable
    assert load(done.run).info.protocol == "paper"


def test_a_second_checkpoint_uses_the_backbone_file_of_the_first(reference: Reference, tmp_path: Path):
    first = import_checkpoint(reference.config, reference.file, output=str(tmp_path / "runs"))
    model = replace(reference.config.model, pretrained=first.backbone)
    config = replace(reference.config, name="again", model=model)
    second = import_checkpoint(config, reference.file, output=str(tmp_path / "runs"))
    assert torch.equal(reference.logits_of(second.run), reference.logits_of(first.run))
    assert len(list((tmp_path / "runs" / "backbones").iterdir())) == 1


def test_another_backbone_is_refused(clip: Reference, tmp_path: Path):
    first = import_checkpoint(clip.config, clip.file, output=str(tmp_path / "runs"))
    changed = {**clip.weights, "module.class_embedding": clip.weights["module.class_embedding"] + 0.1}
    save_file(changed, tmp_path / "changed.safetensors")
    config = replace(clip.config, name="x", model=replace(clip.config.model, pretrained=first.backbone))
    with pytest.raises(CheckpointError, match=r"1 tensors differ, e.g. \['encoder.backbone.visual.class_embedding'\]"):
        import_checkpoint(config, tmp_path / "changed.safetensors", output=str(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module.mlp_head.2.bias": None}, r"1 trained tensors missing \['head.layers.3.bias'\]"),
        ({"module.mlp_head.2.bias": torch.zeros(7)}, r"1 of another shape \['head.layers.3.bias: file \[7\]"),
        ({"module.class_embedding": None}, r"does not hold the whole frozen backbone \(1 tensors missing"),
        ({"module.who.knows": torch.zeros(1)}, "'who.knows' is not a parameter name"),
    ],
)
def test_what_is_refused(clip: Reference, tmp_path: Path, change: dict[str, torch.Tensor | None], message: str):
    weights = {name: value for name, value in {**clip.weights, **change}.items() if value is not None}
    torch.save(weights, clip.file)
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(clip.config, clip.file, output=str(tmp_path / "runs"))
    assert not list((tmp_path / "runs").glob("theirs-*"))


def test_another_recipe_is_refused(clip: Reference, tmp_path: Path):
    adaptation = clip.config.model.adaptation
    assert isinstance(adaptation, STGCMA)
    model = replace(clip.config.model, adaptation=replace(adaptation, temporal_stage="absent"))
    with pytest.raises(CheckpointError, match=r"is not a checkpoint of this recipe: .* that the model does not have"):
        import_checkpoint(replace(clip.config, model=model), clip.file, output=str(tmp_path))


def test_a_run_is_not_overwritten(clip: Reference, tmp_path: Path):
    import_checkpoint(clip.config, clip.file, output=str(tmp_path))
    with pytest.raises(ConfigError, match=r"exists. Give the run another name with --set name="):
        import_checkpoint(clip.config, clip.file, output=str(tmp_path))


def test_the_command_says_what_comes_next(clip: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from jobs.runs.configfile import dump_run_config

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_run_config(clip.config))
    with pytest.raises(SystemExit) as end:
        main(["import", str(clip.file), "--recipe", str(recipe), "--output", str(tmp_path / "runs")])
    assert not end.value.code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"Next: stgcma-jobs evaluate {lines[-2].removeprefix('Run folder: ')} --shards ROOT"
