"""Options that depend on ``--dataset``: parsing, messages and ``--help``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from jobs import cli
from jobs.commands.own_options import read_own_options
from pipelines.options import DatasetOptions, option
from stgcma.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Bells(DatasetOptions):
    tower: str = option("north", "Which tower.")
    min_seconds: float = option(1.0, "Shortest clip.")
    order: Literal["id", "time"] = option("id", "Order of the clips.")
    muted: bool = option(False, "With the sound off.")
    limit_per_class: int | None = option(None, "Clips of one class.")
    unlisted: int = 0


@dataclass(frozen=True, kw_only=True)
class Horns(DatasetOptions):
    key: str = option("F", "Which horn.")


RECORDS = {"bells": Bells, "horns": Horns, "drums": DatasetOptions}


def read(text: str, dataset: str = "bells") -> dict[str, object]:
    return read_own_options(text.split(), dataset, RECORDS, common=["--source", "--output"])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("--tower south", {"tower": "south"}),
        ("--tower=a=b --min-seconds 2", {"tower": "a=b", "min_seconds": 2.0}),
        ("--order time --muted --limit-per-class 3", {"order": "time", "muted": True, "limit_per_class": 3}),
        ("--muted --no-muted --tower x --tower y", {"muted": False, "tower": "y"}),
        ("--min-seconds -1", {"min_seconds": -1.0}),
    ],
)
def test_values_have_the_types_of_the_record(text: str, values: dict[str, object]) -> None:
    assert read(text) == values


@pytest.mark.parametrize(
    ("text", "dataset", "message"),
    [
        ("--key G", "bells", "--key is an option of dataset horns; bells has --tower, --min-seconds, --order, --muted"),
        ("--tower x", "drums", "--tower is an option of dataset bells; drums has no options of its own."),
        ("--towr x", "bells", "There is no option --towr, did you mean --tower? bells has"),
        ("--sorce x", "drums", "There is no option --sorce, did you mean --source? drums has no"),
        ("--unlisted 3", "bells", "There is no option --unlisted"),
        ("--no-tower", "bells", "There is no option --no-tower"),
        ("x", "bells", "Unexpected argument 'x'"),
        ("--tower", "bells", "--tower needs a value."),
        ("--tower --muted", "bells", "--tower needs a value."),
        (
            "--min-seconds long",
            "bells",
            "--min-seconds needs a valid number, unable to parse string as a number",
        ),
        ("--order size", "bells", "--order needs 'id' or 'time'; got 'size'"),
    ],
)
def test_errors_name_the_dataset_of_an_option_and_what_is_needed(text: str, dataset: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(text, dataset)
    assert str(error.value).startswith(message)


def test_help_shows_the_options_by_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    cli.app(["preprocess", "--help"], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "Options of dataset ave: --labels <str> annotations," in shown
    assert "Options of dataset music-avqa: --questions <str> Folder of the questions" in shown
    assert "0 for none. [default: 0]" in shown
    assert "Datasets without options of their own: avs-s4, avs-ms3" in shown


def test_an_option_of_another_dataset_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["preprocess", "--dataset", "music-avqa", "--source", "absent", "--labels", "right_labels.h5"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "ConfigError: --labels is an option of dataset ave; music-avqa has --questions, --extra-frames.\n"
    )
