"""``stgcma-jobs synthesize``: the options of every layout reach its writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.preparation.synthesis import WRITERS, build_config, synthesize
from stgcma.errors import ConfigError

SIZES = {"num_train": 6, "num_val": 1, "num_test": 1, "seed": 3}


@pytest.mark.parametrize("layout", ["s4", "ms3"])
def test_avsbench_is_written_in_the_layout_that_was_asked_for(layout: str, tmp_path: Path) -> None:
    config = build_config(f"avs-{layout}", task="t4", num_workers=None, **SIZES)
    assert (config.layout, config.seed, config.split_sizes) == (layout, 3, {"train": 6, "val": 1, "test": 1})
    synthesize(config, str(tmp_path), dataset=f"avs-{layout}")
    assert (tmp_path / f"{layout}_meta_data.csv").exists()


def test_an_unknown_layout_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=f"one of {', '.join(WRITERS)}; got 'avs-s5'"):
        build_config("avs-s5", task="t4", num_workers=None, **SIZES)
