"""Exact parameter counts of every row of the paper's tables, by role, without weights."""

import json
from pathlib import Path

import pytest

from stgcma.parity.parameter_counts import ROWS, count_rows

pytestmark = pytest.mark.slow

EXPECTED = json.loads((Path(__file__).parent / "param_counts.json").read_text())
TABLES = sorted({row.table for row in ROWS})


@pytest.mark.parametrize("table", TABLES)
def test_counts_of_table(table):
    expected = {(r["row"], r["backbone"]): r for r in EXPECTED if r["table"] == table}
    counted = {(r.row, r.backbone): r for r in count_rows(row for row in ROWS if row.table == table)}
    assert counted.keys() == expected.keys()
    for key, row in counted.items():
        reference = expected[key]
        assert (row.trainable, row.total) == (reference["measured_trainable"], reference["measured_total"]), key
        assert row.is_published_row == reference["is_published_row"], key
        assert row.published_trainable_millions == reference["published_trainable_M"], key
        assert row.published_total_millions == reference["published_total_M"], key
        assert row.ratios == reference["ratio"], key
        assert sum(row.by_role.values()) == row.total
        if row.row != "Full finetuning":
            roles = {**reference["breakdown_trainable"], **reference["breakdown_frozen"]}
            assert row.by_role == {role: n for role, n in roles.items() if n}, key
