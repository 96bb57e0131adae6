"""YAML and --set: strict names and types, all problems at once, values as YAML 1.2 reads them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.runs.config import fingerprint
from jobs.runs.configfile import SHIPPED, apply_overrides, dump_run_config, load_run_config, parse_override, parse_yaml
from jobs.tables.ablation import load_ablation
from stgcma.errors import ConfigError
from stgcma.models.adaptations import FullFinetuning, NoAdaptation

RECIPE = """
name: example
task: ave
model: {backbone: clip_vit_b16, pretrained: none, adaptation: {size: tiny}}
data: {dataset: ave}
optim: {epochs: 20, batch_size: 1, learning_rate: 5e-5, mixed_precision: off, average_epochs: [8, 20]}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text(RECIPE)
    return path


def test_yaml_scalars_are_those_of_yaml_1_2(recipe):
    config = load_run_config(recipe)
    assert config.optim.learning_rate == 5e-5  # YAML 1.1 reads 5e-5 as a string
    assert config.optim.mixed_precision == "off"  # and off as false
    assert config.optim.average_epochs == (8, 20)
    assert parse_yaml("[1, 1., .5, -2e+3, 1e3, yes, no, true, null, ~, 2020-01-01]", "here") == [
        1,
        1.0,
        0.5,
        -2000.0,
        1000.0,
        "yes",
        "no",
        True,
        None,
        None,
        "2020-01-01",
    ]


def test_all_problems_at_once_with_dotted_paths(recipe):
    with pytest.raises(ConfigError) as caught:
        load_run_config(
            recipe,
            [
                "model.adaptation.tempral_stage=frozen",
                "optim.batch_size=four",
                "optim.epochs=true",
                "model.adaptation.size=huge",
                "data.augment.erase_probability=2",
                "learning_rate=1",
            ],
        )
    problems = caught.value.problems
    assert len(problems) == 6
    assert "model.adaptation.tempral_stage: no such field; did you mean 'temporal_stage'?" in problems
    assert any(problem.startswith("learning_rate: no such field; fields here: name, task") for problem in problems)
    assert "optim.batch_size: needs a valid integer, got 'four'." in problems
    assert any(problem.startswith("optim.epochs: needs a valid integer, got True") for problem in problems)
    assert "model.adaptation.size: needs 'tiny' or 'base', got 'huge'." in problems
    assert any("data.augment.erase_probability needs a probability in [0, 1], got 2" in problem for problem in problems)


def test_the_method_of_the_adaptation_is_changed_with_what_belongs_to_it(recipe, tmp_path):
    with pytest.raises(
        ConfigError, match=r"has 1 problem\n  model.adaptation: method full does not have size"
    ) as caught:
        load_run_config(recipe, ["model.adaptation.method=full"])
    advice = "model.adaptation={method: full}"
    assert f"--set '{advice}'" in str(caught.value)
    assert load_run_config(recipe, [advice]).model.adaptation == FullFinetuning()
    bare = tmp_path / "bare.yaml"
    bare.write_text(RECIPE.replace(", adaptation: {size: tiny}", ""))
    assert load_run_config(bare, ["model.adaptation.method=none"]).model.adaptation == NoAdaptation()


def test_values_that_contradict_each_other(recipe):
    with pytest.raises(ConfigError, match=r"optim.warmup_epochs: 25.0 exceeds optim.epochs: 20") as caught:
        load_run_config(recipe, ["optim.warmup_epochs=25", "optim.learning_rate=-1"])
    assert "optim.learning_rate needs a positive number" in str(caught.value)
    with pytest.raises(ConfigError, match=r"'clip_vit_b16' does not provide. Set model.backbone to one of: swin_base"):
        load_run_config(recipe, ["task=avs"])
    with pytest.raises(ConfigError, match=r"unknown task 'avee'; choose one of: ave"):
        load_run_config(recipe, ["task=avee"])
    with pytest.raises(ConfigError, match=r"frozen_dtype: bfloat16 needs optim.mixed_precision: bf16"):
        load_run_config(recipe, ["model.frozen_dtype=bfloat16"])
    with pytest.raises(ConfigError, match=r"needs 1 or 1 bottleneck ratios, got 2"):
        load_run_config(recipe, ["model.adaptation.bottleneck_ratios=[0.5, 0.25]"])
    with pytest.raises(ConfigError, match=r"name: 'a/b' cannot name a folder"):
        load_run_config(recipe, ["name=a/b"])


def test_missing_values_are_named(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text("name: x\ntask: ave\nmodel: {backbone: clip_vit_b16}\ndata: {dataset: ave}\n")
    with pytest.raises(ConfigError) as caught:
        load_run_config(path)
    assert "  model.pretrained: needed, but not given." in str(caught.value)
    assert "  optim: needed, but not given." in str(caught.value)


@pytest.mark.parametrize("name", ["ave_clip_l14_base", "ave_clip_l14_base.yaml", "jobs/recipes/ave_clip_l14_base.yaml"])
def test_shipped_recipes_are_found_by_name_in_every_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert load_run_config(name) == load_run_config(SHIPPED / "recipes" / "ave_clip_l14_base.yaml")
    assert load_run_config("demo/clip_vit_demo").model.backbone == "clip_vit_demo"
    (tmp_path / "ave_clip_l14_base").write_text("name: [1, 2\n")
    with pytest.raises(ConfigError, match="ave_clip_l14_base line 2"):
        load_run_config("ave_clip_l14_base")


def test_files_that_are_no_recipe(tmp_path, recipe):
    with pytest.raises(ConfigError, match=r"exampel.yaml does not exist. Did you mean .*/example.yaml\?"):
        load_run_config(tmp_path / "exampel.yaml")
    with pytest.raises(ConfigError, match=r"ave_clip_l14_bas does not exist. Did you mean ave_clip_l14_base"):
        load_run_config("ave_clip_l14_bas")
    with pytest.raises(ConfigError, match=r"quite_different.yaml does not exist. .* contains: example.yaml"):
        load_run_config(tmp_path / "quite_different.yaml")
    with pytest.raises(ConfigError, match=r"is an ablation, not a recipe. Run: stgcma-jobs sweep"):
        load_run_config(SHIPPED / "ablations" / "table5.yaml")
    with pytest.raises(ConfigError, match=r"is a recipe, not an ablation. Run: stgcma-jobs train"):
        load_ablation(SHIPPED / "recipes" / "ave_clip_l14_base.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [1, 2\n")
    with pytest.raises(ConfigError, match=r"broken.yaml line 2, column 1"):
        load_run_config(broken)
    broken.write_text("name: a\ntask: ave\nname: b\n")
    with pytest.raises(ConfigError, match=r"line 3, column 1: the key 'name' appears twice"):
        load_run_config(broken)
    broken.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="needs a mapping of settings, got list"):
        load_run_config(broken)
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as UTF-8 text"):
        load_run_config(broken)
    broken.write_text("name: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load_run_config(broken)


def test_overrides_change_a_copy(recipe):
    mapping = {"optim": {"epochs": 2}, "model": None}
    changed = apply_overrides(mapping, {"optim.epochs": 3, "model.backbone": "swin_base", "name": "n"}, "test")
    assert changed == {"optim": {"epochs": 3}, "model": {"backbone": "swin_base"}, "name": "n"}
    assert mapping == {"optim": {"epochs": 2}, "model": None}
    with pytest.raises(ConfigError, match=r"optim.epochs is 2 and has no fields"):
        apply_overrides(mapping, {"optim.epochs.first": 3}, "test")


@pytest.mark.parametrize(
    ("text", "value"),
    [("a.b=3", 3), ("a.b=[1, 2]", [1, 2]), ("a.b=null", None), ("a.b=", None), ("a.b=x=y", "x=y"), ("a.b=2e-6", 2e-6)],
)
def test_override_values_are_yaml(text, value):
    assert parse_override(text) == ("a.b", value)


@pytest.mark.parametrize("text", ["a.b", "=3", "a..b=3", "a b=3"])
def test_override_without_a_key(text):
    with pytest.raises(ConfigError, match="--set needs KEY=VALUE"):
        parse_override(text)


def test_dump_reads_back_equal(recipe, tmp_path):
    for change in ("model.adaptation.bottleneck_ratios=[0.5]", "model.adaptation={method: none, branches: audio}"):
        config = load_run_config(recipe, [change, "optim.max_minutes=3"])
        copy = tmp_path / "copy.yaml"
        copy.write_text(dump_run_config(config))
        assert load_run_config(copy) == config


def test_fingerprint_names_what_changes_weights(recipe):
    config = load_run_config(recipe)
    elsewhere = replace(config, name="other", data=replace(config.data, shards="s3://x", loader_workers=4))
    assert fingerprint(elsewhere) == fingerprint(config)
    assert config.run_name == f"example-{fingerprint(config)}"
    for change in ("optim.seed=1", "optim.epochs=21", "model.adaptation.fusion=none", "data.normalization=published"):
        assert fingerprint(load_run_config(recipe, [change])) != fingerprint(config), change
    # 2 in a file is 2.0 in a float field, and the default is written as 2
    assert fingerprint(load_run_config(recipe, ["optim.warmup_epochs=2"])) == fingerprint(config)
