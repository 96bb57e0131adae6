"""The commands by name, one file per group. A command parses its options, imports the code it needs and calls it."""

from __future__ import annotations

from collections.abc import Callable

from jobs.commands import answers, data, demo, inspection, tables, training
from jobs.commands.own_options import DatasetCommand

COMMANDS: dict[str, Callable[..., None]] = {
    "synthesize": demo.synthesize,
    "preprocess": data.preprocess,
    "train": training.train,
    "evaluate": training.evaluate,
    "import": training.import_checkpoint,
    "pretrain-grounding": answers.pretrain_grounding,
    "ask": answers.ask,
    "sweep": tables.sweep,
    "report": tables.report,
    "sync": training.sync,
    "ui": training.ui,
    "verify": inspection.verify,
    "params": inspection.params,
    "demo": demo.demo,
}
"""Command name -> typer function, in the order of ``--help``."""

CLASSES: dict[str, type[DatasetCommand]] = {"synthesize": demo.SynthesizeCommand, "preprocess": data.PreprocessCommand}
"""Commands with options that depend on ``--dataset``."""
