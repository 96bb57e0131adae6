"""``stgcma-jobs sweep FILE --dry-run``: parameters, FLOPs and steps of every row, without weights or data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from jobs.runs.config import RunConfig, flatten, to_mapping
from jobs.tables.ablation import Ablation, Row
from jobs.tables.flops import model_cost
from stgcma.data.manifest import select_manifest
from stgcma.errors import ShardMismatchError
from stgcma.models.backbones import backbone_spec
from stgcma.tasks import task_spec

PUBLISHED_TRAINING_CLIPS = {"ave": 3339, "avs-s4": 3452, "avs-ms3": 296}
"""Training clips of the official splits, to count the steps of a run whose shards do not exist yet."""

MUSIC_AVQA_TRAINING_QUESTIONS = 32_087


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """One row of the dry run."""

    name: str
    title: str
    section: str
    changes: dict[str, Any]
    trainable: int
    total: int
    published_trainable_millions: float | None
    published_total_millions: float | None
    gflops_forward: float
    """Forward pass in evaluation, per clip."""
    gflops_training: float
    """Forward and backward pass in training, per clip."""
    epochs: int
    steps_per_epoch: int | None
    """None if it depends on shards that do not exist yet."""
    steps: int | None
    steps_from: str
    """``shards``, ``official split`` or ``unknown``."""
    fingerprints: tuple[str, ...]
    """Fingerprints of the trials, one per seed."""
    note: str


def plan_rows(ablation: Ablation) -> Iterable[RowPlan]:
    """Build the model of each row on the meta device and count its parameters and FLOPs."""
    trials = ablation.trials
    for row in ablation.rows:
        config = row.config
        cost = model_cost(config.task, config.model)
        steps_per_epoch, steps_from = _steps_per_epoch(config)
        yield RowPlan(
            name=row.name,
            title=row.title,
            section=row.section,
            changes=_shown_changes(row),
            trainable=cost.parameters.trainable,
            total=cost.parameters.total,
            published_trainable_millions=row.paper.get("params/trainable_millions"),
            published_total_millions=row.paper.get("params/total_millions"),
            gflops_forward=cost.flops.forward / 1e9,
            gflops_training=cost.flops.training / 1e9,
            epochs=config.optim.epochs,
            steps_per_epoch=steps_per_epoch,
            steps=None if steps_per_epoch is None else steps_per_epoch * config.optim.epochs,
            steps_from=steps_from,
            fingerprints=tuple(trial.fingerprint for trial in trials if trial.row == row.name),
            note=row.note,
        )


def as_json(ablation: Ablation, rows: Iterable[RowPlan]) -> dict[str, Any]:
    """Plain values for ``--json``."""
    return {
        "name": ablation.name,
        "title": ablation.title,
        "seeds": list(ablation.seeds),
        "metrics": list(ablation.metrics),
        "rows": [asdict(row) for row in rows],
    }


def format_plan(ablation: Ablation, rows: Iterable[RowPlan]) -> str:
    """The plan as text: a table and the notes of the rows."""
    rows = list(rows)
    name_width = max([len("row"), *(len(row.name) for row in rows)])
    num_trials = len(rows) * len(ablation.seeds)
    lines = [
        f"{ablation.title}",
        f"{len(rows)} rows x {len(ablation.seeds)} seeds ({', '.join(map(str, ablation.seeds))}) = {num_trials} trials",
        "",
        f"{'row':{name_width}}  {'trainable':>11}  {'paper':>7}  {'total':>11}  {'paper':>7}  "
        f"{'GFLOP fwd':>9}  {'train':>7}  {'steps':>7}  changes",
    ]
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            lines.append(f"- {section}")
        steps = "?" if row.steps is None else f"{row.steps:,}"
        lines.append(
            f"{row.name:{name_width}}  {row.trainable:11,}  {_millions(row.published_trainable_millions):>7}  "
            f"{row.total:11,}  {_millions(row.published_total_millions):>7}  {row.gflops_forward:9,.0f}  "
            f"{row.gflops_training:7,.0f}  {steps:>7}  {format_changes(row.changes)}"
        )
    lines += ["", "GFLOP per clip: forward pass in evaluation; forward and backward pass in training."]
    sources = {row.steps_from for row in rows}
    if "official split" in sources:
        lines.append("The shards do not exist yet, so steps are counted with the official training split.")
    if "unknown" in sources:
        lines.append(
            "Steps (?) depend on the number of videos that the questions are about; it is known once the shards exist."
        )
    lines += [f"{row.name}: {row.note}" for row in rows if row.note]
    return "\n".join(lines)


def format_changes(changes: dict[str, Any]) -> str:
    """``{"model.adaptation.fusion": "none"}`` -> ``fusion=none``; only the last part of a name is shown."""
    return ", ".join(f"{key.rpartition('.')[2]}={_plain(value)}" for key, value in changes.items()) or "-"


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _shown_changes(row: Row) -> dict[str, Any]:
    """The changed settings one by one; for a row without changes, its backbone and size."""
    flat = flatten(to_mapping(row.config))
    shown = {key: flat[key] for change in row.changes for key in flat if key == change or key.startswith(f"{change}.")}
    return shown or {key: flat[key] for key in ("model.backbone", "model.adaptation.size") if key in flat}


def _millions(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}M"


def _steps_per_epoch(config: RunConfig) -> tuple[int | None, str]:
    """Optimiser steps per epoch, and the source of the number of clips."""
    data, batch_size = config.data, config.optim.batch_size
    num_clips: int | None = PUBLISHED_TRAINING_CLIPS.get(data.dataset)
    steps_from = "official split"
    task = task_spec(config.task)
    if task.unit == "questions":
        num_clips = MUSIC_AVQA_TRAINING_QUESTIONS if data.questions_per_video == 1 else None
    elif task.unit == "videos":
        num_clips = None
    else:
        fbank = backbone_spec(config.model.backbone).fbank_for(task.fbank)
        try:
            manifest = select_manifest(data.shards, data.dataset, fbank=fbank, fingerprint=data.fingerprint)
            num_clips, steps_from = manifest.num_rows("train"), "shards"
        except ShardMismatchError:
            pass  # not preprocessed yet: count the official split
    if num_clips is None:
        return None, "unknown"
    if data.limit_train_clips is not None:
        num_clips = min(num_clips, data.limit_train_clips)
    return num_clips // batch_size, steps_from
