"""Runs preprocessing as a command: a progress bar on a terminal, a line every 10 s elsewhere, a summary at the end."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.config import PreprocessConfig
from pipelines.preprocess import PreprocessResult, preprocess
from pipelines.shards.failures import causes

_SECONDS_BETWEEN_LINES = 10.0


class ClipReporter:
    """A ``pipelines.progress.Reporter`` that prints to stderr."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._recent: deque[tuple[float, int]] = deque(maxlen=64)
        self._total = self._done = self._lost = 0
        self._last_line = time.monotonic()

    def note(self, text: str) -> None:
        self.console.print(f"note: {text}", markup=False, soft_wrap=True)

    def start(self, total: int, done: int) -> None:
        self._total, self._done = total, done
        if done == total:
            return
        kept = f", {done} exist already" if done else ""
        self.console.print(f"{total - done} of {total} clips to make{kept}", markup=False)
        self._recent.append((time.monotonic(), done))
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("preprocess"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._bar.add_task("", total=total, completed=done, status="")

    def advance(self, made: int, lost: int) -> None:
        self._done += made + lost
        self._lost += lost
        now = time.monotonic()
        self._recent.append((now, self._done))
        since, done_then = self._recent[0]
        rate = (self._done - done_then) / max(now - since, 1e-6)
        status = f"{rate:.1f} clips/s  {self._lost} failed"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, status=status)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (self._total - self._done) / rate
            self.console.print(f"{self._done}/{self._total} clips  {status}  {left:.0f} s left", markup=False)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def run(config: PreprocessConfig, *, verify: bool, as_json: bool) -> None:
    """Preprocess and print a summary of the shards.

    Args:
        config: What to preprocess.
        verify: Read everything that exists and repair what is damaged.
        as_json: Print JSON instead of text.

    Raises:
        StgcmaError: As ``pipelines.preprocess.preprocess``.
    """
    result = preprocess(config, verify=verify, reporter=ClipReporter())
    print(json.dumps(as_plain(result), indent=2) if as_json else summary(result))


def as_plain(result: PreprocessResult) -> dict[str, Any]:
    """The result as JSON values; sizes in bytes, times in seconds."""
    manifest = result.manifest
    counts = Counter((failure.stage, failure.reason) for failure in result.failures)
    return {
        "uri": result.uri,
        "dataset": manifest.dataset,
        "fingerprint": manifest.fingerprint,
        "digest": manifest.digest,
        "clips": {split: manifest.num_rows(split) for split in manifest.splits},
        "failures": manifest.num_failures,
        "causes": [{"stage": s, "reason": r, "clips": n} for (s, r), n in counts.most_common()],
        "fbank_stats": {name: {"mean": s.mean, "std": s.std, "count": s.count} for name, s in manifest.stats.items()},
        "size_bytes": sum(entry.size_bytes for entries in manifest.splits.values() for entry in entries),
        "made_shards": result.made_shards,
        "reused_shards": result.reused_shards,
        "verified": result.verified,
        "repairs": list(result.repairs),
        "nothing_to_do": result.nothing_to_do,
        "notes": list(manifest.notes),
        "seconds": round(result.seconds, 3),
    }


def summary(result: PreprocessResult) -> str:
    """The result as a few lines of text."""
    plain = as_plain(result)
    clips = ", ".join(f"{n} {split}" for split, n in plain["clips"].items())
    if result.nothing_to_do:
        state = "are as they were written" if result.verified else "exist"
        first = f"Nothing to do: all {result.reused_shards} shards {state}."
    else:
        first = f"Made {result.made_shards} shards in {result.seconds:.1f} s; {result.reused_shards} existed already."
    lines = [first, f"  clips    {clips}; {plain['size_bytes'] / 1e6:,.1f} MB"]
    lines += [
        f"  fbank    {name}: mean {s['mean']:.4f}, std {s['std']:.4f}" for name, s in plain["fbank_stats"].items()
    ]
    lines += [f"  digest   {plain['digest']}", f"  shards   {result.uri}   (--shards {result.uri.rsplit('/', 2)[0]})"]
    if result.repairs:
        lines += [f"  repaired {len(result.repairs)}", *(f"    {repair}" for repair in result.repairs)]
    if result.failures:
        lines += [f"  failed   {len(result.failures)}, listed in failures.parquet", causes(result.failures)]
    return "\n".join(lines)
