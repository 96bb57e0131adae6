"""Clips that could not become rows: counted, listed with stage and reason, and compared with a budget."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import pyarrow as pa

from pipelines.clips import ClipRef
from stgcma.errors import ClipDecodeError, FailureBudgetExceededError

FAILURES_NAME = "failures.parquet"


@dataclass(frozen=True, kw_only=True)
class ClipFailure:
    """One clip that is missing in the shards."""

    clip_id: str
    split: str
    media_uri: str
    stage: str
    """``probe``, ``frames``, ``audio``, ``fbank``, ``masks``, ``encode``, ``decoder`` (the clip ended the decoding
    process, or reached its limit of time or memory) or ``unexpected`` (any other error; ``detail`` holds the
    traceback)."""
    reason: str
    """Short; failures are counted by it."""
    detail: str

    @classmethod
    def of(cls, clip: ClipRef, error: ClipDecodeError) -> ClipFailure:
        """The failure of a clip with this error."""
        return cls(
            clip_id=clip.clip_id,
            split=clip.split,
            media_uri=clip.media_uri,
            stage=error.stage,
            reason=error.reason,
            detail=error.detail,
        )


def failures_table(failures: Sequence[ClipFailure]) -> pa.Table:
    """One row per failure, in id order."""
    schema = pa.schema([(f.name, pa.string()) for f in fields(ClipFailure)])
    ordered = sorted(failures, key=lambda failure: failure.clip_id)
    return pa.Table.from_pylist([asdict(failure) for failure in ordered], schema=schema)


def causes(failures: Sequence[ClipFailure]) -> str:
    """Table of causes, most frequent first, each with an example."""
    counts = Counter((failure.stage, failure.reason) for failure in failures)
    examples: dict[tuple[str, str], str] = {}
    for failure in failures:
        examples.setdefault((failure.stage, failure.reason), f"{failure.media_uri} ({failure.split})")
    rows = [("clips", "stage", "reason", "for example")]
    rows += [(str(n), stage, reason, examples[stage, reason]) for (stage, reason), n in counts.most_common()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{r[0]:>{widths[0]}}  {r[1]:<{widths[1]}}  {r[2]:<{widths[2]}}  {r[3]}" for r in rows]
    return "\n".join(f"  {line}" for line in lines)


def check_budget(clips: Sequence[ClipRef], failures: Sequence[ClipFailure], budget: float, where: str) -> None:
    """Compare the losses of every split with the budget.

    Args:
        clips: All clips of the run.
        failures: Those that failed.
        budget: Largest fraction of a split that may be lost.
        where: URI of the output folder, for the message.

    Raises:
        FailureBudgetExceededError: If a split lost more; the message lists the causes and says what to do.
    """
    totals: dict[str, int] = defaultdict(int)
    lost: dict[str, int] = defaultdict(int)
    failed = {failure.clip_id for failure in failures}
    for clip in clips:
        for split, amount in clip.losses.items():
            totals[split] += amount
            lost[split] += amount * (clip.clip_id in failed)
    over = {split: lost[split] for split in totals if lost[split] > budget * totals[split]}
    if not over:
        return
    shares = ", ".join(f"{n} of {totals[split]} in {split} ({n / totals[split]:.1%})" for split, n in over.items())
    raise FailureBudgetExceededError(
        f"The failure budget is {budget:.1%} of each split; the run lost {shares}.\n{causes(failures)}\n"
        f"{where}/{FAILURES_NAME} lists every failure. Repair or replace these files and run the same command again, "
        "which makes only what changed; or accept the loss with a larger --failure-budget."
    )
