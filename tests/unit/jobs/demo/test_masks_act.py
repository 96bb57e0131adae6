"""The demo's second act: the rows it compares and the conclusions it prints."""

from __future__ import annotations

from jobs.demo.masks_act import masks_act
from jobs.demo.runner import load_comparison
from tests.unit.jobs.demo.helpers import make_report


def test_rows_differ_in_adaptation_only() -> None:
    ablation = load_comparison(masks_act(), "shards", None, ())
    assert [row.name for row in ablation.rows] == ["stg-cma", "frozen"]
    first = ablation.rows[0].config
    for other in ablation.rows:
        assert (other.config.optim, other.config.data) == (first.optim, first.data)
        assert other.config.model.mask_decoder == first.model.mask_decoder
    assert ablation.rows[-1].config.model.adaptation.method == "none"
    assert first.optim.protocol == "val"


def test_the_conclusion_follows_the_interval() -> None:
    report = make_report(masks_act(), {"frozen": (-0.2, -0.25, -0.15)})
    shows, limits = masks_act().closing(report)
    assert "adapting the frozen backbone helps, +20.0 (+15.0 to +25.0), against the same decoder" in shows
    assert "real clips" in limits


def test_baselines_need_no_listening() -> None:
    found = masks_act(num_clips=24).baselines()
    assert list(found) == [f"without listening: {name}" for name in ("every object", "a random object", "nothing")]
    assert found["without listening: every object"] > found["without listening: nothing"]
