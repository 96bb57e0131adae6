"""Answer accuracy for the columns of Table 6 of the paper: nine question types, three groups and overall."""

from __future__ import annotations

import torch

from stgcma.data.batch import AVBatch, QuestionTargets
from stgcma.tasks.base import Metrics, Outputs
from stgcma.tasks.question_types import QUESTION_TYPES, TYPE_NAMES


def type_name(question_type: tuple[str, str]) -> str:
    """``("Audio-Visual", "Counting")`` -> ``"audio_visual/counting"``. A type that is not in the paper gives
    ``"other"``."""
    name = "/".join(part.strip().lower().replace("-", "_") for part in question_type)
    return name if name in TYPE_NAMES else "other"


class AnswerAccuracy(Metrics):
    """Fraction of questions whose largest logit belongs to the answer.

    A question whose answer is not in the training vocabulary counts as wrong. Groups are means over their questions,
    not over their types, as in the paper. ``sums["correct"]`` and ``sums["questions"]`` are ``[10]``: nine types and
    others.
    """

    def __init__(self, *, detailed: bool = False) -> None:
        self.detailed = detailed
        self.sums = {
            "correct": torch.zeros(len(TYPE_NAMES) + 1, dtype=torch.float64),
            "questions": torch.zeros(len(TYPE_NAMES) + 1, dtype=torch.float64),
            "unknown_answers": torch.zeros((), dtype=torch.float64),
        }

    def update(self, outputs: Outputs, batch: AVBatch) -> None:
        targets = batch.targets
        assert isinstance(targets, QuestionTargets)
        answers = targets.answers.cpu()
        correct = outputs["logits"].detach().argmax(-1).cpu() == answers
        columns = [(*TYPE_NAMES, "other").index(type_name(kind)) for kind in targets.types]
        index = torch.tensor(columns, dtype=torch.int64)
        self.sums["correct"].index_add_(0, index, correct.double())
        self.sums["questions"].index_add_(0, index, torch.ones(len(index), dtype=torch.float64))
        self.sums["unknown_answers"] += (answers < 0).sum()

    def compute(self) -> dict[str, float]:
        """``overall`` and the groups; if detailed, also every type and the number of unknown answers.

        The names are those of Table 6: ``audio/counting``, ``audio``, ... ``overall``. Types and groups without
        questions are left out.
        """
        correct, questions = self.sums["correct"], self.sums["questions"]
        values = {"overall": float(correct.sum() / questions.sum().clamp_min(1))}
        start = 0
        for group, kinds in QUESTION_TYPES.items():
            columns = slice(start, start + len(kinds))
            if questions[columns].sum():
                values[group] = float(correct[columns].sum() / questions[columns].sum())
            start += len(kinds)
        if self.detailed:
            for column, name in enumerate((*TYPE_NAMES, "other")):
                if questions[column]:
                    values[name] = float(correct[column] / questions[column])
            values["unknown_answers"] = float(self.sums["unknown_answers"])
        return values
