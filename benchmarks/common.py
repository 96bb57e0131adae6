"""Compares ways of doing the same work: checks that results are equal, runs them in turn, takes medians and ratios."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Check = Callable[[Any, Any], str]
"""(our result, a rival's result) -> a line that says how equal they are. Raises if they are not equal."""


@dataclass(frozen=True)
class Variant:
    """One way of doing the work. In a comparison, the first is ours and the others are rivals."""

    name: str
    run: Callable[[], Any]
    target: float | None = None
    """Ratio to reach: CPU time of this rival divided by ours. None: the target of the comparison."""


@dataclass(frozen=True)
class Measurement:
    """Medians of one variant over the rounds."""

    name: str
    wall_ms: float
    cpu_ms: float
    """Of all threads and child processes."""
    peak_mib: float
    """Peak resident memory minus the resident memory before the work."""
    ratio: float
    """CPU time of this variant divided by ours."""
    target: float | None

    @property
    def reached(self) -> bool:
        return self.target is None or self.ratio >= self.target


@dataclass(frozen=True)
class Comparison:
    """The result of one benchmark."""

    title: str
    rounds: int
    equality: str
    measurements: tuple[Measurement, ...]

    def table(self) -> str:
        """The result as text: one line per variant, and how equal the results are."""
        width = max(len(measurement.name) for measurement in self.measurements)
        lines = [f"{self.title}  (medians of {self.rounds} interleaved rounds)"]
        lines.append(f"  {'':{width}}  {'wall ms':>9} {'CPU ms':>9} {'peak MiB':>9} {'CPU ratio':>9}  target")
        for m in self.measurements:
            target = "" if m.target is None else f">= {m.target:g}  {'reached' if m.reached else 'MISSED'}"
            ratio = f"{m.wall_ms:9.1f} {m.cpu_ms:9.1f} {m.peak_mib:9.1f} {m.ratio:9.2f}"
            lines.append(f"  {m.name:{width}}  {ratio}  {target}".rstrip())
        return "\n".join([*lines, f"  {self.equality}"])


def compare(
    *,
    title: str,
    variants: Sequence[Variant],
    rounds: int,
    check: Check,
    target: float | None = None,
    units: int = 1,
) -> Comparison:
    """Run the variants in turn: once to warm up and to compare their results, then ``rounds`` times.

    Args:
        title: What is measured.
        variants: Our variant, then the rivals.
        rounds: Rounds after the warm-up.
        check: Compares our result with that of a rival.
        target: CPU ratio to reach for rivals without a target of their own.
        units: Pieces of work (clips) per call; times are given per piece.

    Raises:
        AssertionError: From ``check``, if results differ.
    """
    ours, *rivals = variants
    expected = ours.run()
    equality = "; ".join(dict.fromkeys(check(expected, rival.run()) for rival in rivals))
    samples: dict[str, list[tuple[float, float, float]]] = {variant.name: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            wall, cpu, peak = measure(variant.run)
            samples[variant.name].append((wall / units, cpu / units, peak))
    medians = {name: [statistics.median(column) for column in zip(*r, strict=True)] for name, r in samples.items()}
    our_cpu = medians[ours.name][1]
    measurements = [
        Measurement(
            variant.name,
            *medians[variant.name],
            ratio=medians[variant.name][1] / our_cpu,
            target=None if variant is ours else (variant.target or target),
        )
        for variant in variants
    ]
    return Comparison(title, rounds, equality, tuple(measurements))


def measure(run: Callable[[], Any]) -> tuple[float, float, float]:
    """Wall time and CPU time in ms, and peak memory in MiB above the start, of one call."""
    base = reset_peak()
    wall, cpu = time.perf_counter(), cpu_seconds()
    run()
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    return wall * 1e3, cpu * 1e3, max(0.0, status_mib("VmHWM") - base)


def cpu_seconds() -> float:
    """User and system time of this process, its threads and its ended children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def reset_peak() -> float:
    """Reset the peak of the resident memory (Linux) and return the resident memory in MiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return status_mib("VmHWM")
    return status_mib("VmRSS")


def status_mib(key: str) -> float:
    """A line of ``/proc/self/status`` in MiB; on other systems, the peak since the start of the process."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    line = next(line for line in status.read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) / 1024
