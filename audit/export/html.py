"""A report as one HTML page that a person can read, with nothing fetched from anywhere.

Every text of a record is a stranger's: the template escapes all of it, and the page's own
Content-Security-Policy allows only the one style and the one script whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Final, TextIO

import jinja2
from markupsafe import Markup

from audit.export import charts
from audit.export.visible import make_visible
from audit.report import TITLES, Report

ROWS: Final = 2000  # BUDGET: rows of a section that a page shows; a browser stays quick
_NAMES_OF_SECTIONS: Final = {title: name for name, title in TITLES.items()}


def write_html(report: Report, out: TextIO) -> None:
    """Write the page."""
    style, script = _read_template("report.css"), _read_template("report.js")
    overview = report.overview
    most = max((each.allowed + each.denied for row in overview.cells for each in row), default=0)
    page = _environment().get_template("report_page.html.j2")
    out.writelines(
        page.generate(
            report=report,
            overview=overview,
            answers=charts.day_columns(overview.days),
            refusals=charts.day_columns(overview.days, denied_only=True),
            spots=charts.hour_spots(overview.hours),
            weekdays=charts.WEEKDAYS,
            bars=charts.bar_rows,
            level=lambda cell: charts.level(cell, most),
            most_rows=ROWS,
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            style_hash=_source_hash(style),
            script_hash=_source_hash(script),
        )
    )


def _environment() -> jinja2.Environment:
    """Return the environment of our pages: everything is escaped, texts of records are shown."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": make_visible,
        "short": charts.short_name,
        "brief": charts.short_count,
        "moments": charts.plain_range,
        "section": lambda title: _NAMES_OF_SECTIONS.get(title, ""),
    }
    return environment


def _read_template(name: str) -> str:
    return files("audit.export").joinpath("templates", name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    """Return a style's or script's hash as a Content-Security-Policy names it (SHA-256)."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return base64.b64encode(digest).decode("ascii")
