"""The errors a user can cause, one class per kind of cause.

Every message says what was needed, what was got and what to do. Commands print the message alone and exit 2;
``--debug`` shows the traceback.
"""


class StgcmaError(Exception):
    """Base of all errors whose message is meant for the person who started the command."""


class ConfigError(StgcmaError, ValueError):
    """A configuration that cannot be run: unknown key, impossible combination, value out of range.

    Args:
        problems: A sentence each; one problem is the message itself, several take a line each.
        where: The file or record they were found in. It heads the message, with the number of problems.
    """

    def __init__(self, *problems: str, where: str = "") -> None:
        if where:
            heading = f"{where} has {len(problems)} problem{'s' if len(problems) > 1 else ''}"
            super().__init__("\n  ".join([heading, *problems]))
        else:
            super().__init__("\n".join(problems))
        self.problems = problems


class ShardMismatchError(StgcmaError, ValueError):
    """Shards that do not hold what the model or task reads."""


class RunLockedError(ConfigError):
    """A run folder that another process is training."""


class DatasetLayoutError(StgcmaError, ValueError):
    """A dataset folder that is not laid out as its documentation says: missing list, malformed row."""


class ClipDecodeError(StgcmaError, RuntimeError):
    """One clip that cannot be turned into a row. Preprocessing counts it as a ``ClipFailure``.

    Args:
        stage: Where it failed: ``probe``, ``frames``, ``audio``, ``fbank``, ``masks`` or ``encode``.
        reason: A short, countable cause without file names, e.g. ``no audio stream``.
        detail: The full message, file name and library error included.
    """

    def __init__(self, stage: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{stage}: {reason}" + (f" ({detail})" if detail else ""))
        self.stage = stage
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple:
        return (type(self), (self.stage, self.reason, self.detail))


class FailureBudgetExceededError(StgcmaError, RuntimeError):
    """More clips of a split failed than the failure budget allows."""


class CheckpointError(StgcmaError, RuntimeError):
    """A checkpoint or weight file that is missing, damaged or of another model."""


class ParityError(StgcmaError, RuntimeError):
    """Outputs that differ from the reference vectors by more than the tolerance."""


class RunFailedError(StgcmaError, RuntimeError):
    """A run that was started correctly and then failed: a loss that is not finite, workers lost too often."""
