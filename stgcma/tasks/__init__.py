"""Tasks by name."""

from stgcma.config import ModelConfig
from stgcma.errors import ConfigError
from stgcma.tasks.ave import AVETask
from stgcma.tasks.avqa import AVQATask
from stgcma.tasks.avs import AVSTask
from stgcma.tasks.base import AudioVisualModel, Metrics, Outputs, Task, build_model
from stgcma.tasks.grounding import GroundingTask

TASKS: dict[str, type[Task]] = {"ave": AVETask, "avs": AVSTask, "avqa": AVQATask, "grounding": GroundingTask}

__all__ = ["TASKS", "AudioVisualModel", "Metrics", "Outputs", "Task", "build_model", "build_task"]


def build_task(name: str, config: ModelConfig) -> Task:
    """The task of a run; unknown names list the valid ones."""
    if name not in TASKS:
        raise ConfigError(f"Unknown task {name!r}; choose one of: {', '.join(TASKS)}.")
    return TASKS[name](config)
