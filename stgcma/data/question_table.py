"""The stored form of questions: a Parquet table per question split."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from stgcma.data.question_text import Question

QUESTION_SCHEMA = pa.schema(
    [
        ("question_id", pa.int64()),
        ("video_id", pa.string()),
        ("type", pa.list_(pa.string(), 2)),
        ("words", pa.list_(pa.string())),
        ("answer", pa.string()),
    ]
)
"""Columns of ``<fingerprint>/questions/<split>.parquet``: one row per question, in the order of the file."""


def questions_to_table(questions: Sequence[Question]) -> pa.Table:
    """Questions -> a table with ``QUESTION_SCHEMA``."""
    columns = [[getattr(question, name) for question in questions] for name in QUESTION_SCHEMA.names]
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, QUESTION_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=QUESTION_SCHEMA)


def questions_from_table(table: pa.Table) -> list[Question]:
    """The inverse of ``questions_to_table``."""
    return [Question(**{**row, "type": tuple(row["type"]), "words": tuple(row["words"])}) for row in table.to_pylist()]
