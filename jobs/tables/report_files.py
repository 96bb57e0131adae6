"""Renders a report in a chosen format and writes the files of a report."""

from __future__ import annotations

import json
from collections.abc import Callable

from jobs.tables.report import Report, as_json
from jobs.tables.report_formats import to_csv, to_latex, to_markdown
from pipelines.storage import Storage
from stgcma.errors import ConfigError


def _html(report: Report) -> str:
    from jobs.tables.report_html import to_html
    from jobs.tables.report_plots import pictures

    return to_html(report, pictures(report))


FORMATS: dict[str, tuple[str, Callable[[Report], str]]] = {
    "md": ("report.md", to_markdown),
    "latex": ("report.tex", to_latex),
    "csv": ("report.csv", to_csv),
    "html": ("report.html", _html),
    "json": ("report.json", lambda report: json.dumps(as_json(report), indent=2) + "\n"),
}
"""Format -> (file name, function)."""


def render(report: Report, format_name: str) -> str:
    """The report as text in one of ``FORMATS``.

    Raises:
        ConfigError: If the format is unknown.
    """
    if format_name not in FORMATS:
        raise ConfigError(f"--format needs one of {', '.join(FORMATS)}, got {format_name!r}.")
    return FORMATS[format_name][1](report)


def write_reports(report: Report, output: str, formats: tuple[str, ...] = ("md", "html", "csv")) -> list[str]:
    """Write a report in several formats, and its pictures as SVG files if Markdown is one of them.

    Args:
        report: The report.
        output: Folder to write into, a directory or an ``s3://`` URI.
        formats: Names in ``FORMATS``.

    Returns:
        The paths or URIs of the files.

    Raises:
        ConfigError: If a format is unknown.
    """
    from jobs.tables.report_html import to_html
    from jobs.tables.report_plots import pictures

    drawn = pictures(report) if {"md", "html"} & set(formats) else {}
    texts = {}
    for name in formats:
        if name == "md":
            texts["report.md"] = to_markdown(report, pictures=[(caption, file) for file, (caption, _) in drawn.items()])
            texts |= {file: svg for file, (_, svg) in drawn.items()}
        elif name == "html":
            texts["report.html"] = to_html(report, drawn)
        else:
            text = render(report, name)
            texts[FORMATS[name][0]] = text
    storage = Storage(output)
    for file, text in texts.items():
        storage.write_bytes(file, text.encode())
    return [f"{output.rstrip('/')}/{file}" for file in texts]
