"""Questions survive storage as a table."""

from __future__ import annotations

from stgcma.data.question_table import questions_from_table, questions_to_table
from tests.factories import tiny_questions


def test_questions_are_equal_after_storage() -> None:
    questions = tiny_questions(3, "train")
    assert questions_from_table(questions_to_table(questions)) == questions
