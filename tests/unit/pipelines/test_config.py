"""The settings of a run: which options it accepts, and what enters its fingerprint."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.config import PreprocessConfig, fingerprint
from pipelines.datasets.ave import AVEOptions
from pipelines.datasets.music_avqa import MusicAVQAOptions
from pipelines.options import DatasetOptions
from pipelines.preprocess import preprocess
from stgcma.errors import ConfigError

CONFIG = PreprocessConfig(dataset="ave", source="here", fbank_specs=("demo",))


def test_options_are_the_defaults_of_the_record_unless_given() -> None:
    assert CONFIG.options_as(AVEOptions) == AVEOptions(labels="auto")
    given = AVEOptions(labels="annotations")
    assert replace(CONFIG, options=given).options_as(AVEOptions) is given


@pytest.mark.parametrize("record", [AVEOptions, DatasetOptions])
def test_options_of_another_dataset_are_refused(record: type[DatasetOptions]) -> None:
    config = replace(CONFIG, options=MusicAVQAOptions(extra_frames=60))
    with pytest.raises(ConfigError, match=rf"dataset ave must be {record.__name__}, got MusicAVQAOptions\(.*=60\)"):
        config.options_as(record)


def test_preprocessing_refuses_them_before_it_reads_the_source() -> None:
    with pytest.raises(ConfigError, match="dataset ave must be AVEOptions"):
        preprocess(replace(CONFIG, source="absent", options=MusicAVQAOptions()))


def test_content_holds_the_options_and_no_runtime_field() -> None:
    content = replace(CONFIG, options=AVEOptions(labels="right_labels.h5")).content()
    assert content["options"] == {"labels": "right_labels.h5"}
    assert content["fbank_specs"] == ["demo"]
    assert not content.keys() & {"source", "output", "num_workers", "ray_address", "failure_budget"}


def test_options_change_the_fingerprint_and_places_do_not() -> None:
    first = fingerprint(replace(CONFIG, options=AVEOptions()), [])
    assert fingerprint(replace(CONFIG, options=AVEOptions(labels="annotations")), []) != first
    assert fingerprint(replace(CONFIG, options=AVEOptions(), source="there", num_workers=3), []) == first
