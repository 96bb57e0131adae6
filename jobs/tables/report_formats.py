"""Formats a report as Markdown, LaTeX or CSV. ``report_html.py`` formats it as HTML.

``blocks`` builds the tables as titles and cells, and each format prints the same ``Block``. A table with one metric has
columns for the published value, ours and the difference. A table with several metrics has one line for each of
published and ours.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace

from jobs.runs.config import NOT_IDENTIFYING
from jobs.tables.ablation import Row
from jobs.tables.report import Estimate, Report, RowReport

MISSING = "–"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One printed line of a table."""

    cells: tuple[str, ...]
    kind: str = "ours"
    """``section``, ``published`` (another method), ``paper`` (our row, published values), ``ours`` or ``missing``."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One table: title, column headings and lines. The first column is text, the others are numbers."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]


def percent(value: float | None, *, signed: bool = False) -> str:
    """``0.8333`` -> ``83.3``."""
    if value is None:
        return MISSING
    return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"


def printed(value: float | None) -> str:
    """A value as the paper prints it."""
    return MISSING if value is None else f"{value:.1f}"


def millions(count: int | None) -> str:
    """Exact count -> millions: ``20.1``, or three digits below a million, to tell small models apart."""
    if count is None:
        return MISSING
    return f"{count / 1e6:.1f}" if count >= 1e6 else f"{count / 1e6:.3f}"


def with_interval(estimate: Estimate | None, *, signed: bool = False) -> str:
    """``83.1 [82.4, 83.9]`` in percent, or the mean alone if there is no interval."""
    if estimate is None:
        return MISSING
    mean = percent(estimate.mean, signed=signed)
    if estimate.low is None:
        return mean
    return f"{mean} [{percent(estimate.low, signed=signed)}, {percent(estimate.high, signed=signed)}]"


def blocks(report: Report) -> tuple[Block, ...]:
    """The tables of a report: results, comparisons and runs, without empty ones."""
    made = [_results(report) if len(report.ablation.metrics) == 1 else _results_by_metric(report)]
    if report.comparisons:
        made.append(_comparisons(report))
    made.append(_runs(report))
    return tuple(block for block in made if block.lines)


def _sections(report: Report) -> Iterable[tuple[str, list[RowReport]]]:
    """The rows by section, in the order of first appearance."""
    sections: dict[str, list[RowReport]] = {}
    for row in report.rows:
        sections.setdefault(row.row.section, []).append(row)
    return sections.items()


def _protocol(row: RowReport) -> str:
    return "/".join(sorted({trial.protocol for trial in row.trials})) or MISSING


def _seeds(row: RowReport) -> str:
    done, wanted = len(row.trials), len(row.trials) + len(row.missing)
    return str(done) if done == wanted else f"{done} of {wanted}"


def _results(report: Report) -> Block:
    metric = report.headline
    name = report.heading(metric)
    columns = (
        "",
        "trainable M",
        "trainable M, paper",
        "total M",
        "total M, paper",
        f"{name} %, paper",
        f"{name} %, ours [95 %]",
        "difference",
        "seeds",
        "selected on",
    )
    lines = [Line(cells=("Published methods",), kind="section")] if report.published else []
    for method in report.published:
        numbers = (MISSING, printed(method.trainable_millions), MISSING, printed(method.total_millions))
        value = printed(method.metrics.get(metric.removeprefix("test/")))
        lines.append(Line(cells=(method.title, *numbers, value, *[MISSING] * 4), kind="published"))
    for section, rows in _sections(report):
        if section:
            lines.append(Line(cells=(section,), kind="section"))
        for row in rows:
            paper = row.row.paper
            lines.append(
                Line(
                    cells=(
                        row.row.title,
                        millions(row.trainable),
                        printed(paper.get("params/trainable_millions")),
                        millions(row.total),
                        printed(paper.get("params/total_millions")),
                        printed(paper.get(metric)),
                        with_interval(row.estimates.get(metric)),
                        percent(row.difference(metric), signed=True),
                        _seeds(row),
                        _protocol(row),
                    ),
                    kind="ours" if row.trials else "missing",
                )
            )
    return _without_empty_columns(Block(title=report.ablation.title, columns=columns, lines=tuple(lines)))


def _results_by_metric(report: Report) -> Block:
    metrics = report.ablation.metrics
    columns = (
        "",
        "",
        "trainable M",
        "total M",
        *(f"{report.heading(metric)} %" for metric in metrics),
        "seeds",
        "selected on",
    )
    lines = [Line(cells=("Published methods",), kind="section")] if report.published else []
    for method in report.published:
        values = [printed(method.metrics.get(metric.removeprefix("test/"))) for metric in metrics]
        counts: tuple[str, ...] = (printed(method.trainable_millions), printed(method.total_millions))
        lines.append(Line(cells=(method.title, "paper", *counts, *values, MISSING, MISSING), kind="published"))
    for section, rows in _sections(report):
        if section:
            lines.append(Line(cells=(section,), kind="section"))
        for row in rows:
            paper = row.row.paper
            if paper:
                counts = tuple(printed(paper.get(f"params/{kind}_millions")) for kind in ("trainable", "total"))
                values = [printed(paper.get(metric)) for metric in metrics]
                lines.append(Line(cells=(row.row.title, "paper", *counts, *values, MISSING, MISSING), kind="paper"))
            lines.append(
                Line(
                    cells=(
                        row.row.title,
                        "ours",
                        millions(row.trainable),
                        millions(row.total),
                        *(with_interval(row.estimates.get(metric)) for metric in metrics),
                        _seeds(row),
                        _protocol(row),
                    ),
                    kind="ours" if row.trials else "missing",
                )
            )
    return _without_empty_columns(Block(title=report.ablation.title, columns=columns, lines=tuple(lines)))


def _without_empty_columns(block: Block) -> Block:
    """Remove columns of published values and differences that are empty in every line."""
    rows = [line.cells for line in block.lines if line.kind != "section"]
    optional = [column.endswith("paper") or column == "difference" for column in block.columns]
    kept = [i for i, is_optional in enumerate(optional) if not is_optional or any(row[i] != MISSING for row in rows)]

    def pick(cells: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cells[i] for i in kept)

    lines = (line if line.kind == "section" else replace(line, cells=pick(line.cells)) for line in block.lines)
    return replace(block, columns=pick(block.columns), lines=tuple(lines))


def _comparisons(report: Report) -> Block:
    reference = report.comparisons[0].reference
    lines = []
    for item in report.comparisons:
        difference = with_interval(item.estimate, signed=True)
        title = full_title(report, item.row)
        lines.append(Line(cells=(title, difference, str(item.estimate.num_seeds), item.verdict)))
    name = report.heading(report.headline)
    return Block(
        title=f"Paired with “{full_title(report, reference)}” over shared seeds, {name}",
        columns=("", "difference, points [95 %]", "shared seeds", f"{name} is"),
        lines=tuple(lines),
    )


def full_title(report: Report, row: Row) -> str:
    """The row's title, with its name if another row has the same title (“Audio-only” is in Table 5 twice)."""
    is_unique = sum(other.row.title == row.title for other in report.rows) == 1
    return row.title if is_unique else f"{row.title} ({row.name})"


def _runs(report: Report) -> Block:
    lines = [
        Line(
            cells=(
                row.row.name,
                str(trial.seed),
                percent(trial.metrics.get(report.headline)),
                str(trial.best_epoch),
                trial.fingerprint,
                trial.run_name,
            )
        )
        for row in report.rows
        for trial in row.trials
    ]
    columns = ("row", "seed", f"{report.heading(report.headline)} %", "selected epoch", "fingerprint", "run folder")
    return Block(title="Runs behind the numbers", columns=columns, lines=tuple(lines))


def remarks(report: Report) -> tuple[str, ...]:
    """Remarks below the results: intervals, protocol, data, notes of rows."""
    made = []
    if report.interval_methods:
        methods = " / ".join(report.interval_methods)
        made.append(f"Intervals: 95 %, {methods}. They do not cover another training set or backbone.")
    if "paper" in report.protocols:
        made.append(
            "Selected on “paper”: the checkpoint is chosen by its score on the test split, as published, "
            "so these numbers are optimistic."
        )
    if report.digests:
        made.append(f"Data: sha256 of the shards {', '.join(digest[:12] for digest in report.digests)}.")
    if len(report.digests) > 1:
        made.append(
            "Rows were trained on different shards: compare them with care. Paired differences use equal shards only."
        )
    changed = [text for text in report.ablation.overrides if text.partition("=")[0].strip() not in NOT_IDENTIFYING]
    if changed:
        made.append(f"Settings changed in every row: {', '.join(changed)}.")
    if report.ablation.note:
        made.append(report.ablation.note)
    made += [f"{full_title(report, row.row)}: {row.row.note}" for row in report.rows if row.row.note]
    for row in report.rows:
        for metric, estimate in row.estimates.items():
            if metric.startswith("test-averaged/"):
                name = report.heading(metric)
                made.append(f"{full_title(report, row.row)}, averaged weights: {name} {with_interval(estimate)}.")
    return tuple(made)


def gaps(report: Report) -> tuple[str, ...]:
    """Missing trials, one line per row: ``none: seeds 0, 2 not run; seed 1 failed: The training loss is nan``."""
    made = []
    for row in report.rows:
        seeds: dict[str, list[int]] = {}
        for status in row.missing:
            reason = (
                f": {status.message.splitlines()[-1]}"
                if status.state in ("failed", "refused") and status.message
                else ""
            )
            state = {"waiting": "not run", "stopped": "interrupted"}.get(status.state, status.state)
            seeds.setdefault(state + reason, []).append(status.seed)
        parts = [f"seed{'s' * (len(group) > 1)} {', '.join(map(str, group))} {how}" for how, group in seeds.items()]
        if parts:
            made.append(f"{row.row.name}: {'; '.join(parts)}")
    return tuple(made)


def to_markdown(report: Report, *, pictures: Iterable[tuple[str, str]] = ()) -> str:
    """The report as Markdown with pipe tables.

    Args:
        report: The report.
        pictures: (caption, relative path) of pictures to embed.
    """
    parts = [f"# {report.ablation.title}"]
    tables = blocks(report)
    for index, block in enumerate(tables):
        parts.append(_markdown_table(block) if index == 0 else f"## {block.title}\n\n{_markdown_table(block)}")
        if index == 0:
            if missing := gaps(report):
                advice = f" Run the missing trials with: `{report.fill_command}`" if report.fill_command else ""
                parts.append(f"**Incomplete.**{advice}\n\n" + "\n".join(f"* {line}" for line in missing))
            parts.append("\n".join(f"* {remark}" for remark in remarks(report)))
    parts += [f"![{caption}]({path})" for caption, path in pictures]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(block: Block) -> str:
    width = len(block.columns)

    def row(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [row(block.columns), "|" + "|".join(["---"] + ["--:"] * (width - 1)) + "|"]
    for line in block.lines:
        if line.kind == "section":
            lines.append(row([f"**{line.cells[0]}**", *[""] * (width - 1)]))
        else:
            lines.append(row(line.cells))
    return "\n".join(lines)


_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", MISSING: "--", "“": "``", "”": "''"}


def to_latex(report: Report) -> str:
    """The report as LaTeX (booktabs): one ``table`` of results, one of comparisons, and the remarks as comments."""
    parts = [f"% {remark}" for remark in (*remarks(report), *gaps(report))]
    if report.fill_command:
        parts.append(f"% incomplete; run the missing trials with: {report.fill_command}")
    tables = [block for block in blocks(report) if not block.title.startswith("Runs behind")]
    return "\n".join([*parts, *(_latex_table(block) for block in tables)]) + "\n"


def _latex_table(block: Block) -> str:
    def text(value: str) -> str:
        return "".join(_LATEX.get(character, character) for character in value)

    width = len(block.columns)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{text(block.title)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}", r"\toprule"]
    lines += [" & ".join(text(column) for column in block.columns) + r" \\", r"\midrule"]
    for line in block.lines:
        if line.kind == "section":
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\emph{{{text(line.cells[0])}}}}} \\")
        else:
            lines.append(" & ".join(text(cell) for cell in line.cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


CSV_COLUMNS = (
    "table",
    "row",
    "title",
    "section",
    "metric",
    "published",
    "mean",
    "low",
    "high",
    "difference",
    "num_seeds",
    "interval",
    "trainable",
    "total",
    "published_trainable_millions",
    "published_total_millions",
    "protocol",
    "data_digest",
    "missing_seeds",
)


def to_csv(report: Report) -> str:
    """The report as CSV, one line per row and metric. Metrics are percentages, parameter counts are exact."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)

    def number(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.4f}"

    for row in report.rows:
        paper, digests = row.row.paper, sorted({trial.data_digest for trial in row.trials})
        for metric in dict.fromkeys([*report.ablation.metrics, *row.estimates]):
            estimate = row.estimates.get(metric)
            writer.writerow(
                [
                    report.ablation.name,
                    row.row.name,
                    row.row.title,
                    row.row.section,
                    metric,
                    paper.get(metric, ""),
                    *(number(getattr(estimate, name, None)) for name in ("mean", "low", "high")),
                    number(row.difference(metric)),
                    estimate.num_seeds if estimate else 0,
                    estimate.method if estimate else "",
                    row.trainable if row.trials else "",
                    row.total if row.trials else "",
                    paper.get("params/trainable_millions", ""),
                    paper.get("params/total_millions", ""),
                    "/".join(sorted({trial.protocol for trial in row.trials})),
                    "/".join(digests),
                    " ".join(str(status.seed) for status in row.missing),
                ]
            )
    return stream.getvalue()
