"""``stgcma-jobs synthesize``: options reach the writer of each layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import cli
from jobs.preparation.synthesis import SYNTHETIC_SETS, synthesize, synthetic_set
from stgcma.errors import ConfigError

SIZES = {"num_train": 6, "num_val": 1, "num_test": 1, "seed": 3}


@pytest.mark.parametrize("layout", ["s4", "ms3"])
def test_avsbench_is_written_in_the_chosen_layout(layout: str, tmp_path: Path) -> None:
    config = synthetic_set(f"avs-{layout}").build(**SIZES)
    assert (config.layout, config.seed, config.split_sizes) == (layout, 3, {"train": 6, "val": 1, "test": 1})
    synthesize(config, str(tmp_path))
    assert (tmp_path / f"{layout}_meta_data.csv").exists()


def test_the_message_for_an_unknown_layout_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=f"one of {', '.join(SYNTHETIC_SETS)}; got 'avs-s5'"):
        synthetic_set("avs-s5")


def test_own_options_reach_the_writer_and_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--clips", "2", "--val", "1", "--test", "1", "--num-workers", "1", "--json"]
    output = str(tmp_path / "avqa")
    cli.app(
        ["synthesize", "--dataset", "music-avqa", "--questions-per-type", "1", "--output", output, *sizes],
        standalone_mode=False,
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("size_bytes") > 0
    assert printed == {
        "root": output,
        "clips": {"train": 2, "val": 1, "test": 1},
        "questions_per_type": 1,
        "seed": 0,
    }
    with pytest.raises(ConfigError, match="--task is an option of dataset ave; avs-s4 has no options of its own"):
        cli.app(["synthesize", "--dataset", "avs-s4", "--task", "t1", "--output", output], standalone_mode=False)
