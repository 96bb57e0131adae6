"""The demo's first act: the rows it compares and the conclusions it prints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jobs.demo.events_act import chance_accuracy, events_act
from jobs.demo.runner import load_comparison
from pipelines.synthetic.ave_clips import make_plan
from pipelines.synthetic.configs import SyntheticConfig
from tests.unit.jobs.demo.helpers import make_report

WORSE, SAME, BETTER = (-0.3, -0.34, -0.26), (-0.01, -0.03, 0.01), (0.2, 0.1, 0.3)


def test_conclusions_follow_the_intervals() -> None:
    act = events_act("t4")
    report = make_report(act, {"no-interaction": WORSE, "no-interaction-gelu": SAME, "head-only": BETTER})
    observers, shows, limits = act.closing(report)
    assert "eyes alone 45.4, ears alone 30.5, the sum of both 63.8 (at most 81.9)" in observers
    assert "adapting the frozen backbone hurts, -20.0 (-30.0 to -10.0)" in shows
    assert "interaction helps, +30.0 (+26.0 to +34.0)" in shows
    assert "interaction over a non-linear head makes no clear difference, +1.0 (-1.0 to +3.0)" in shows
    assert "needs a product" in shows
    assert "real clips" in limits


def test_a_task_that_a_sum_decides_is_said_to_need_no_interaction() -> None:
    act = events_act("t1")
    report = make_report(act, {"no-interaction": SAME, "no-interaction-gelu": SAME, "head-only": WORSE})
    assert "The sum of the modalities decides this task" in act.closing(report)[1]


def test_chance_is_the_majority_class_of_training_on_test() -> None:
    config = SyntheticConfig(task="t1", num_train=60, num_val=1, num_test=40)
    labels = np.array([make_plan(config, "test", index).labels for index in range(40)])
    assert chance_accuracy(config) == (labels == 6).mean()


def test_rows_differ_in_adaptation_and_learning_rate_only() -> None:
    ablation = load_comparison(events_act(), "shards", None, ())
    assert [row.name for row in ablation.rows] == [
        "stg-cma",
        "no-interaction",
        "no-interaction-gelu",
        "visual-only",
        "audio-only",
        "head-only",
    ]
    assert len(ablation.seeds) == 3
    assert {row.config.optim.learning_rate for row in ablation.rows} <= {1e-3, 2e-3, 4e-3}
    rest = {replace(row.config.optim, learning_rate=1.0) for row in ablation.rows}
    assert len(rest) == 1, "only the learning rate may differ between rows"
    for adaptation in (row.config.model.adaptation for row in ablation.rows[1:-1]):
        assert adaptation.fusion == "none" or len(adaptation.running) == 1
    assert (ablation.rows[-1].name, ablation.rows[-1].config.model.adaptation.method) == ("head-only", "none")
    assert ablation.rows[0].config.optim.protocol == "val"
