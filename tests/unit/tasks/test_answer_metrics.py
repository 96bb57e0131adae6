"""Answer accuracy by type: sums merge, unknown answers are wrong, groups are means over questions."""

import json

import pytest
import torch

from stgcma.data.batch import AVBatch, QuestionTargets
from stgcma.tasks.answer_metrics import AnswerAccuracy, type_name
from stgcma.tasks.question_types import TYPE_NAMES
from tests.paths import GOLDEN

TYPES = {
    "ac": ("Audio", "Counting"),
    "am": ("Audio", "Comparative"),
    "vl": ("Visual", "Location"),
    "vc": ("Visual", "Counting"),
    "t": ("Audio-Visual", "Temporal"),
    "e": ("Audio-Visual", "Existential"),
}


def part(rows):
    """Outputs and a batch from rows of (type, answer, predicted answer)."""
    answers = torch.tensor([answer for _, answer, _ in rows])
    logits = torch.zeros(len(rows), 4)
    for row, (_, _, predicted) in enumerate(rows):
        logits[row, predicted] = 1.0
    targets = QuestionTargets(
        video_index=torch.zeros(len(rows), dtype=torch.int64),
        questions=torch.zeros(len(rows), 14, dtype=torch.int64),
        answers=answers,
        types=tuple(TYPES[kind] for kind, _, _ in rows),
    )
    return {"logits": logits}, AVBatch(clip_ids=("v",), frames=None, fbank=None, targets=targets)


ROWS = [("ac", 0, 0), ("ac", 1, 1), ("ac", 2, 0), ("am", 1, 3), ("vl", 2, 2), ("t", 3, 3), ("t", -1, 0), ("e", 0, 1)]


def test_types_groups_and_overall_by_hand():
    metrics = AnswerAccuracy(detailed=True)
    metrics.update(*part(ROWS))
    assert metrics.compute() == pytest.approx(
        {
            "overall": 4 / 8,
            "audio": 2 / 4,
            "visual": 1.0,
            "audio_visual": 1 / 3,
            "audio/counting": 2 / 3,
            "audio/comparative": 0.0,
            "visual/location": 1.0,
            "audio_visual/temporal": 0.5,
            "audio_visual/existential": 0.0,
            "unknown_answers": 1.0,
        }
    )


def test_the_result_does_not_depend_on_batches_and_workers():
    whole = AnswerAccuracy(detailed=True)
    whole.update(*part(ROWS))
    first, second = AnswerAccuracy(detailed=True), AnswerAccuracy(detailed=True)
    first.update(*part(ROWS[:1]))
    first.update(*part(ROWS[1:3]))
    second.update(*part(ROWS[3:]))
    first.merge(second.sums)
    assert first.compute() == whole.compute()


def test_plain_metrics_leave_the_types_out():
    metrics = AnswerAccuracy()
    metrics.update(*part(ROWS))
    assert set(metrics.compute()) == {"overall", "audio", "visual", "audio_visual"}


def test_names_are_the_columns_of_table_6():
    published = json.loads((GOLDEN / "published.json").read_text())
    columns = set(published["table6_avqa_by_type"][0]) - {"table", "method"}
    assert columns == {*TYPE_NAMES, "audio", "visual", "audio_visual", "overall"}
    assert type_name(("Audio-Visual", "Comparative")) == "audio_visual/comparative"
    assert type_name(("Audio", "Smell")) == "other"
