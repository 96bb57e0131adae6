"""Reads ablation files: a base recipe and named variants become the rows of a table and their trials.

```yaml
name: table7
title: "Table 7: which stages matter"
base: avs_swin_large_base   # a shipped recipe or a path relative to this file; a run may have its own base
seeds: [0, 1, 2]
compare_with: full                          # row to compare the others with; default: the last row
published: table3                           # other methods in the table: a key of jobs/published.yaml
plot_with: table3                           # other methods in the plots: a key of jobs/published.yaml
set: {optim.protocol: val}                  # settings changed in every run
runs:
  - name: none
    title: "no adapters"                    # shown in the table
    section: "Single stages"                # heading above the row
    set: {model.adaptation: {method: none}} # a whole section, or single settings by their dotted names
    paper: {params/trainable_millions: 21.2, test/miou: 55.9}   # percentages as printed
grid: {optim.learning_rate: [1e-4, 3e-4]}   # every run with every combination of these values
```

A trial is one row with one seed. The fingerprint of its configuration identifies it, not its name. Rows can be renamed,
reordered and added, and rows of several files with the same settings share their trials.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from jobs import SHIPPED
from jobs.runs.config import RunConfig, fingerprint, flatten, to_mapping, with_shards
from jobs.runs.configfile import apply_overrides, build, find_file, parse_override, read_mapping
from stgcma.errors import ConfigError
from stgcma.tasks import task_spec
from stgcma.tasks.spec import TaskSpec

T = TypeVar("T")

PUBLISHED = SHIPPED / "published.yaml"

PARAMETER_KEYS = ("params/trainable_millions", "params/total_millions")
"""Published values other than metrics, in millions as the paper prints them."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table: a configuration that is trained once per seed."""

    name: str
    title: str
    section: str
    changes: dict[str, Any]
    """Dotted setting -> value, where the row differs from the recipe."""
    paper: dict[str, float]
    """Published values: ``test/<metric>`` as a percentage, parameters in millions."""
    note: str
    config: RunConfig
    """The configuration with the first seed."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row with one seed: one training run."""

    row: str
    seed: int
    config: RunConfig

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.config)


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A checked ablation file."""

    name: str
    title: str
    path: str
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    metrics: tuple[str, ...]
    """Columns of the table, e.g. ``test/miou``; the first is the main one."""
    compare_with: str
    published: str | None
    """Key of ``jobs/published.yaml`` whose methods the table shows."""
    plot_with: str | None
    """Key of ``jobs/published.yaml`` whose methods the plot of metric against parameters shows."""
    note: str
    overrides: tuple[str, ...] = ()
    """``--set`` texts that were applied to every row."""
    shards: str | None = None
    """Root of the shards; None: the one that the recipes name."""

    @property
    def task(self) -> TaskSpec:
        """The task, the same for all rows."""
        return task_spec(self.rows[0].config.task)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, seed by seed, so that an interrupted sweep has all rows with some seeds, not some rows."""
        return tuple(
            Trial(row=row.name, seed=seed, config=with_seed(row, seed, self.name))
            for seed in self.seeds
            for row in self.rows
        )

    def only(self, names: Iterable[str]) -> Ablation:
        """The table with these rows only; no names keep all rows.

        Raises:
            ConfigError: If a row does not exist.
        """
        wanted = list(names)
        known = [row.name for row in self.rows]
        problems = [f"--only {name}: {_no_such(name, known, 'row')}" for name in wanted if name not in known]
        if problems:
            raise ConfigError(*problems)
        return replace(self, rows=tuple(row for row in self.rows if not wanted or row.name in wanted))


@dataclass(frozen=True, kw_only=True)
class PublishedMethod:
    """Another method's row in the paper, with percentages and millions as printed."""

    method: str
    metrics: dict[str, float]
    visual: str = ""
    audio: str = ""
    trainable_millions: float | None = None
    total_millions: float | None = None
    note: str = ""

    @property
    def title(self) -> str:
        encoders = ", ".join(encoder for encoder in (self.visual, self.audio) if encoder and encoder != "shared")
        return f"{self.method}, {encoders}" if encoders else self.method


@cache
def published_methods() -> dict[str, tuple[PublishedMethod, ...]]:
    """Table of the paper -> its rows of other methods."""
    tables = read_mapping(PUBLISHED)
    return {
        table: tuple(build(PublishedMethod, row, f"{PUBLISHED.name}, {table}") for row in rows)
        for table, rows in tables.items()
    }


def with_seed(row: Row, seed: int, ablation: str) -> RunConfig:
    """The configuration of one trial, named after the table, the row and the seed."""
    config = row.config
    return replace(config, name=f"{ablation}-{row.name}-s{seed}", optim=replace(config.optim, seed=seed))


@dataclass(frozen=True, kw_only=True)
class _File:
    """The top level of an ablation file."""

    name: str
    base: str
    runs: tuple[dict[str, Any], ...]
    title: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    set: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    compare_with: str | None = None
    published: str | None = None
    plot_with: str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One item of ``runs``."""

    name: str
    title: str = ""
    section: str = ""
    base: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    note: str = ""


def load_ablation(path: str | Path, overrides: Iterable[str] = (), *, shards: str | None = None) -> Ablation:
    """Read and check an ablation file.

    Args:
        path: The file, or the name of a shipped ablation.
        overrides: ``--set`` texts, applied to every row.
        shards: Root of the shards; None keeps the root that the recipes name.

    Raises:
        ConfigError: With all problems of the file: unknown keys and settings, settings that change nothing, rows with
            the same settings, published metrics that the task does not report.
    """
    path, overrides = find_file(path), tuple(overrides)
    problems: list[str] = []
    found = read_mapping(path)
    if "model" in found and "runs" not in found:
        raise ConfigError(f"{path} is a recipe, not an ablation. Run: stgcma-jobs train {path}")
    mapping = _without_unknown(_File, found, "", problems)
    content = _attempt(problems, "", lambda: build(_File, mapping, str(path)))
    if content is None:
        raise ConfigError(*problems, where=str(path))
    ablation = _Reader(path, content, overrides, problems).read()
    rows = tuple(replace(row, config=with_shards(row.config, shards)) for row in ablation.rows)
    return replace(ablation, rows=rows, shards=shards)


class _Reader:
    """Turns the entries of a file into rows and collects the problems."""

    def __init__(self, path: Path, content: _File, overrides: tuple[str, ...], problems: list[str]) -> None:
        self.path, self.content, self.overrides, self.problems = path, content, overrides, problems
        self.common = {**content.set, **dict(parse_override(text) for text in overrides)}
        self.bases: dict[str, tuple[dict[str, Any], RunConfig] | None] = {}
        self.points_at_base: dict[str, str] = {}

    def read(self) -> Ablation:
        content = self.content
        if not content.runs:
            self.problems.append("runs: needs at least one entry.")
        if not content.seeds or len(set(content.seeds)) < len(content.seeds):
            self.problems.append(f"seeds: needs different integers, got {list(content.seeds)}.")
        self._check_seed_setting("set", self.common)
        self._check_seed_setting("grid", content.grid)
        for setting, values in content.grid.items():
            if len(values) < 2 or any(a == b for a, b in itertools.combinations(values, 2)):
                self.problems.append(f"grid.{setting}: needs at least two different values, got {list(values)}.")
        rows = [row for number, entry in enumerate(content.runs) for row in self._rows(number, entry)]
        self._check_names(rows)
        self._check_twins(rows)
        metrics = self._metrics(rows)
        names = [row.name for row in rows]
        compare_with = self._reference(names)
        if names and compare_with not in names:
            self.problems.append(f"compare_with: {_no_such(compare_with, names, 'row')}")
        for key, table in (("published", content.published), ("plot_with", content.plot_with)):
            if table is not None and table not in published_methods():
                self.problems.append(f"{key}: {_no_such(table, published_methods(), 'table')}")
        if self.problems:
            raise ConfigError(*self.problems, where=str(self.path))
        return Ablation(
            name=content.name,
            title=content.title or content.name,
            path=str(self.path),
            seeds=content.seeds,
            rows=tuple(rows),
            metrics=metrics,
            compare_with=compare_with,
            published=content.published,
            plot_with=content.plot_with,
            note=content.note,
            overrides=self.overrides,
        )

    def _rows(self, number: int, values: dict[str, Any]) -> Iterable[Row]:
        """The rows of one entry: one per point of the grid."""
        where = f"runs.{values.get('name', number)}"
        known = _without_unknown(_Entry, values, f"{where}.", self.problems)
        entry = _attempt(self.problems, where, lambda: build(_Entry, known, where))
        if entry is None:
            return
        self._check_seed_setting(f"{where}.set", entry.set)
        base = self._base(entry.base or self.content.base)
        if base is None:
            return
        for setting in sorted(set(entry.set) & set(self.content.grid)):
            self.problems.append(f"{where}.set.{setting}: also set in grid; remove one.")
        for point in itertools.product(*self.content.grid.values()):
            place = dict(zip(self.content.grid, point, strict=True))
            suffix = "".join(f"-{key.rpartition('.')[2]}-{_slug(value)}" for key, value in place.items())
            row = self._row(where, entry, base, place, suffix)
            if row is not None:
                yield row

    def _row(
        self,
        where: str,
        entry: _Entry,
        base: tuple[dict[str, Any], RunConfig],
        place: dict[str, Any],
        suffix: str,
    ) -> Row | None:
        changes = {**entry.set, **place}
        name = entry.name + suffix
        settings = {"name": f"{self.content.name}-{name}", "optim.seed": (self.content.seeds or (0,))[0]}
        overrides = {**changes, **settings}
        config = _attempt(
            self.problems, where, lambda: build(RunConfig, apply_overrides(base[0], overrides, where), where)
        )
        if config is None:
            return None
        flat, flat_base = flatten(to_mapping(config)), flatten(to_mapping(base[1]))
        for setting in set(entry.set) - set(settings):
            keys = [key for key in {**flat_base, **flat} if key == setting or key.startswith(f"{setting}.")]
            if all(flat.get(key) == flat_base.get(key) for key in keys):
                shown = ", ".join(f"{flat.get(key)}" for key in keys[:3])
                self.problems.append(f"{where}.set.{setting}: the base already has {shown}; remove the setting.")
        at_base = all(flat.get(key) == flat_base.get(key) for key in place)
        if at_base:
            self.points_at_base[entry.name] = name
        return Row(
            name=name,
            title=(entry.title or entry.name) + "".join(f", {k.rpartition('.')[2]} {v}" for k, v in place.items()),
            section=entry.section,
            changes={**self.common, **changes},
            paper=self._paper(where, entry, config.task) if at_base else {},
            note=entry.note,
            config=config,
        )

    def _paper(self, where: str, entry: _Entry, task: str) -> dict[str, float]:
        known = [*PARAMETER_KEYS, *(f"test/{metric}" for metric in task_spec(task).metric_names)]
        for key, value in entry.paper.items():
            if key not in known:
                self.problems.append(f"{where}.paper.{key}: {_no_such(key, known, 'value', f'task {task} reports')}")
            elif key.startswith("test/") and not 1 < value <= 100:
                self.problems.append(f"{where}.paper.{key}: needs a percentage as printed, such as 55.9; got {value}.")
        return dict(entry.paper)

    def _metrics(self, rows: list[Row]) -> tuple[str, ...]:
        """The columns: those of the file, else the published ones, else the selection metric."""
        tasks = sorted({row.config.task for row in rows})
        if len(tasks) > 1:
            self.problems.append(f"runs: all rows need the same task, got {', '.join(tasks)}.")
        if not tasks:
            return ()
        task = task_spec(tasks[0])
        known = [f"test/{metric}" for metric in task.metric_names]
        for metric in self.content.metrics:
            if metric not in known:
                self.problems.append(f"metrics: {_no_such(metric, known, 'metric', f'task {task.name} reports')}")
        published = [metric for metric in known if any(metric in row.paper for row in rows)]
        return self.content.metrics or tuple(published) or (f"test/{task.selection_metric}",)

    def _base(self, recipe: str) -> tuple[dict[str, Any], RunConfig] | None:
        """Settings and configuration of a recipe with the common changes. Reports the recipe's problems once."""
        if recipe not in self.bases:
            where = f"base {recipe}"

            def read() -> tuple[dict[str, Any], RunConfig]:
                beside, shipped = self.path.parent / recipe, find_file(recipe)
                file = shipped if shipped.exists() and not beside.exists() else beside
                mapping = apply_overrides(read_mapping(file), self.common, where)
                return mapping, build(RunConfig, mapping, where)

            self.bases[recipe] = _attempt(self.problems, where, read)
        return self.bases[recipe]

    def _check_seed_setting(self, where: str, settings: Mapping[str, Any]) -> None:
        for key in ("name", "optim.seed"):
            if key in settings:
                advice = "list the seeds under seeds" if key == "optim.seed" else "the entry's name names the runs"
                self.problems.append(f"{where}.{key}: cannot be set; {advice}.")

    def _reference(self, names: list[str]) -> str:
        """The row to compare with. If it names an entry with a grid, the row with the recipe's own values."""
        wanted = self.content.compare_with
        if wanted is None:
            return names[-1] if names else ""
        return wanted if wanted in names else self.points_at_base.get(wanted, wanted)

    def _check_names(self, rows: list[Row]) -> None:
        names = [row.name for row in rows]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self.problems.append(f"runs: {names.count(name)} entries are named {name!r}; give each its own name.")

    def _check_twins(self, rows: list[Row]) -> None:
        by_settings: dict[str, str] = {}
        for row in rows:
            first = by_settings.setdefault(fingerprint(row.config), row.name)
            if first != row.name:
                self.problems.append(
                    f"runs.{row.name}: has the same settings as {first!r}; remove or change one of them."
                )


def _attempt(problems: list[str], where: str, make: Callable[[], T]) -> T | None:
    """Call ``make``; if it raises ``ConfigError``, add its problems to ``problems`` and return None."""
    try:
        return make()
    except ConfigError as error:
        problems.extend(f"{where}: {problem}" if where else problem for problem in error.problems)
        return None


def _without_unknown(cls: type, mapping: Mapping[str, Any], prefix: str, problems: list[str]) -> dict[str, Any]:
    known = [f.name for f in fields(cls)]
    problems.extend(f"{prefix}{key}: {_no_such(str(key), known, 'key')}" for key in mapping if key not in known)
    return {key: value for key, value in mapping.items() if key in known}


def _no_such(name: str, known: Iterable[str], kind: str, lead: str = "known") -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"no such {kind} {name!r}; " + (f"did you mean {close[0]!r}?" if close else f"{lead}: {', '.join(known)}.")


def _slug(value: Any) -> str:
    """A grid value as part of a row's name."""
    return re.sub(r"[^A-Za-z0-9._]+", "_", str(value)).strip("_") or "none"


def ablation_to_mapping(ablation: Ablation) -> dict[str, Any]:
    """The ablation as plain values. ``ablation_from_mapping`` needs no recipes to read them."""
    return json.loads(json.dumps(asdict(ablation)))


def ablation_from_mapping(mapping: Mapping[str, Any]) -> Ablation:
    """Rebuild an ablation from the result of ``ablation_to_mapping``.

    Raises:
        ConfigError: If the values do not describe an ablation.
    """
    return build(Ablation, mapping, f"the recorded sweep {mapping.get('name')!r}")
