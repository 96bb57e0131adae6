"""Formats a report as one HTML file that holds its tables and pictures, without scripts or external files."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from jobs.tables.report import Report
from jobs.tables.report_formats import Block, Line, blocks, gaps, remarks

CSS = """
:root { --ink: #22272b; --soft: #6a737b; --line: #dfe3e6; --tint: #f5f7f8; --accent: #2c6e9b; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2.5rem 1.5rem 4rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.1rem; margin: 2.6rem 0 .6rem; }
.facts { color: var(--soft); margin: 0 0 1.6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .36rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: .82rem; border-bottom: 1.5px solid #b9c1c7;
  vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; padding-left: .2rem; }
tr.section td { padding-top: 1.1rem; font-weight: 600; color: var(--accent); white-space: normal; }
tr.published td, tr.paper td { color: var(--soft); }
tr.missing td { color: #9a6b12; }
td.strong { font-weight: 600; }
td.higher { color: #2d7a35; } td.lower { color: #b23b2a; }
.gap { background: #fdf6e6; border: 1px solid #ecd9a6; border-radius: 6px; padding: .9rem 1.1rem; margin: 1.4rem 0; }
.gap p { margin: 0 0 .5rem; } .gap ul { margin: .5rem 0 0; padding-left: 1.2rem; color: #6b5115; }
code { background: var(--tint); border: 1px solid var(--line); border-radius: 4px; padding: .1rem .35rem;
  font-size: .85em; overflow-wrap: anywhere; }
ul.remarks { color: var(--soft); font-size: .9rem; padding-left: 1.2rem; margin-top: 1rem; }
figure { margin: 2.2rem 0 0; } figure svg { max-width: 100%; height: auto; display: block; }
figcaption { font-weight: 600; margin-bottom: .4rem; }
details { margin-top: 2.6rem; } summary { cursor: pointer; font-weight: 600; }
@media print { body { max-width: none; padding: 0; } details { display: none; } }
"""


def to_html(report: Report, pictures: Mapping[str, tuple[str, str]]) -> str:
    """The report as an HTML page.

    Args:
        report: The report.
        pictures: File name -> (caption, SVG text), from ``jobs.tables.report_plots.pictures``.
    """
    results, *others = blocks(report)
    parts = [f"<h1>{escape(report.ablation.title)}</h1>", f'<p class="facts">{_facts(report)}</p>']
    parts.append(_table(results, emphasis="ours [95 %]"))
    if missing := gaps(report):
        lines = "".join(f"<li>{escape(line)}</li>" for line in missing)
        command = f"<p><code>{escape(report.fill_command)}</code></p>" if report.fill_command else ""
        advice = "<b>Incomplete.</b>" + (" Run the missing trials with:" if command else "")
        parts.append(f'<div class="gap"><p>{advice}</p>{command}<ul>{lines}</ul></div>')
    notes = "".join(f"<li>{escape(remark)}</li>" for remark in remarks(report))
    parts.append(f'<ul class="remarks">{notes}</ul>' if notes else "")
    for block in others:
        if block.title.startswith("Runs behind"):
            continue
        parts.append(f"<h2>{escape(block.title)}</h2>{_table(block)}")
    for index, (caption, svg) in enumerate(pictures.values()):
        figure = _own_ids(svg, f"p{index}-")
        parts.append(f"<figure><figcaption>{escape(caption)}</figcaption>{figure}</figure>")
    for block in others:
        if block.title.startswith("Runs behind"):
            parts.append(f"<details><summary>{escape(block.title)}</summary>{_table(block)}</details>")
    title = escape(report.ablation.title)
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{CSS}</style>"
    )
    body = "\n".join(part for part in parts if part)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _facts(report: Report) -> str:
    done = sum(len(row.trials) for row in report.rows)
    wanted = done + sum(len(row.missing) for row in report.rows)
    facts = [f"{done} of {wanted} runs" if done < wanted else f"{done} runs"]
    if report.protocols:
        facts.append(f"checkpoint selected on {' / '.join(report.protocols)}")
    if report.digests:
        facts.append(f"data {', '.join(digest[:12] for digest in report.digests)}")
    return " · ".join(escape(fact) for fact in facts)


def _table(block: Block, *, emphasis: str = "") -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in block.columns)
    body = "\n".join(_line(block, line, emphasis) for line in block.lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _line(block: Block, line: Line, emphasis: str) -> str:
    if line.kind == "section":
        return f'<tr class="section"><td colspan="{len(block.columns)}">{escape(line.cells[0])}</td></tr>'
    cells = []
    for column, cell in zip(block.columns, line.cells, strict=True):
        kind = "strong" if emphasis and column.endswith(emphasis) else cell if cell in ("higher", "lower") else ""
        cells.append(f'<td class="{kind}">{escape(cell)}</td>' if kind else f"<td>{escape(cell)}</td>")
    return f'<tr class="{line.kind}">{"".join(cells)}</tr>'


def _own_ids(svg: str, prefix: str) -> str:
    """Prefix the ids in an SVG: the pictures of one page must not share the ids of clip paths and markers."""
    return (
        svg.replace('id="', f'id="{prefix}').replace("url(#", f"url(#{prefix}").replace('href="#', f'href="#{prefix}')
    )
