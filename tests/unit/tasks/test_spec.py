"""The records of the tasks are consistent, and do not import torch before they are used."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from dataclasses import replace

import pytest

from jobs.runs.gallery import Gallery
from stgcma.data.fbank import FBANK_SPECS
from stgcma.errors import ConfigError
from stgcma.models.backbones import backbone_specs
from stgcma.tasks import TASKS, task_spec
from stgcma.tasks.base import Task
from tests.paths import ROOT


def test_the_registry_imports_no_torch():
    code = "import sys, stgcma.tasks; print(list(stgcma.tasks.TASKS), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['ave', 'avs', 'avqa', 'grounding'] False"


@pytest.mark.parametrize("name", TASKS)
def test_everything_that_a_record_names_exists(name):
    task = TASKS[name]
    assert task.name == name
    assert issubclass(pkgutil.resolve_name(task.implementation), Task)
    assert not task.gallery or issubclass(pkgutil.resolve_name(task.gallery), Gallery)
    assert {spec.fbank_for(task.fbank) for spec in backbone_specs().values()} <= FBANK_SPECS.keys()


def test_the_selection_metric_is_one_of_the_metrics():
    with pytest.raises(ConfigError, match=r"by 'loss', which is not among its metrics \(miou, fscore, iou_pooled\)"):
        replace(TASKS["avs"], selection_metric="loss")


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ConfigError, match="Unknown task 'avee'; choose one of: ave, avs, avqa, grounding"):
        task_spec("avee")
    with pytest.raises(ConfigError, match="'avs' does not report 'iou'; it reports: miou, fscore"):
        TASKS["avs"].metric("iou")


def test_headings_come_from_the_title_or_the_name():
    assert [metric.heading for metric in TASKS["avs"].metrics] == ["mIoU", "F-score", "IoU, pooled"]
    assert TASKS["avqa"].metric("audio_visual/counting").heading == "audio-visual counting"


def test_values_per_class_are_separated_from_those_of_the_split():
    by_number = {"accuracy": 0.5, "accuracy/class_00": 0.25, "accuracy/class_02": 0.75}
    assert TASKS["ave"].split_by_class(by_number, ("bell", "dog")) == (
        {"accuracy": 0.5},
        {"bell": 0.25, "class 2": 0.75},
    )
    by_name = {"miou": 0.5, "category/dog/miou": 0.25, "category/dog/fscore": 0.75}
    assert TASKS["avs"].split_by_class(by_name, ("dog",)) == (
        {"miou": 0.5, "category/dog/fscore": 0.75},
        {"dog": 0.25},
    )
    assert TASKS["avqa"].split_by_class({"overall": 0.5, "audio/counting": 0.1}, ()) == (
        {"overall": 0.5, "audio/counting": 0.1},
        {},
    )
