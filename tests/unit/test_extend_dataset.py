"""A new dataset is one file and one line. This one is complete, from its options to a row of a report.

Its annotations are ``events``: one class per segment, and the last class is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import main
from jobs.runs.configfile import load_run_config
from jobs.runs.session import train_run
from pipelines.clips import ClipListing, ClipRef
from pipelines.config import PreprocessConfig
from pipelines.datasets import DATASETS
from pipelines.datasets.base import DatasetSource
from pipelines.media.rows import video_row
from pipelines.options import DatasetOptions, option
from pipelines.storage import Storage
from stgcma.data.schema import ClipRow
from stgcma.errors import ConfigError
from tests.media import write_clip

pytestmark = pytest.mark.slow

CLASSES = ("bell", "whistle", "background")
SEGMENTS = 10


@dataclass(frozen=True, kw_only=True)
class SoundsOptions(DatasetOptions):
    """Options that only this dataset has."""

    onset: int = option(0, "Segment in which the event of every clip begins.")

    def __post_init__(self) -> None:
        if not 0 <= self.onset < SEGMENTS:
            raise ConfigError(f"--onset needs a segment in 0..{SEGMENTS - 1}, got {self.onset}.")


@dataclass(frozen=True, kw_only=True)
class SoundsAnnotation:
    """Class of every segment."""

    labels: tuple[int, ...]


class Sounds(DatasetSource):
    """Clips of any length: ``<source>/<split>/<class>-<number>.mp4``."""

    name = "sounds"
    annotation = "events"
    num_segments = SEGMENTS
    default_fbanks = ("demo",)
    stores_waveform = True
    options = SoundsOptions

    def list_clips(self, source: Storage, config: PreprocessConfig) -> ClipListing:
        onset = config.options_as(SoundsOptions).onset
        clips = []
        for split in ("train", "val", "test"):
            for file, size in source.list_files(split).items():
                event, background = CLASSES.index(file.split("-")[0]), len(CLASSES) - 1
                labels = (background,) * onset + (event,) * (SEGMENTS - onset)
                clips.append(
                    ClipRef(
                        dataset=self.name,
                        clip_id=f"{split}/{file}",
                        split=split,
                        video_id=file,
                        media_uri=f"{split}/{file}",
                        media_bytes=size,
                        annotation=SoundsAnnotation(labels=labels),
                        counts_in_stats=split == "train",
                    )
                )
        return ClipListing(clips=tuple(clips), class_names=CLASSES)

    def build_rows(self, refs: Sequence[ClipRef], source: Storage, config: PreprocessConfig) -> list[ClipRow]:
        rows = [video_row(ref, source, config, num_segments=SEGMENTS, with_waveform=True) for ref in refs]
        return [
            replace(
                row,
                event_labels=np.array(ref.annotation.labels, dtype=np.int8),
                category=CLASSES[ref.annotation.labels[-1]],
            )
            for ref, row in zip(refs, rows, strict=True)
        ]


RECIPE = """
name: sounds
task: ave
model: {backbone: clip_vit_demo, pretrained: none, num_classes: 3}
data: {dataset: sounds, shards: SHARDS}
optim: {epochs: 1, batch_size: 2, learning_rate: 1e-3, warmup_epochs: 0}
"""
TABLE = """
name: first
title: Bells and whistles
base: recipe.yaml
seeds: [0]
metrics: [test/accuracy]
runs: [{name: both}]
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the line in ``pipelines/datasets/__init__.py``."""
    monkeypatch.setitem(DATASETS, "sounds", Sounds())


def test_its_option_is_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["preprocess", "--help"])
    assert "Options of dataset sounds:\n  --onset <int>  Segment in which the event of" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["preprocess", "--dataset", "ave", "--onset", "1"])
    assert "--onset is an option of dataset sounds; ave has --labels." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["preprocess", "--dataset", "sounds", "--onset", "10"])
    assert "--onset needs a segment in 0..9, got 10." in capsys.readouterr().err


def test_it_is_preprocessed_trained_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for number in range(count):
            write_clip(tmp_path / "clips" / split / f"{CLASSES[number % 2]}-{number}.mp4")
    shards, runs = str(tmp_path / "shards"), str(tmp_path / "runs")
    command = ["preprocess", "--dataset", "sounds", "--source", str(tmp_path / "clips"), "--output", shards]
    with pytest.raises(SystemExit) as end:
        main([*command, "--onset", "1", "--num-workers", "0"])
    assert not end.value.code

    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("SHARDS", shards))
    (tmp_path / "table.yaml").write_text(TABLE)
    result = train_run(load_run_config(tmp_path / "recipe.yaml"), output=runs, tracking="none")
    assert result.metrics["test/accuracy"] in [hits / 20 for hits in range(21)]  # two clips of ten segments

    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path / "table.yaml"), "--runs", runs])
    assert not end.value.code
    assert f"{100 * result.metrics['test/accuracy']:.1f}" in capsys.readouterr().out
