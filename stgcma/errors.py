"""Errors that a user can cause, one class per kind of cause.

Every message says what was needed, what was got and what to do. Commands print only the message and exit with status 2.
``--debug`` also prints the traceback.
"""

from __future__ import annotations


class StgcmaError(Exception):
    """Base class of all errors whose message is written for the user."""


class ConfigError(StgcmaError, ValueError):
    """A configuration that cannot run: an unknown key, an impossible combination or a value out of range.

    Args:
        problems: One sentence per problem. A single problem is the message itself; several take one line each.
        where: Source of the configuration, such as a file. It heads the message, with the number of problems.
    """

    def __init__(self, *problems: str, where: str = "") -> None:
        if where:
            heading = f"{where} has {len(problems)} problem{'s' if len(problems) > 1 else ''}"
            super().__init__("\n  ".join([heading, *problems]))
        else:
            super().__init__("\n".join(problems))
        self.problems = problems


class ShardMismatchError(StgcmaError, ValueError):
    """Shards that do not hold what the model or the task reads."""


class RunLockedError(ConfigError):
    """A run folder in which another process is training."""


class DatasetLayoutError(StgcmaError, ValueError):
    """A dataset folder that differs from the official layout, e.g. by a missing list or a malformed row."""


class ClipDecodeError(StgcmaError, RuntimeError):
    """A clip that cannot be turned into a row. Preprocessing records it as a ``ClipFailure``.

    Args:
        stage: Step that failed: ``probe``, ``frames``, ``audio``, ``fbank``, ``masks`` or ``encode``.
        reason: Short cause without file names, so that failures can be counted by it, e.g. ``no audio stream``.
        detail: Full message with the file name and the error of the library.
    """

    def __init__(self, stage: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{stage}: {reason}" + (f" ({detail})" if detail else ""))
        self.stage = stage
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[ClipDecodeError], tuple[str, str, str]]:
        return (type(self), (self.stage, self.reason, self.detail))


class FailureBudgetExceededError(StgcmaError, RuntimeError):
    """More clips of a split failed than the failure budget allows."""


class CheckpointError(StgcmaError, RuntimeError):
    """A checkpoint or weight file that is missing, is damaged or belongs to another model."""


class ParityError(StgcmaError, RuntimeError):
    """Outputs that differ from the reference vectors by more than the tolerance."""


class RunFailedError(StgcmaError, RuntimeError):
    """A run that failed after its start, e.g. because the loss is not finite or workers were lost too often."""
