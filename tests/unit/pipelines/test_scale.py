"""Eight times the clips cost about eight times the CPU time, in every stage apart from decoding."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from benchmarks.bench_scale import driver_stages, make_source, worker_stages
from pipelines.collector import collector_paused

pytestmark = pytest.mark.slow

SMALL, LARGE = 1500, 12_000
TOLERANCE = 3.0
"""Quadratic growth would be 64 times."""
FLOOR_SECONDS = 0.25
"""Stages of a few milliseconds are not compared."""


def cpu_seconds(root: Path, num_clips: int) -> dict[str, float]:
    """Stage -> CPU seconds; one clip a shard, so that shards are as many as clips."""
    make_source(root / "source", num_clips)
    stages = driver_stages(root, clips_per_shard=1, with_rows=False) + worker_stages(root, with_rows=False)
    return {stage.name: stage.cpu_seconds for stage in stages}


def test_no_stage_grows_faster_than_the_clips(tmp_path: Path) -> None:
    small, large = cpu_seconds(tmp_path / "small", SMALL), cpu_seconds(tmp_path / "large", LARGE)
    assert len(large) == 8
    bounds = {name: TOLERANCE * LARGE / SMALL * seconds + FLOOR_SECONDS for name, seconds in small.items()}
    slow = {name: (small[name], seconds) for name, seconds in large.items() if seconds > bounds[name]}
    assert not slow, f"CPU seconds of {SMALL:,} and {LARGE:,} clips"


def test_the_collector_runs_again_after_the_block() -> None:
    assert gc.isenabled()
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), collector_paused():
        _ = 1 / 0
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
