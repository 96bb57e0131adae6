"""Ablation files: their rows and trials, the messages for invalid files, and the six tables of the paper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.tables.ablation import (
    PARAMETER_KEYS,
    ablation_from_mapping,
    ablation_to_mapping,
    load_ablation,
    published_methods,
)
from stgcma.config import ModelConfig
from stgcma.errors import ConfigError
from stgcma.tasks import TASKS
from tests.paths import GOLDEN, ROOT

ABLATIONS = ROOT / "jobs" / "ablations"
TABLES = ("table2", "table3", "table4", "table5", "table6", "table7")
RECIPE = """
name: base
task: ave
model: {backbone: clip_vit_demo, pretrained: none}
data: {dataset: ave}
optim: {epochs: 2, batch_size: 2, learning_rate: 1e-3, warmup_epochs: 1}
"""
GOOD = """
name: small
base: base.yaml
seeds: [0, 1]
compare_with: full
runs:
  - {name: full, paper: {test/accuracy: 83.3, params/trainable_millions: 20.1}}
  - {name: none, title: no interaction, set: {model.adaptation.fusion: none}}
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "base.yaml").write_text(RECIPE)

    def write_file(text: str) -> Path:
        (tmp_path / "small.yaml").write_text(text)
        return tmp_path / "small.yaml"

    return write_file


def problems(write, text: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_ablation(write(text))
    return str(error.value)


def test_rows_and_trials(write):
    table = load_ablation(write(GOOD))
    assert [(t.row, t.seed) for t in table.trials] == [("full", 0), ("none", 0), ("full", 1), ("none", 1)]
    assert [t.config.optim.seed for t in table.trials] == [0, 0, 1, 1]
    assert table.trials[3].config.run_name.startswith("small-none-s1-")
    assert len({t.fingerprint for t in table.trials}) == 4
    assert table.rows[1].config.model.adaptation.fusion == "none"
    assert (table.rows[0].title, table.rows[1].title) == ("full", "no interaction")
    assert table.metrics == ("test/accuracy",)


def test_names_do_not_identify_a_trial(write):
    first = load_ablation(write(GOOD))
    renamed = GOOD.replace("name: small", "name: other").replace("name: none", "name: nothing")
    second = load_ablation(write(renamed))
    assert [t.fingerprint for t in first.trials] == [t.fingerprint for t in second.trials]


def test_recorded_table_needs_no_recipe(write, tmp_path):
    table = load_ablation(write(GOOD), ["optim.epochs=3"], shards="s3://av/shards")
    (tmp_path / "base.yaml").unlink()
    assert ablation_from_mapping(json.loads(json.dumps(ablation_to_mapping(table)))) == table
    assert table.rows[0].config.optim.epochs == 3
    assert table.rows[0].config.data.shards == "s3://av/shards"


def test_grid_multiplies_rows_and_keeps_published_values_on_the_published_point(write):
    grid = "grid: {optim.learning_rate: [1e-3, 3e-3], model.adaptation.size: [tiny, base]}\n"
    table = load_ablation(write(GOOD + grid))
    assert [row.name for row in table.rows][:4] == [
        "full-learning_rate-0.001-size-tiny",
        "full-learning_rate-0.001-size-base",
        "full-learning_rate-0.003-size-tiny",
        "full-learning_rate-0.003-size-base",
    ]
    assert [bool(row.paper) for row in table.rows[:4]] == [False, True, False, False]
    assert len(table.rows) == 8
    assert table.compare_with == "full-learning_rate-0.001-size-base"


def test_all_problems_at_once_with_suggestions(write):
    text = problems(
        write,
        """
name: bad
base: base.yaml
sedes: [0]
metrics: [test/acuracy]
compare_with: nine
published: table9
runs:
  - {name: one, set: {model.adaptation.tempral: absent, model.adaptation.fusion: nonne}}
  - {name: two, set: {model.adaptation.fusion: both}}
  - {name: three, set: {model.adaptation.fusion: none}, paper: {test/acuracy: 3, test/accuracy: 0.5}}
  - {name: four, set: {model.adaptation.fusion: none, optim.seed: 3}}
  - {name: five, sets: {}, base: bse.yaml}
  - {name: six}
  - {name: six, set: {optim.epochs: 7}}
""",
    )
    for line in (
        "small.yaml has 15 problems",
        "sedes: no such key 'sedes'; did you mean 'seeds'?",
        "runs.one: model.adaptation.tempral: no such field; did you mean 'temporal_stage'?",
        "runs.one: model.adaptation.fusion: needs 'both'",
        "runs.two.set.model.adaptation.fusion: the base already has both; remove the setting.",
        "runs.three.paper.test/acuracy: no such value 'test/acuracy'; did you mean 'test/accuracy'?",
        "runs.three.paper.test/accuracy: needs a percentage as printed, such as 55.9; got 0.5.",
        "runs.four.set.optim.seed: cannot be set; list the seeds under seeds.",
        "runs.five.sets: no such key 'sets'; did you mean 'set'?",
        "bse.yaml does not exist",
        "runs.four: has the same settings as 'three'; remove or change one of them.",
        "runs.six: has the same settings as 'two'; remove or change one of them.",
        "2 entries are named 'six'",
        "metrics: no such metric 'test/acuracy'; did you mean 'test/accuracy'?",
        "compare_with: no such row 'nine'; known: two, three, four, six, six.",
        "published: no such table 'table9'; did you mean 'table",
    ):
        assert line in text, line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds: [0, 1]", "seeds: [1, 1]"), r"seeds: needs different integers, got \[1, 1\]"),
        (("seeds: [0, 1]", "seeds: [x]"), "seeds.0: needs a valid integer"),
        (("base: base.yaml\n", ""), "base: needed, but not given"),
        (("base: base.yaml", "base: bas.yaml"), "bas.yaml does not exist. Did you mean .*base.yaml"),
        (("{name: full,", "{"), "runs.0: name: needed"),
        (("name: none", "name: no/ne"), "'small-no/ne' cannot name a folder"),
        (("fusion: none}", "fusion: none, optim.epochs: 2}"), "optim.epochs: the base already has 2"),
    ],
)
def test_what_is_refused(write, change, message):
    with pytest.raises(ConfigError, match=message):
        load_ablation(write(GOOD.replace(*change)))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("{optim.learning_rate: [1e-3]}", "grid.optim.learning_rate: needs at least two different values"),
        ("{model.adaptation.fusion: [both, none]}", "also set in grid"),
        ("{optim.seed: [0, 1]}", "grid.optim.seed: cannot be set; list the seeds under seeds"),
        ("{optim.epoch: [1, 2]}", "optim.epoch: no such field; did you mean 'epochs'"),
    ],
)
def test_grids_that_are_refused(write, grid, message):
    with pytest.raises(ConfigError, match=message):
        load_ablation(write(GOOD + f"grid: {grid}\n"))


def test_the_last_row_is_the_reference_by_default(write):
    assert load_ablation(write(GOOD.replace("compare_with: full\n", ""))).compare_with == "none"


def test_only_reduces_the_table(write):
    table = load_ablation(write(GOOD))
    assert [row.name for row in table.only(["none"]).rows] == ["none"]
    assert table.only([]) == table
    with pytest.raises(ConfigError, match="--only non: no such row 'non'; did you mean 'none'"):
        table.only(["non"])


# -- the files of the paper ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables():
    return {name: load_ablation(ABLATIONS / f"{name}.yaml") for name in TABLES}


def published() -> dict[str, list[dict]]:
    text = (GOLDEN / "published.json").read_text()
    return {key.split("_")[0]: rows for key, rows in json.loads(text).items() if key.startswith("table")}


def values(entry: dict) -> dict[str, float]:
    """A row of the golden file as a ``paper:`` mapping."""
    found = {f"params/{key}": entry[key] for key in ("trainable_millions", "total_millions") if entry.get(key)}
    metrics = {name for task in TASKS.values() for name in task.metric_names}
    return found | {f"test/{key}": value for key, value in entry.items() if key in metrics}


@pytest.mark.parametrize("name", TABLES)
def test_published_values_are_those_of_the_paper(tables, name):
    """The tables hold every STG-CMA row of the paper with exactly its numbers."""
    of_the_paper = [e for e in published()[name] if name in ("table5", "table7") or "STG-CMA" in e["method"]]
    wanted = sorted(json.dumps(values(entry), sort_keys=True) for entry in of_the_paper)
    ours = sorted(json.dumps(row.paper, sort_keys=True) for row in tables[name].rows if row.paper)
    if name == "table6":  # printed without counts, which are those of table 4
        assert not any(key in row.paper for row in tables[name].rows for key in PARAMETER_KEYS)
    assert ours == wanted
    assert len(ours) == {"table2": 8, "table3": 2, "table4": 2, "table5": 9, "table6": 2, "table7": 8}[name]


@pytest.mark.parametrize("name", ["table2", "table3", "table4", "table6"])
def test_other_methods_are_those_of_the_paper(name):
    wanted = [(e["method"], values(e)) for e in published()[name] if "STG-CMA" not in e["method"]]
    ours = []
    for method in published_methods()[name]:
        counts = {"trainable_millions": method.trainable_millions, "total_millions": method.total_millions}
        numbers = {f"params/{key}": value for key, value in counts.items() if value is not None}
        ours.append((method.method, numbers | {f"test/{key}": value for key, value in method.metrics.items()}))
    assert ours == wanted


def test_every_table_has_the_plain_backbone(tables):
    for name, table in tables.items():
        plain = [row for row in table.rows if row.config.model.adaptation.method == "none"]
        assert plain, name
        assert len(plain) == len({row.config.model.backbone + row.config.model.avqa_variant for row in table.rows})
        assert not any(row.paper for row in plain)


def test_tables_share_trials(tables):
    prints = {
        name: {row.name: {t.fingerprint for t in table.trials if t.row == row.name} for row in table.rows}
        for name, table in tables.items()
    }
    assert prints["table6"] == prints["table4"]
    assert prints["table5"]["stg-cma"] == prints["table2"]["clip-l14-base"]
    assert prints["table5"]["plain"] == prints["table2"]["clip-l14-plain"]
    assert prints["table7"]["full"] == prints["table3"]["swin-l-base"]
    assert prints["table7"]["plain"] == prints["table3"]["swin-l-plain"]


@pytest.mark.slow
def test_counts_of_published_rows(tables):
    """Trainable parameters in millions as printed, counted on the meta device."""
    from stgcma.models.parameters import count_parameters
    from stgcma.tasks import build_model, build_task

    counts: dict[tuple[str, ModelConfig], float] = {}
    checked = 0
    for name in ("table2", "table3", "table4", "table5", "table7"):
        for row in tables[name].rows:
            if not row.paper:
                continue
            key = row.config.task, row.config.model
            if key not in counts:
                built = build_model(build_task(*key), device="meta")
                counts[key] = count_parameters(built).trainable / 1e6
            assert counts[key] == pytest.approx(row.paper["params/trainable_millions"], abs=0.051), (name, row.name)
            checked += 1
    assert checked == 29
