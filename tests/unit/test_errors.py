"""The message of a ``ConfigError``, its problems, and its way between processes."""

from __future__ import annotations

import pickle

import pytest

from stgcma.errors import ConfigError


@pytest.mark.parametrize(
    ("problems", "where", "message"),
    [
        (("needed x, got y.",), "", "needed x, got y."),
        (("a: one.", "b: two."), "", "a: one.\nb: two."),
        (("a: one.",), "my.yaml", "my.yaml has 1 problem\n  a: one."),
        (("a: one.", "b: two."), "my.yaml", "my.yaml has 2 problems\n  a: one.\n  b: two."),
    ],
)
def test_message_and_problems_survive_the_way_between_processes(problems: tuple[str, ...], where: str, message: str):
    for error in (made := ConfigError(*problems, where=where), pickle.loads(pickle.dumps(made))):
        assert str(error) == message
        assert error.problems == problems
