"""The options of ``stgcma-jobs demo``."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.cli import main
from jobs.demo.act import Act


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), ["t4", "masks"]),
        (("--act", "1", "--task", "t3"), ["t3"]),
        (("--act", "2"), ["masks"]),
    ],
)
def test_both_acts_run_unless_one_is_chosen(
    words: tuple[str, ...], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Act, str, dict[str, Any]]] = []
    monkeypatch.setattr("jobs.demo.runner.run_act", lambda act, output, **options: calls.append((act, output, options)))
    with pytest.raises(SystemExit) as end:
        main(["demo", *words, "--output", "here", "--clips", "80", "--seeds", "2", "--set", "optim.epochs=1"])
    assert not end.value.code
    assert [act.name for act, _, _ in calls] == names
    for act, output, options in calls:
        assert act.synthetic.split_sizes["train"] == 80
        assert output == "here"
        assert options == {"seeds": (0, 1), "concurrency": None, "overrides": ("optim.epochs=1",)}


def test_an_unknown_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["demo", "--task", "t9"])
    assert end.value.code
    assert "task needs one of t1, t3, t4" in capsys.readouterr().err
