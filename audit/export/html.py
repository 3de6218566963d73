"""Records as one HTML page that a person can read, with nothing fetched from anywhere.

Every text of a record is a stranger's: the template escapes all of it, and the
page's own Content-Security-Policy allows only the one style and the one script
whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, TextIO

import jinja2
from markupsafe import Markup

from audit.export.columns import (
    name_destination,
    name_peer,
    name_rule,
    name_shadow,
    name_subject,
)
from audit.export.summary import summarize
from audit.time_range import TimeRange
from audit.verify import VerifyReport


def export(
    records: Iterable[Mapping[str, Any]],
    out: TextIO,
    *,
    title: str,
    range: TimeRange,
    verification: VerifyReport | None,
) -> int:
    """Write the page and return how many records it speaks of.

    The totals count every record, the table shows the newest `summary.MAX_ROWS`.
    """
    style, script = read_template("report.css"), read_template("report.js")
    summary = summarize(records)
    page = page_environment().get_template("report.html.j2")
    pieces = page.generate(
        title=title,
        range=str(range),
        summary=summary,
        verification=verification,
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        style_hash=source_hash(style),
        script_hash=source_hash(script),
    )
    out.writelines(pieces)
    return summary.total


def page_environment() -> jinja2.Environment:
    """Return the environment of our pages: everything is escaped, texts of records are shown."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read_template),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "peer": name_peer,
        "subject": name_subject,
        "destination": name_destination,
        "rule": name_rule,
        "shadow": name_shadow,
        "visible": make_visible,
    }
    return environment


def make_visible(value: object) -> str:
    """Return a text whose control and direction signs can be seen and do nothing."""
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else f"\\u{{{ord(letter):x}}}" for letter in text)


def read_template(name: str) -> str:
    """Return one of the package's own files."""
    return files("audit.export").joinpath("templates", name).read_text(encoding="utf-8")


def source_hash(text: str) -> str:
    """Return a style's or script's hash as a Content-Security-Policy names it (SHA-256)."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return base64.b64encode(digest).decode("ascii")
