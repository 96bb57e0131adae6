"""Check that a model offers what a task needs, when a run is configured and when its model is built."""

from __future__ import annotations

from stgcma.backbone_spec import BackboneSpec
from stgcma.config import ModelConfig
from stgcma.errors import ConfigError
from stgcma.tasks.spec import CAPABILITIES, TaskSpec


def require_model(task: TaskSpec, config: ModelConfig, backbone: BackboneSpec) -> None:
    """Check a model configuration against a task.

    Args:
        task: The task.
        config: The model.
        backbone: Geometry of the model. It may differ from the registered backbone ``config.backbone``.

    Raises:
        ConfigError: If the backbone lacks a capability, the adaptation leaves no frozen backbone, or a branch that the
            task needs does not run.
    """
    missing = task.requires - _provided(task, backbone)
    if missing:
        from stgcma.models.backbones import backbone_specs

        fitting = [name for name, spec in backbone_specs().items() if task.requires <= _provided(task, spec)]
        needs = " and ".join(CAPABILITIES[name] for name in sorted(missing))
        raise ConfigError(
            f"Task {task.name!r} needs {needs}, which backbone {backbone.name!r} does not provide. "
            f"Set model.backbone to one of: {', '.join(fitting)}."
        )
    if "plain_visual" in task.requires and config.adaptation.separate_towers:
        raise ConfigError(
            f"Task {task.name!r} needs {CAPABILITIES['plain_visual']}, which model.adaptation.method: "
            f"{config.adaptation.method} does not have. Choose another method."
        )
    if not set(task.branches) <= set(config.adaptation.running):
        wanted = "both" if len(task.branches) == 2 else task.branches[0]
        raise ConfigError(
            f"Task {task.name!r} needs {'both branches' if wanted == 'both' else f'the {wanted} branch'}, got "
            f"branches: {config.adaptation.branches}. Set model.adaptation.branches: {wanted}."
        )


def _provided(task: TaskSpec, backbone: BackboneSpec) -> frozenset[str]:
    """``Backbone.provides``. Torch is imported only if the task requires something."""
    if not task.requires:
        return frozenset()
    from stgcma.models.backbones import FAMILIES

    return FAMILIES[backbone.family].provides
