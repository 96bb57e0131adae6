"""Reports in every format, from run folders written by a fake training."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from jobs.runs.evaluation import read_per_clip
from jobs.runs.folder import RunFolder
from jobs.sweeps.sweep import run_sweep
from jobs.tables.ablation import load_ablation
from jobs.tables.intervals import bootstrap_difference, bootstrap_over_clips
from jobs.tables.report import PER_CLIP, SEEDS, SEEDS_AND_CLIPS, Report, _over_seeds, as_json, collect
from jobs.tables.report_files import FORMATS, render, write_reports
from jobs.tables.report_formats import blocks, gaps, millions, percent, remarks
from jobs.tables.report_plots import pictures
from stgcma.errors import ConfigError
from stgcma.tensor_file import encode_tensors
from tests.paths import ROOT
from tests.unit.jobs import fake_training
from tests.unit.jobs.tables.test_ablation import RECIPE

pytestmark = pytest.mark.slow

TABLE = """
name: small
title: "Table 5 & co: what <interaction> is worth"
base: base.yaml
seeds: [0, 1, 2]
compare_with: full
plot_with: table2
runs:
  - {name: full, title: STG-CMA, section: Complete,
     paper: {test/accuracy: 83.3, params/trainable_millions: 20.1}}
  - {name: none, title: "no | interaction", section: Interaction, set: {model.adaptation.fusion: none},
     note: "a note & more"}
  - {name: visual, title: visual only, section: Interaction, set: {model.adaptation.branches: visual}}
"""


def make(folder: Path, text: str = TABLE, **options) -> Report:
    (folder / "base.yaml").write_text(RECIPE)
    (folder / "small.yaml").write_text(text)
    table = load_ablation(folder / "small.yaml")
    (folder / "runs").mkdir(exist_ok=True)
    options = {"train": fake_training.train, "check": fake_training.check, "tracking": "none"} | options
    return run_sweep(table, output=str(folder / "runs"), **options).report


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    return make(tmp_path_factory.mktemp("complete"))


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """A report in which the row without interaction failed and the visual row never ran."""
    folder = tmp_path_factory.mktemp("partial")
    return make(folder, train=fake_training.train_but_fail_no_interaction, only=("full", "none"))


def scores(report: Report, row: int) -> np.ndarray:
    return np.stack([trial.clip_scores["correct"] for trial in report.rows[row].trials])


def test_estimates_are_bootstraps_over_seeds_and_clips(complete):
    estimate = complete.rows[0].estimates["test/accuracy"]
    expected = bootstrap_over_clips(scores(complete, 0))
    assert (estimate.mean, estimate.low, estimate.high) == (expected.mean, expected.low, expected.high)
    assert (estimate.num_seeds, estimate.method) == (3, SEEDS_AND_CLIPS)
    means = [trial.metrics["test/accuracy"] for trial in complete.rows[0].trials]
    assert estimate.mean == pytest.approx(np.mean(means))
    assert complete.rows[0].difference("test/accuracy") == pytest.approx(np.mean(means) - 0.833)
    assert complete.rows[1].difference("test/accuracy") is None


def test_comparisons_are_paired_over_shared_seeds(complete):
    none, visual = complete.comparisons
    expected = bootstrap_difference(scores(complete, 1), scores(complete, 0))
    assert (none.estimate.mean, none.estimate.low) == (expected.mean, expected.low)
    assert (none.row.name, none.reference.name, none.verdict) == ("none", "full", "lower")
    assert visual.verdict == "not separated"


def test_interval_over_seeds_is_students():
    estimate = _over_seeds([0.80, 0.82, 0.84])
    assert estimate.mean == pytest.approx(0.82)
    assert estimate.high - estimate.mean == pytest.approx(4.303 * 0.02 / math.sqrt(3), rel=1e-4)
    assert estimate.method == SEEDS
    assert _over_seeds([0.8]).low is None


def test_what_a_trial_is_read_into(complete):
    trial = complete.rows[0].trials[0]
    assert trial.curve == ((1.0, pytest.approx(0.5)), (2.0, pytest.approx(0.65)))
    assert trial.gates["audio_to_visual"] == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert (trial.trainable, trial.total, trial.protocol, trial.best_epoch) == (61_199, 290_000, "val", 2)


def test_markdown(complete):
    text = render(complete, "md")
    first = text.split("\n\n")[1].splitlines()
    assert first[0] == (
        "|  | trainable M | trainable M, paper | total M | accuracy %, paper | accuracy %, ours [95 %] | difference "
        "| seeds | selected on |"
    )
    assert all(line.count("|") - line.count("\\|") == 10 for line in first)
    assert re.search(
        r"\| STG-CMA \| 0\.061 \| 20\.1 \| 0\.290 \| 83\.3 \| \d\d\.\d \[\d\d\.\d, \d\d\.\d\] \| -\d", text
    )
    assert "no \\| interaction" in text
    assert "Data: sha256 of the shards dddddddddddd." in text
    assert "a note & more" in text
    assert "**Incomplete.**" not in text
    assert complete.rows[0].trials[0].fingerprint in text
    assert "| no \\| interaction | -" in text
    assert "| 3 | lower |" in text


def test_an_incomplete_report_says_what_is_missing_and_how_to_fill_it(partial):
    assert partial.fill_command.endswith("--only none --only visual --retry-failed")
    assert gaps(partial) == (
        "none: seeds 0, 1, 2 failed: The training loss is nan at epoch 1",
        "visual: seeds 0, 1, 2 not run",
    )
    for name in ("md", "html", "latex"):
        assert "--retry-failed" in render(partial, name)
    assert "0 of 3" in render(partial, "md")
    assert partial.comparisons == ()


def test_csv_is_tidy(complete, partial):
    rows = list(csv.DictReader(io.StringIO(render(complete, "csv"))))
    assert [row["row"] for row in rows] == ["full", "none", "visual"]
    assert float(rows[0]["mean"]) == pytest.approx(100 * complete.rows[0].estimates["test/accuracy"].mean, abs=1e-3)
    assert (rows[0]["trainable"], rows[0]["published"], rows[1]["published"]) == ("61199", "83.3", "")
    assert list(csv.DictReader(io.StringIO(render(partial, "csv"))))[1]["missing_seeds"] == "0 1 2"


def test_latex_escapes_and_balances(complete):
    text = render(complete, "latex")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert r"Table 5 \& co" in text
    assert r"accuracy \%, ours" in text
    assert not re.search(r"(?<!\\)[&%]", re.sub(r" & |^%.*", "", text, flags=re.MULTILINE))


def test_json_round_trip(complete):
    values = json.loads(render(complete, "json"))
    assert values["rows"][0]["ours"]["test/accuracy"]["num_seeds"] == 3
    assert values["comparisons"][0]["verdict"] == "lower"


class Page(HTMLParser):
    """Parses a page; collects open tags and the external files it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta",):
            self.open.append(tag)
        self.outside += [v for k, v in attributes if k in ("src", "href", "xlink:href") and not v.startswith("#")]

    def handle_startendtag(self, tag, attributes):
        self.outside += [v for k, v in attributes if k in ("src", "href", "xlink:href") and not v.startswith("#")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_one_closed_file_with_nothing_from_outside(complete):
    text = render(complete, "html")
    page = Page(text)
    assert page.open == []
    assert page.outside == []
    assert "script" not in page.tags
    assert page.tags.count("svg") == 3
    assert "@import" not in text
    assert "url(http" not in text
    assert "what &lt;interaction&gt; is worth" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_pictures_show_rows_published_points_and_are_reproducible(complete):
    drawn = pictures(complete)
    assert list(drawn) == ["parameters.svg", "learning_curves.svg", "gates.svg"]
    for _, svg in drawn.values():
        ElementTree.fromstring(svg)
    points = drawn["parameters.svg"][1]
    for text in ("STG-CMA", "visual only", "DG-SCT", "LAVISH, Swin-L", "published, other methods"):
        assert f">{text}<" in points
    gates = drawn["gates.svg"][1]
    assert ">STG-CMA<" in gates
    assert "no | interaction" not in gates  # its gates stayed at zero
    assert pictures(complete) == drawn


def test_without_runs_and_published_values_there_is_nothing_to_draw(complete):
    assert pictures(collect(complete.ablation.only(["visual"]), "nowhere")) == {}


def test_remarks_mention_other_data_and_the_other_protocol(tmp_path):
    report = make(tmp_path, TABLE.replace("seeds: [0, 1, 2]", "seeds: [0]\nset: {optim.protocol: paper}"))
    text = "\n".join(remarks(report))
    assert "the checkpoint is chosen by its score on the test split" in text
    assert "bootstrap over clips, one seed" in text
    folder = tmp_path / "runs" / report.rows[2].trials[0].run_name
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "data_digest": "e" * 64}))
    other = collect(report.ablation, str(tmp_path / "runs"))
    assert "Rows were trained on different shards" in "\n".join(remarks(other))
    assert [item.row.name for item in other.comparisons] == ["none"]


def test_a_table_of_several_metrics_has_a_line_for_each_of_published_and_ours():
    table = load_ablation(ROOT / "jobs" / "ablations" / "table6.yaml")
    block = blocks(collect(table, "nowhere"))[0]
    lines = {(line.cells[0], line.cells[1]): line for line in block.lines if line.kind != "section"}
    assert len(block.columns) == 2 + 2 + 13 + 2
    assert lines["STG-CMA-L, Swin-L", "paper"].cells[4:6] == ("76.2", "84.8")
    assert lines["STG-CMA-L, Swin-L", "ours"].kind == "missing"
    assert lines["ST-AVQA", "paper"].kind == "published"


def test_files_are_written_with_pictures_beside_the_markdown(complete, tmp_path):
    written = write_reports(complete, str(tmp_path / "out"), tuple(FORMATS))
    assert {Path(location).name for location in written} == {
        "report.md",
        "report.tex",
        "report.csv",
        "report.html",
        "report.json",
        "parameters.svg",
        "learning_curves.svg",
        "gates.svg",
    }
    text = (tmp_path / "out" / "report.md").read_text()
    assert all((tmp_path / "out" / path).is_file() for path in re.findall(r"!\[.*?\]\((.*?)\)", text))
    with pytest.raises(ConfigError, match="--format needs one of md, latex, csv, html, json, got 'pdf'"):
        render(complete, "pdf")


def test_numbers_as_printed():
    assert (percent(0.8333), percent(-0.012, signed=True), percent(None)) == ("83.3", "-1.2", "–")
    assert (millions(20_117_581), millions(61_199), millions(None)) == ("20.1", "0.061", "–")


def refused_report(folder: Path, damage) -> Report:
    """A complete table whose row without interaction was damaged in seed 1."""
    report = make(folder)
    (name,) = [trial.run_name for trial in report.rows[1].trials if trial.seed == 1]
    damage(RunFolder(str(folder / "runs" / name)))
    return collect(report.ablation, str(folder / "runs"))


def change_metric(folder: RunFolder) -> None:
    result = folder.read_json("result.json")
    result["metrics"]["test/accuracy"] += 0.01
    folder.write_json("result.json", result)


def change_score(folder: RunFolder) -> None:
    ids, scores = read_per_clip(folder, "test")
    scores["correct"][0] = 1 - scores["correct"][0]
    folder.write(PER_CLIP, encode_tensors(scores, {"clip_ids": json.dumps(ids)}))


def flip_bit(folder: RunFolder) -> None:
    data = bytearray(folder.read(PER_CLIP))
    data[-5] ^= 1
    folder.write(PER_CLIP, bytes(data))


def copy_result(folder: RunFolder) -> None:
    result = folder.read_json("result.json")
    folder.write_json("result.json", {**result, "fingerprint": "0" * 10, "run_name": "another-0000000000"})


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (change_metric, r"says test/accuracy 0\.\d{6}, the scores of its clips in \S+ give 0\.\d{6}"),
        (change_score, r"says test/accuracy 0\.\d{6}, the scores of its clips in \S+ give 0\.\d{6}"),
        (flip_bit, r"per_clip.safetensors is damaged"),
        (copy_result, r"is the result of another run, another-0000000000"),
        (lambda folder: folder.write("result.json", b'{"run_name"'), r"result.json is not JSON"),
        (lambda folder: folder.write_json("result.json", {"run_name": "x"}), r"result.json is damaged: it has no"),
    ],
    ids=["metric", "score", "bit", "other run", "torn", "keys"],
)
def test_a_result_that_contradicts_its_clips_is_refused_and_the_other_rows_are_shown(tmp_path, damage, problem):
    report = refused_report(tmp_path, damage)
    assert [len(row.trials) for row in report.rows] == [3, 2, 3]
    (status,) = report.rows[1].missing
    assert (status.state, status.seed) == ("refused", 1)
    assert re.search(problem, status.message)
    assert gaps(report) == (f"none: seed 1 refused: {status.message}",)
    assert report.fill_command == "", "a sweep would not run it"
    for name in ("md", "html", "latex"):
        assert "none: seed 1 refused" in render(report, name)
    assert as_json(report)["rows"][1]["missing"] == {1: status.message}
