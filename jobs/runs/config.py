"""``RunConfig``, the complete settings of one run, and the fingerprint that names the run."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from stgcma.config import DataConfig, ModelConfig, OptimConfig
from stgcma.errors import ConfigError
from stgcma.models.backbones import backbone_spec
from stgcma.tasks import TASKS
from stgcma.tasks.requirements import require_model

NOT_IDENTIFYING = ("name", "data.shards", "data.loader_workers", "optim.checkpoint_every_steps")
"""Settings that cannot change the trained weights, only where or how a run executes. The fingerprint omits them."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of one training run. Each part checks itself; the checks here involve several parts."""

    name: str
    """First part of the name of the run folder. Letters, digits, ``.``, ``_`` and ``-``."""
    task: str
    """A name in ``stgcma.tasks.TASKS``."""
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig

    def __post_init__(self) -> None:
        problems = []
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            problems.append(
                f"name: {self.name!r} cannot name a folder. Use letters, digits, '.', '_' and '-', and begin with a "
                "letter or digit."
            )
        if self.task not in TASKS:
            problems.append(f"task: unknown task {self.task!r}; choose one of: {', '.join(TASKS)}.")
        try:
            spec = backbone_spec(self.model.backbone)
            if self.task in TASKS:
                require_model(TASKS[self.task], self.model, spec)
                spec.fbank_for(TASKS[self.task].fbank)
            self.model.adaptation.check(spec)
        except ConfigError as error:
            problems.extend(f"model: {problem}" for problem in error.problems)
        if self.model.frozen_dtype == "bfloat16" and self.optim.mixed_precision != "bf16":
            problems.append(
                "model.frozen_dtype: bfloat16 needs optim.mixed_precision: bf16, "
                f"got mixed_precision: {self.optim.mixed_precision}. Set one or the other."
            )
        if problems:
            raise ConfigError(*problems)

    @property
    def run_name(self) -> str:
        """Name of the run folder: ``<name>-<fingerprint>``. Only equivalent settings share a folder."""
        return f"{self.name}-{fingerprint(self)}"


def to_mapping(config: RunConfig) -> dict[str, Any]:
    """The configuration as dicts, lists and scalars, ready for YAML and JSON."""
    return json.loads(json.dumps(asdict(config)))


def flatten(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> flat mapping with dotted keys: ``{"model.backbone": "clip_vit_b16", ...}``. Keeps the order."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def fingerprint(config: RunConfig) -> str:
    """First 10 hex digits of the sha256 of all settings that can change the trained weights.

    Equivalent settings get the same fingerprint. ``NOT_IDENTIFYING`` lists the settings that are left out.
    """
    flat = {key: _canonical(value) for key, value in flatten(to_mapping(config)).items() if key not in NOT_IDENTIFYING}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:10]


def _canonical(value: Any) -> Any:
    """Integers as floats, because ``2`` and ``2.0`` are the same setting."""
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def with_shards(config: RunConfig, shards: str | None) -> RunConfig:
    """The run with another root of the shards; None keeps the root that the recipe names."""
    return config if shards is None else replace(config, data=replace(config.data, shards=shards))
